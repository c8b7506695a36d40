"""`nasflow compress my_model.py:model --data DATA --target latency_ms=0.6x@local-cpu`: a network of the user's own
through the same chain as everything else, without a search, and what came of it as one file for programs."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasflow import experiment as experiments
from nasflow import yamlfile
from nasflow.errors import NasflowError
from nasflow.experiment import Experiment
from nasflow.files import write_json
from nasflow.report import facts, words
from nasflow.target import Target

AGREEMENT = 0.9  # of an int8 file with the network that it is of


def experiment(
    model: str, data: str, targets: Sequence[str], weights: Path | None, overrides: Sequence[str]
) -> Experiment:
    """The experiment that compresses one network.

    `data` is a data set's name, a folder of class folders (or an archive of one) or of CIFAR batches, an .npz file, or
    an experiment file whose data section is taken. The devices are those that the targets name.
    """
    try:
        named = [Target.parse(text).metric.partition("@")[2] for text in targets]
    except ValueError as error:
        raise NasflowError(f"--target: {error}") from error
    if weights is not None and not weights.is_file():
        raise NasflowError(f"--weights: expected a state dict saved by torch.save, got no file at {weights}")
    raw: dict[str, Any] = {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).name.replace(".py", "")).strip("-._") or "model",
        "data": _data(data),
        "model": {"name": model, **({"weights": str(weights)} if weights else {})},
        "devices": list(dict.fromkeys(device for device in named if device)) or ["local-cpu"],
        "compress": {"target": list(targets)},
        # How many answers integers change matters less than how many are wrong, which is judged itself.
        "deploy": {
            "ship": "best error" if targets else "fastest within 1 points",
            "int8_agreement": AGREEMENT,
        },
    }
    for text in overrides:
        yamlfile.override(raw, text)
    return experiments.from_mapping(raw, f"nasflow compress {model}", overrides)


def _data(text: str) -> Any:
    path = Path(text)
    if path.suffix in (".yaml", ".yml"):
        return yamlfile.read(experiments.find(text)).get("data")
    if path.is_dir():
        batches = [*path.rglob("data_batch_1*"), *path.rglob("cifar*")]
        return {"name": "cifar" if batches else "folder", "path": text}
    if path.is_file():
        return {"name": "npz" if path.suffix == ".npz" else "folder", "path": text}
    return {"name": text}


def outcome(summary: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """What compression came to, for programs: the network before and after, every file, every step refused and why."""
    files = {one["name"]: one for one in summary["deployed"]}
    after = next((one for one in summary["deployed"] if one["shipped"]), None)
    before = files.get(_original(summary, files))
    said = facts.plain(summary)
    return {
        "model": summary["experiment"]["model"]["name"],
        "targets": list(summary["experiment"]["compress"]["target"]),
        "met": summary["status"] == "done",
        "message": words.answer(said),
        "change": words.change(_metrics(before), _metrics(after)) if before and after else "",
        "before": _file(before),
        "after": _file(after),
        "variants": [_file(one) for one in files.values()],
        "steps": [step for step in summary["compression"] if step["accepted"]],
        "refused": [step for step in summary["compression"] if not step["accepted"]],
        "folder": str(folder),
    }


def write(summary: Mapping[str, Any], folder: Path, out: Path) -> None:
    """Write the outcome to `out`, and every exported file beside it under its network's name."""
    found = outcome(summary, folder)
    for one in [found["before"], found["after"], *found["variants"]]:
        if one is not None:
            place = out.with_name(f"{out.stem}-{one['name']}.onnx")
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists() or place.read_bytes() != (folder / one["file"]).read_bytes():
                shutil.copyfile(folder / one["file"], place)
            one["file"] = place.name
    write_json(out, found)


def _original(summary: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    """The network as it was brought; what was made of it is called after it."""
    made = {step["name"]: step["parent"] for step in summary["compression"]}
    return next((name for name in files if name not in made), "")


def _file(one: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if one is None:
        return None
    metrics = _metrics(one)
    return {
        "name": one["name"],
        "file": one["file"],
        "error": one["validation_error"],
        "test_error": one["test_error"],
        "latency_ms": {device: cost["p50_ms"] for device, cost in one["latency"].items()},
        "size_kb": one["size_kb"],
        "flops": metrics["flops"],
        "params": metrics["params"],
        "precision": _precision(one["network"]),
        "policy": one["network"]["policy"],
        "nodes_in_fp32": list(one["network"].get("floats", ())),
        "limits": one["limits"],
    }


def _precision(network: Mapping[str, Any]) -> str:
    if not network["int8"]:
        return "fp32"
    return "mixed" if network.get("floats") else "int8"


def _metrics(one: Mapping[str, Any]) -> dict[str, float]:
    return {**one["metrics"], "error": one["validation_error"]}
