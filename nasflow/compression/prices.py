"""What each layer of a network takes on a device, so that a search can add up milliseconds for any policy: each layer
is measured alone, once for each of its sizes that is asked for.

A layer alone takes longer than within a network, where the runtime joins it with its neighbours and calls it without a
network around it; so what a single cheapest layer takes is taken off, and sums are compared with sums only. Whatever a
search keeps by such a table is measured as a whole file before it is accepted.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from nasflow.compression.layers import Layer
from nasflow.export import to_onnx
from nasflow.files import read_json, write_json
from nasflow.hardware import Device

LEAST_MS = 1e-4  # so that no layer is for nothing


@dataclass(frozen=True)
class LayerTable:
    """Milliseconds of a layer on `device`, as amc takes its `cost`; what was measured is kept in `file`."""

    device: Device
    file: Path
    _known: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, layer: Layer) -> float:
        return max(self._time(layer) - self._empty(), LEAST_MS)

    def _empty(self) -> float:
        """What calling a network takes that does next to nothing."""
        return self._look_up("nothing", nn.Conv2d(1, 1, 1), (1, 1, 1))

    def _time(self, layer: Layer) -> float:
        if layer.kind == "linear":
            shape: tuple[int, int, int] = (1, layer.positions, layer.inputs)
            return self._look_up(
                f"linear {layer.inputs} {layer.outputs} {layer.positions}",
                nn.Linear(layer.inputs, layer.outputs, bias=layer.bias),
                shape,
            )
        rows, columns = layer.kernel
        convolution = nn.Conv2d(
            layer.inputs,
            layer.outputs,
            layer.kernel,
            layer.stride,
            (rows // 2, columns // 2),
            groups=layer.slices,
            bias=layer.bias,
        )
        shape = (layer.inputs, *layer.given)
        key = f"conv {layer.inputs} {layer.outputs} {rows}x{columns} s{layer.stride} g{layer.slices} {layer.given}"
        return self._look_up(key, convolution, shape)

    def _look_up(self, key: str, module: nn.Module, shape: tuple[int, int, int]) -> float:
        if not self._known and self.file.exists():
            self._known.update(read_json(self.file))
        if key not in self._known:
            with tempfile.TemporaryDirectory(prefix="nasflow-layer-") as folder:
                file = Path(folder) / "layer.onnx"
                with torch.random.fork_rng(devices=[]):
                    to_onnx(module, shape, file)
                self._known[key] = self.device.latency(file).p50_ms
            write_json(self.file, self._known)
        return self._known[key]
