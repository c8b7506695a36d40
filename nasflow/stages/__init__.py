"""The chain, stage by stage: each a plain function of a run that returns at once if its work is done."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

from nasflow.errors import NasflowError
from nasflow.loop import Observer
from nasflow.stages.compress import compress
from nasflow.stages.define import define
from nasflow.stages.deploy import deploy
from nasflow.stages.report import report
from nasflow.stages.retrain import retrain
from nasflow.stages.run import STAGES, Infeasible, Notify, Run, RunError, open_run, silent
from nasflow.stages.search import search
from nasflow.stages.summary import summarise

__all__ = [
    "STAGES",
    "Infeasible",
    "Notify",
    "Run",
    "RunError",
    "compress",
    "define",
    "deploy",
    "open_run",
    "report",
    "retrain",
    "search",
    "silent",
    "summarise",
]


def pipeline(run: Run, *, observers: Sequence[Observer] = ()) -> dict[str, Any]:
    """All stages in their order; returns the summary. A run that fails leaves summary and report of what it found."""
    try:
        define(run)
        search(run, observers=observers)
        compress(run)
        retrain(run)
        deploy(run)
    except BaseException:
        with contextlib.suppress(NasflowError):  # on a full disk, say: why it stopped matters more
            report(run)
            summarise(run)
        raise
    report(run)
    return summarise(run)
