"""Where a browser finds the report of a run: in MLflow's page, if there is one that shows the run's store."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from flows import started
from flows.lineage import PIPELINE
from flows.tracking import Tracker

if TYPE_CHECKING:
    from mlflow.entities import RunInfo

log = logging.getLogger("nasflow.flows")


def shown(tracker: Tracker) -> str | None:
    """The address of the report in MLflow's page, once the run is tracked; None where no page is known."""
    from mlflow.exceptions import MlflowException

    page = _page(tracker)
    try:
        run = None if page is None else _run(tracker)
    except MlflowException as error:
        log.warning("the report is not linked to MLflow's page: %s", error)
        return None
    return (
        f"{page}/#/experiments/{run.experiment_id}/runs/{run.run_id}/artifacts/report.html" if run else None
    )


def _run(tracker: Tracker) -> RunInfo | None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracker.address.uri)
    experiment = client.get_experiment_by_name(tracker.address.experiment)
    if experiment is None:
        return None
    wanted = f"tags.`nasflow.folder` = '{tracker.folder}' AND tags.stage = '{PIPELINE}'"
    newest = ["attributes.start_time DESC"]
    found = client.search_runs([experiment.experiment_id], wanted, max_results=1, order_by=newest)
    return found[0].info if found else None


def _page(tracker: Tracker) -> str | None:
    """The page on the run's store: the tracking server itself, or what `nasflow up` started for that folder."""
    address = tracker.address
    if address.uri.startswith("http"):
        return address.uri.rstrip("/")
    up = started.running()
    return up.pages["MLflow"] if up is not None and up.store == address.uri else None
