"""A network trained with 8-bit rounding as a file that ONNX Runtime computes in integers, with the steps it learned.

The file is in the QDQ form: int8 weights with a scale for each output channel, and the scales of tensors between
layers. What the network rounds keeps its scale; where a runtime rounds and the network does not, at sums and at the
output, the calibration data tell the range.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from nasflow.compression import quantize
from nasflow.compression.calibrate import Grid
from nasflow.compression.equalize import fold
from nasflow.compression.fakequant import Rounded, channel_axis, plain, roundings
from nasflow.compression.layers import layers
from nasflow.compression.quantize import QuantizeError, Scale
from nasflow.export import to_onnx

PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
MOVES = ("Flatten", "Identity", "MaxPool", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
LEVELS = 256  # of the inputs of an integer layer; no processor cuts off at fewer


def export(model: nn.Module, shape: Sequence[int], calibration: NDArray[np.float32], out: Path) -> Path:
    """Write a network made by fakequant.simulate, trained or not, to `out`, and return that.

    Layers that round their inputs to 8 bits and their weights to at most that run in integers, those that round
    nothing in floats. With weights in 7 bits no processor overflows (quantize.needs_reduced_range). Batch
    normalisations are folded into the whole weights' scales. `shape` and `calibration` are those of the inputs,
    (channels, height, width) and (n, *shape), preprocessed.

    Raises:
        QuantizeError: a layer rounds in a way that no runtime computes, nothing is rounded at all, or a layer is not
            found again in the exported file.
    """
    rounding = roundings(model)
    if not rounding:
        raise QuantizeError("expected a network made by fakequant.simulate, got one that rounds nothing")
    for name, how in rounding.items():
        _check(name, how)
    before = plain(model).eval()
    network = fold(before, shape)
    with tempfile.TemporaryDirectory(prefix="nasflow-qdq-") as folder:
        file = Path(folder) / "fp32.onnx"
        to_onnx(network, shape, file)
        ready = quantize.prepared(file)
        found = _nodes(ready, network, [layer.name for layer in layers(network, shape)])
        scales: dict[str, Scale] = {}
        for name, how in rounding.items():
            if name not in found:
                raise QuantizeError(
                    f"{name}: expected the layer in the exported file with its weights, found none such"
                )
            assert how.steps is not None
            first, turned = found[name][0]
            axis = channel_axis(network.get_submodule(name))
            steps = _folded(how.steps, before.get_submodule(name), network.get_submodule(name), axis)
            scales[first.input[1]] = Scale(steps, axis=1 - axis if turned else axis)
            for node, _ in found[name]:
                for tensor in _same_values(ready, node.input[0]):
                    scale = _of_inputs(how)
                    if scales.setdefault(tensor, scale) != scale:
                        raise QuantizeError(
                            f"{name}: another layer reads the same tensor, but rounds it with another step"
                        )
        keep = [node.name for name, nodes in found.items() if name not in rounding for node, _ in nodes]
        return quantize.int8(file, calibration, out, keep=keep, scales=scales)


def _check(name: str, how: Rounded) -> None:
    inputs, weights = how.input_grid, how.weight_grid
    if inputs is None or inputs.high - inputs.low + 1 != LEVELS:
        raise QuantizeError(f"{name}: expected inputs in 8 bits, as processors compute, got {_bits(inputs)}")
    if weights is None:
        raise QuantizeError(f"{name}: expected weights in 2 to 8 bits beside its inputs in 8, got floats")


def _of_inputs(how: Rounded) -> Scale:
    assert how.step is not None
    assert how.input_grid is not None
    return Scale((float(how.step),), -how.input_grid.low)


def _same_values(ready: onnx.ModelProto, tensor: str) -> Iterator[str]:
    """A tensor and those that it was only moved from: a file rounds them all with one scale, that of the first."""
    makers = {name: node for node in ready.graph.node for name in node.output}
    yield tensor
    while tensor in makers and makers[tensor].op_type in MOVES:
        tensor = makers[tensor].input[0]
        yield tensor


def _bits(grid: Grid | None) -> str:
    return "floats" if grid is None else f"{math.log2(grid.high - grid.low + 1):.0f} bits"


def _nodes(
    ready: onnx.ModelProto, network: nn.Module, names: Sequence[str]
) -> dict[str, list[tuple[onnx.NodeProto, bool]]]:
    """The nodes that compute each layer, and whether they have its weights turned around: a layer's node is the first
    of those left that has its weights."""
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in ready.graph.initializer}
    free = [node for node in ready.graph.node if node.op_type in PRODUCTS and node.input[1] in constants]
    found: dict[str, list[tuple[onnx.NodeProto, bool]]] = {}
    for name in names:
        weight = network.get_submodule(name).get_parameter("weight").detach().cpu().numpy()
        forms = [(weight, False), (weight.T, True)] if weight.ndim == 2 else [(weight, False)]
        first = next(
            (
                (node.input[1], turned)
                for node in free
                for form, turned in forms
                if np.array_equal(constants[node.input[1]], form)
            ),
            None,
        )
        if first is not None:  # all of its runs
            found[name] = [(node, first[1]) for node in free if node.input[1] == first[0]]
            free = [node for node in free if node.input[1] != first[0]]
    return found


def _folded(steps: Tensor, before: nn.Module, after: nn.Module, axis: int) -> tuple[float, ...]:
    """The steps of a layer's weights after a normalisation was folded into them: multiplied as they were."""
    was, now = (
        layer.get_parameter("weight").detach().abs().transpose(0, axis).flatten(1).amax(1).double()
        for layer in (before, after)
    )
    alive = (was > 0) & (now > 0)
    new = steps.double() * torch.where(alive, now / was.clamp_min(1e-300), 1.0)
    usual = float(new[alive].median()) if alive.any() else 1.0
    return tuple(torch.where(alive, new, usual).tolist())  # of channels that are all zero any step will do
