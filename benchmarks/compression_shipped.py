"""Bar: what `nasflow compress` ships of a ResNet-20 and a MobileNetV2, pruned and in int8, at half the latency.

    python benchmarks/compression_shipped.py --data FOLDER_OR_ARCHIVE [--target 0.5] [--networks NAME ...]

The p50 of the shipped file at most half of the original's, measured side by side, at no more than one point more
validation error. The networks are those of _cifar.py, trained before.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import _cifar
from _results import write

from nasflow import cli_compress, stages

MOST_ERROR = 0.01
SETTINGS = (
    f"data.resize={_cifar.PIXELS}",
    f"data.train_limit={_cifar.IMAGES}",
    "data.augment=[flip, crop]",
    "compress.trials=12",
    "compress.epochs=4",
    "compress.keep=[0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]",
    "compress.max_error_increase=0.05",  # after short fine-tuning; the full one comes later
    "retrain.epochs=20",
    "search.recipe={batch_size: 64}",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--target", type=float, default=0.5)
    parser.add_argument("--networks", nargs="+", default=list(_cifar.NETWORKS), choices=list(_cifar.NETWORKS))
    parser.add_argument("--out", type=Path, default=Path("runs/compression-shipped"))
    given = parser.parse_args()
    images = _cifar.data(given.data, cache=given.out.parent / "cifar")
    found = [shipped(name, images, given) for name in given.networks]
    good = [one for one in found if one["error_points"] <= 100 * MOST_ERROR]
    worst = max((one["latency_ratio"] for one in good), default=None) if len(good) == len(found) else None
    write(
        "compression-shipped" if given.target == 0.5 else f"compression-shipped-{given.target:g}",
        goal=f"p50 of what ships at most {given.target:g} of the original's, at no more than 1 point more error",
        value=worst,
        holds=worst is not None and worst <= given.target,
        networks=found,
    )


def shipped(name: str, images: Any, given: argparse.Namespace) -> dict[str, Any]:
    """One network through the command's own steps; both files measured in turns once more at the end."""
    weights = given.out.parent / "cifar" / f"{name}.pt"
    _cifar.base(name, images, weights.parent)
    model = f"{Path(__file__).parent / '_cifar.py'}:{name}"
    target = f"latency_ms={given.target:g}x@local-cpu"
    wanted = cli_compress.experiment(model, str(given.data), [target], weights, SETTINGS)
    folder = given.out / f"{name}-{given.target:g}"
    with stages.open_run(wanted, folder, notify=lambda *said: print(*said, flush=True)) as run:
        summary = stages.pipeline(run)
        told = cli_compress.outcome(summary, folder)
        cli_compress.write(summary, folder, given.out / f"{name}-{given.target:g}.json")
        before, after = told["before"], told["after"]
        compared = run.devices[0].compare(folder / before["file"], folder / after["file"])
    return {
        "network": name,
        "shipped": after["name"],
        "latency_ratio": compared.ratio,
        "ci": list(compared.ci),
        "p50_ms": [compared.a.p50_ms, compared.b.p50_ms],
        "error_points": 100 * (after["error"] - before["error"]),
        "test_error": [before["test_error"], after["test_error"]],
        "change": told["change"],
        "met": told["met"],
        "refused": [{"name": step["name"], "reason": step["reason"]} for step in told["refused"]],
    }


if __name__ == "__main__":
    main()
