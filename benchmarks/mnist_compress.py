"""Bar of experiments/mnist.yaml: a compressed network at most 0.7 times as slow as its parent on the front.

    python benchmarks/mnist_compress.py --data FOLDER_OR_ARCHIVE [--format folder] [--out FOLDER]

At no more than one point more validation error, both trained in full. Beside it, trained equally long: the parent
made uniformly narrower (every group of channels at the same share, all blocks kept).
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from _results import write

from nasflow import stages, training
from nasflow.compression import prune
from nasflow.experiment import load
from nasflow.export import to_onnx
from nasflow.network import Network, Pruning
from nasflow.stages.compress import network_of, round_to
from nasflow.stages.search import recipe

MOST_TIME, MOST_ERROR = 0.7, 0.01
SHARES = (0.75, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--format", default="folder")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    folder = given.out or Path(tempfile.mkdtemp()) / "mnist"
    experiment = load("mnist", [f"data.path={given.data}", f"data.name={given.format}"])
    with stages.open_run(experiment, folder, notify=lambda *said: print(*said, flush=True)) as run:
        summary = stages.pipeline(run)
        front = {f"trial-{member['trial']}" for member in summary["front"]}
        deployed = {one["name"]: one for one in summary["deployed"]}
        pairs = [
            compared(run, deployed[parent], child)
            for name, child in deployed.items()
            if (parent := parent_of(name)) != name and parent in front and parent in deployed
        ]
        narrower = [uniform(run, share) for share in SHARES]
    good = [pair for pair in pairs if pair["error_points"] <= 100 * MOST_ERROR]
    best = min(good, key=lambda pair: float(pair["time_ratio"]), default=None)
    write(
        "main_job-mnist_compress",
        goal=f"compressed p50 at most {MOST_TIME} of its parent's at no more than 1 point more validation error",
        value=best["time_ratio"] if best else None,
        holds=best is not None and best["time_ratio"] <= MOST_TIME,
        compressed=best,
        all=pairs,
        uniformly_narrower=narrower,
    )


def parent_of(name: str) -> str:
    """The network of the front that a deployed one was made from."""
    return "-".join(name.split("-")[:2])


def compared(run: stages.Run, parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """Two deployed files measured in turns, and their validation errors."""
    found = run.devices[0].compare(run.folder / parent["file"], run.folder / child["file"])
    return {
        "parent": parent["name"],
        "child": child["name"],
        "time_ratio": found.ratio,
        "ci": list(found.ci),
        "p50_ms": [found.a.p50_ms, found.b.p50_ms],
        "validation_error": [parent["validation_error"], child["validation_error"]],
        "error_points": 100 * (child["validation_error"] - parent["validation_error"]),
    }


def uniform(run: stages.Run, share: float) -> dict[str, Any]:
    """The compressed parent with the same share of every group of channels, trained like a compressed network."""
    from nasflow.stages.compress import picked

    settings = run.experiment.compress
    trial = picked(run, run.study())[0]
    start = network_of(run, trial)
    pruning = Pruning(run.architecture, start, round_to(run), (1.0, *SHARES))
    policy = prune.uniform(pruning.space(), share)
    model = pruning.build(policy)
    parent = next(r for r in run.result("retrain")["networks"] if r["name"] == start.name)
    teacher = Network.from_dict(parent["network"], run.folder).build(run.architecture)
    spent = replace(recipe(run, "retrain"), epochs=settings.epochs + run.experiment.retrain.epochs)
    history = training.train(model, run.data, spent, seed=run.experiment.seed, teacher=teacher)
    file = run.folder / "benchmark" / f"uniform-{share:g}.onnx"
    to_onnx(model, run.architecture.shape, file)
    whole = run.folder / "models" / start.name / "model.onnx"
    found = run.devices[0].compare(whole, file)
    return {
        "share": share,
        "time_ratio": found.ratio,
        "p50_ms": [found.a.p50_ms, found.b.p50_ms],
        "validation_error": history[-1].error,
    }


if __name__ == "__main__":
    main()
