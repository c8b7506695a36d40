"""Small networks as files, alike in kind and unlike in size."""

from __future__ import annotations

from pathlib import Path

from nasflow.hardware import probes


def networks(folder: Path) -> list[Path]:
    """Chains of convolutions, depthwise ones and activations, of different lengths, widths and activations."""
    files = []
    for number, (length, width, activation) in enumerate(
        [(1, 16, "Relu"), (2, 24, "Relu"), (3, 16, "HardSwish"), (2, 40, "HardSwish"), (4, 32, "Relu")]
    ):
        pairs = [f"Conv+{activation}+DepthwiseConv"] * length
        sizes = {"height": 14.0, "channels_in": float(width)}
        files.append(folder / f"network{number}.onnx")
        files[-1].write_bytes(probes.probe("+".join(pairs), sizes))
    return files
