"""Bar: int8 against fp32 files of the same networks, in three batch sizes, and the mixed file against both.

    python benchmarks/compression_int8.py --data FOLDER_OR_ARCHIVE [--out FOLDER]

Where int8 is not faster, the tool has to say so and to keep fp32 for those layers; the mixed file must never be
slower than the better uniform one, but for noise. The networks are those of _cifar.py, and a ResNet-20 three times as
wide, untrained, whose layers are large enough for integers to pay.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import Any

import _cifar
import numpy as np
from _results import write
from torch import nn

from nasflow import hardware
from nasflow.compression import mixed, quantize
from nasflow.data import Data
from nasflow.export import to_onnx
from nasflow.training import seeded

BATCHES = (1, 8, 32)
CALIBRATION = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="local-cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/compression-int8"))
    given = parser.parse_args()
    images = _cifar.data(given.data, cache=given.out.parent / "cifar")
    with seeded(0):
        wide = _cifar.resnet20(width=48)
    networks: dict[str, nn.Module] = {
        **{name: _cifar.base(name, images, given.out.parent / "cifar") for name in _cifar.NETWORKS},
        "resnet20, 3 times as wide": wide,
    }
    found = [
        compared(
            name, network, images, given.device, batch, given.out / f"{name.partition(',')[0]}-{len(name)}"
        )
        for name, network in networks.items()
        for batch in BATCHES
    ]
    write(
        "compression-int8",
        goal="time of the mixed file over that of the better uniform one, at most 1 but for noise, in every case",
        value=max(one["mixed_over_best"] for one in found),
        holds=all(one["mixed_verdict"] != "slower" and one["floats_where_slower"] for one in found),
        cases=found,
    )


def compared(
    name: str, network: nn.Module, images: Data, device: str, batch: int, folder: Path
) -> dict[str, Any]:
    """One network at one batch size: all files measured in turns, and what was chosen for each segment."""
    on = hardware.connect(hardware.load_profile(device).model_copy(update={"batch": batch}), energy=False)
    file = folder / "fp32.onnx"
    to_onnx(network, images.shape, file)
    flags: Collection[str] = on.latency(file).environment.get("flags") or ()
    reduced = quantize.needs_reduced_range(flags)
    x = images.preprocess(images.train.x[np.arange(CALIBRATION)])

    def quantise(keep: Collection[str], out: Path) -> None:
        quantize.int8(file, x, out, reduce_range=reduced, keep=keep)

    chosen = mixed.fastest(file, quantise, on, folder / f"batch-{batch}")
    uniform = on.compare(file, chosen.integers)
    best = chosen.integers if uniform.verdict == "faster" else file
    last = on.compare(best, chosen.file) if chosen.file != best else None
    said = {
        "network": name,
        "batch": batch,
        "fp32_ms": uniform.a.p50_ms,
        "int8_ms": uniform.b.p50_ms,
        "int8_over_fp32": uniform.ratio,
        "int8_verdict": uniform.verdict,
        "mixed_over_best": last.ratio if last else 1.0,
        "mixed_ci": list(last.ci) if last else [1.0, 1.0],
        "mixed_verdict": last.verdict if last else "the same file",
        "said": chosen.words,
        "precisions": list(chosen.precisions),
        # Where a uniform int8 file is slower, some layers at least have to be left in floats.
        "floats_where_slower": uniform.verdict != "slower" or "fp32" in chosen.precisions,
    }
    print(
        f"{name}, batch {batch}: int8 {uniform.ratio:.3f} of fp32 ({uniform.verdict}); {chosen.words}",
        flush=True,
    )
    return said


if __name__ == "__main__":
    main()
