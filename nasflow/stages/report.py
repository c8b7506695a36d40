"""The last stage: the page that says which network to ship, and why."""

from __future__ import annotations

from typing import Any

from nasflow.files import write_text
from nasflow.report import render
from nasflow.stages.run import Run
from nasflow.stages.summary import summarise


def report(run: Run) -> dict[str, Any]:
    """Write report.html from the summary, anew each time since that is cheap and the summary may have grown."""
    (run.folder / "stages" / "report.json").unlink(missing_ok=True)

    def work() -> dict[str, Any]:
        page = run.folder / "report.html"
        write_text(page, render(summarise(run)))
        return {"message": str(page)}

    return run.carry_out("report", work)
