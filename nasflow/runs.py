"""Run folders seen from outside: which there are, what they found, whether they are finished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nasflow.errors import NasflowError
from nasflow.experiment import Experiment
from nasflow.files import read_json
from nasflow.names import nearest

RUNS = Path("runs")


class NoRun(NasflowError):
    """What was named is no folder of a run."""


def find(run: str) -> Path:
    """The folder of a run, named by its path or by its name under runs/. Raises NoRun."""
    for folder in (Path(run), RUNS / run):
        if (folder / "summary.json").is_file():
            return folder
    known = [str(file.parent) for file in RUNS.glob("*/summary.json")]
    raise NoRun(f"{run}: expected the folder of a run, with summary.json in it: {nearest(run, known)}")


def summary(folder: Path) -> dict[str, Any]:
    """What a run found so far."""
    found = read_json(folder / "summary.json")
    if not isinstance(found, dict):
        raise NoRun(f"{folder / 'summary.json'}: expected the summary of a run, got a {type(found).__name__}")
    return found


def finished(experiment: Experiment, folder: Path) -> dict[str, Any] | None:
    """The summary of this very experiment if `folder` holds it done, with all its files in place."""
    try:
        found = json.loads((folder / "summary.json").read_text())
        files = [folder / deployed["file"] for deployed in found["deployed"]]
        same = found["experiment"] == experiment.model_dump(mode="json")
        done = found["status"] == "done"
    except (OSError, ValueError, KeyError, TypeError):
        return None  # what is wrong with the folder, the run itself tells best
    return (
        found if same and done and all(file.is_file() for file in [folder / "report.html", *files]) else None
    )


def tracked(folder: Path) -> bool:
    """Whether MLflow has everything of a run, as the flows note beside it; `nasflow.fit` alone does not track."""
    try:
        return json.loads((folder / "tracking.json").read_text())["behind"] is False
    except (OSError, ValueError, KeyError, TypeError):
        return False
