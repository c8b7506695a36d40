"""A Prefect of the tests' own, a run whose stages take no time, and an MLflow store that is there at once."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from sqlalchemy.exc import SADeprecationWarning
from tiny_onnx import linear

import flows  # first: it sets what Prefect and MLflow read when they are imported
from flows import tracking
from nasflow.study import Trial

assert flows  # isort would take it for unused
SUMMARY = Path(__file__).parents[1] / "data" / "summary.json"


@pytest.fixture(scope="session", autouse=True)
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Prefect as on a machine that never saw it: nothing of the user's is read or written."""
    home = tmp_path_factory.mktemp("prefect")
    with temporary_settings({PREFECT_HOME: home}, restore_defaults={PREFECT_API_URL}):
        yield home


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's tables in a file, made once: that takes seconds."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SADeprecationWarning)  # MLflow's own, of SQLAlchemy
        tracking._quieten()
        tracking._make(file)
    return file


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> tracking.Address:
    """An empty MLflow store where a run in `tmp_path`/NAME keeps it by default."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    return tracking.Address(f"sqlite:///{tmp_path}/mlflow.db", "digits", tmp_path / "mlartifacts")


@pytest.fixture
def finished(tmp_path: Path) -> tuple[dict[str, Any], list[Trial], Path]:
    """A finished run: its summary, the study's trials, its folder with the deployed files."""
    summary = json.loads(SUMMARY.read_text())
    folder = tmp_path / "digits"
    for seed, one in enumerate(summary["deployed"]):
        linear(folder / one["file"], seed)
        certificate = {
            **one,
            "input": {"name": "input", "shape": ["batch", 1, 8, 8], "type": "float32"},
            "preprocess": {"scale": 16.0, "mean": [0.5], "std": [0.25], "resize": None},
            "classes": [str(digit) for digit in range(10)],
            "data": {"name": "digits", "sha256": summary["data"]["sha256"]},
        }
        (folder / one["certificate"]).write_text(json.dumps(certificate))
    (folder / "report.html").write_text("<!doctype html><title>digits</title>")
    (folder / "summary.json").write_text(json.dumps(summary))
    return summary, trials(summary), folder


def trials(summary: dict[str, Any]) -> list[Trial]:
    """The study behind a summary, with points of the front where they are known."""
    points = {member["trial"]: member["point"] for member in summary["front"]}
    found = [
        Trial(
            one["trial"],
            points.get(one["trial"], {"stem.width": 8 + one["trial"]}),
            state=one["state"],
            metrics=one["metrics"],
            seconds=one["seconds"],
        )
        for one in summary["points"]
    ]
    return [
        *found,
        Trial(99, {"stem.width": 64}, state="failed", error="Diverged: the loss is NaN", seconds=2.0),
    ]
