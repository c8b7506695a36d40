"""summary.json: everything a run found out, in one file for machines, the report and `nasflow show`.

Rebuilt from the study and the stages' results whenever it is asked for; nothing is kept only here.
"""

from __future__ import annotations

import platform
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

import nasflow
from nasflow import pareto
from nasflow.errors import NasflowError
from nasflow.evaluators.accuracy import RESULT
from nasflow.files import read_json, write_json
from nasflow.stages import breakdown, finalists
from nasflow.stages.run import STAGES, TRAINING_MEMORY, Run
from nasflow.study import Metrics, Study


def summarise(run: Run) -> dict[str, Any]:
    """Write summary.json and return what it says."""
    found = {stage: run.done(stage) for stage in STAGES}
    failure = _failure(run.folder)
    stages = {}
    for stage in STAGES:
        result = found[stage]
        if result is not None:
            stages[stage] = {"status": "done", "seconds": result["seconds"], "message": result["message"]}
        elif failure is not None and failure["stage"] == stage:
            stages[stage] = {"status": "failed", "seconds": None, "message": failure["message"]}
        else:
            stages[stage] = {"status": "pending", "seconds": None, "message": ""}
    compress, retrain, deploy = (found[stage] or {} for stage in ("compress", "retrain", "deploy"))
    summary = {
        "nasflow": nasflow.__version__,
        "run": run.experiment.name,
        "folder": str(run.folder),
        "status": _status(stages, failure, deploy),
        "message": failure["message"] if failure else deploy.get("message", ""),
        "experiment": run.experiment.model_dump(mode="json"),
        "data": found["define"]["data"] if found["define"] else {},
        "space": found["define"]["space"] if found["define"] else {},
        "objectives": [
            {"metric": o.metric, "goal": o.goal, "limit": o.limit, "optimise": o.optimise}
            for o in run.objectives
            if o.metric != TRAINING_MEMORY
        ],
        "stages": stages,
        **_search(run, failure is not None, deploy.get("breakdown", {})),
        "compression": compress.get("steps", []),
        "retrained": [_retrained(run.folder, result) for result in retrain.get("networks", [])],
        "choice": deploy.get("choice"),
        "deployed": deploy.get("deployed", []),
        "time": deploy.get("time", {}),
        "report": "report.html",
        "seconds": sum(stage["seconds"] or 0.0 for stage in stages.values()),
        "environment": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "processor": platform.processor() or platform.machine(),
            "cores": psutil.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        },
    }
    write_json(run.folder / "summary.json", summary)
    return summary


def _status(stages: dict[str, Any], failure: dict[str, Any] | None, deploy: dict[str, Any]) -> str:
    if failure is not None:
        return "infeasible" if failure["infeasible"] else "failed"
    unfinished = any(stage["status"] != "done" for name, stage in stages.items() if name != "report")
    if unfinished:
        return "running"
    return "done" if deploy["choice"]["limits_kept"] else "infeasible"


def _failure(folder: Path) -> dict[str, Any] | None:
    file = folder / "failure.json"
    return read_json(file) if file.exists() else None


def _search(run: Run, stopped: bool, shipped: dict[str, Any]) -> dict[str, Any]:
    if not (run.folder / "study.journal").exists():
        return _no_search()
    try:
        study = finalists.found(run)
        return {**_found(study), "latency": breakdown.told(run, study, shipped)}
    except NasflowError:
        if stopped:  # perhaps by this very error: what it says is in the message
            return _no_search()
        raise


def _found(study: Study) -> dict[str, Any]:
    front = study.front
    numbers = {trial.number for trial in front}
    knee = front[pareto.knee(study.losses(front))].number if front else None
    done = [trial for trial in study.trials if trial.state == "done" and trial.fidelity >= 1.0]
    curve, reference = pareto.hypervolume_curve(study.losses(done)) if done else ([], [])
    optimised = [o for o in study.objectives if o.optimise]
    return {
        "trials": {
            **study.counts,
            "failures": Counter(t.error or "" for t in study.trials if t.state == "failed"),
        },
        "points": [
            {
                "trial": trial.number,
                "state": trial.state,
                "point": trial.point,
                "fidelity": trial.fidelity,
                "metrics": _shown(trial.metrics),
                "on_front": trial.number in numbers,
                "error": trial.error,
                "seconds": trial.seconds,
            }
            for trial in study.trials
            if trial.metrics
        ],
        "front": [
            {
                "trial": trial.number,
                "point": trial.point,
                "metrics": _shown(trial.metrics),
                "knee": trial.number == knee,
            }
            for trial in sorted(front, key=lambda trial: trial.metrics["error"])
        ],
        "hypervolume": {
            "reference": {
                o.metric: loss if o.goal == "min" else -loss
                for o, loss in zip(optimised, reference, strict=False)
            },
            "curve": curve,
        },
    }


def _no_search() -> dict[str, Any]:
    nothing: dict[str, Any] = {"trials": {}, "points": [], "front": [], "latency": {}}
    return {**nothing, "hypervolume": {"reference": {}, "curve": []}}


def _shown(metrics: Metrics) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name != TRAINING_MEMORY}


def _retrained(folder: Path, result: dict[str, Any]) -> dict[str, Any]:
    told = folder / result["folder"] / RESULT  # not there for a network that came with its weights
    epochs = read_json(told)["epochs"][0] if told.exists() else []
    return {
        "name": result["name"],
        "error": result["error"],
        "errors": result["errors"],
        "epochs": len(epochs),
        "curve": [[epoch["number"], epoch["train_loss"], epoch["error"]] for epoch in epochs],
    }
