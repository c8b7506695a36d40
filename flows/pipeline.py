"""The whole chain as one flow, and `run_pipeline`, which is what `nasflow run` calls."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from prefect import State
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from rich.console import Console

from flows import artifacts, server
from flows.console import Bars, warnings_on
from flows.forms import AS_IT_SAYS, Device, Space, Strategy, Trials, asked, form, place
from flows.session import Session, session
from flows.stages import FLOWS, completed, failed, logged, plain, shown, tracked, troubles
from flows.tracking import TrackingError
from nasflow import stages
from nasflow.errors import NasflowError
from nasflow.experiment import Experiment

PREFECT_IS_AWAY = (server.NoServer, httpx.HTTPError, PrefectException)

log = logging.getLogger("nasflow.flows")


@form
def pipeline(
    experiment: str = "digits",
    space: Space = AS_IT_SAYS,
    strategy: Strategy = AS_IT_SAYS,
    trials: Trials = 0,
    devices: Sequence[Device] = (),
    overrides: Sequence[str] = (),
    folder: str = "",
    fresh: bool = False,
    wait: bool = False,
) -> State[Any]:
    """From data and devices to certified networks: define, search, compress, retrain, deploy, report."""
    try:
        wanted = asked(experiment, space, strategy, trials, devices, overrides)
        with (
            logged(),
            session(wanted, place(wanted, folder), fresh=fresh, wait=wait) as opened,
            artifacts.progress(artifacts.key(wanted.name, "progress")) as bar,
            opened.hub.hearing(bar),
        ):
            return _carry_out(opened)
    except NasflowError as error:
        return failed(error)


def _carry_out(opened: Session) -> State[Any]:
    where = opened.run.folder
    given: dict[str, Any] = {"experiment": str(where / "experiment.yaml"), "folder": str(where)}
    ended = completed("")
    # The pipeline's heart beats for all: each stage's own would hold its end up for a second.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        for stage in stages.STAGES:
            state = FLOWS[stage](**given, return_state=True)
            if state.is_completed():
                continue
            error = state.result(raise_on_failure=False)
            if not isinstance(error, NasflowError):
                raise error
            ended = failed(error)
            if stage != "deploy":  # what is there by now is reported all the same
                FLOWS["report"](**given, return_state=True)
                break
        summary = opened.summary()
    if ended.is_completed():
        said = [summary["message"], *troubles(summary["trials"], summary["compression"])]
        ended = completed("; ".join(said), summary)
    return shown(tracked(ended), opened)


def run_pipeline(
    experiment: Experiment,
    folder: Path,
    *,
    fresh: bool = False,
    wait: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Carry out an experiment in this process, as a Prefect flow, and return its summary.

    Whatever is finished in `folder` is not done again. A Prefect server that is away, at the start or later, or
    an MLflow store that cannot be written, costs a warning and not the run. Raises NasflowError for what keeps
    the run itself from its end; limits that nothing keeps are no error but the summary's status "infeasible".
    """
    console = console or Console(quiet=True)
    with (
        warnings_on(console),
        Bars(console) as bars,
        session(experiment, folder, fresh=fresh, wait=wait, notify=bars) as opened,
    ):
        stopped: BaseException | None
        if _is_done(opened):
            # Nothing is left to do but what MLflow may lack.
            stopped = _without_prefect(opened)
        else:
            stopped = _with_prefect(opened)
            if isinstance(stopped, PREFECT_IS_AWAY) and not isinstance(stopped, server.NoServer):
                log.warning("Prefect's server went away, looking for it again: %s", stopped)
                stopped = _with_prefect(opened)
            if isinstance(stopped, PREFECT_IS_AWAY):
                log.warning("going on without Prefect: %s", stopped)
                stopped = _without_prefect(opened)
        if stopped is None or isinstance(stopped, stages.Infeasible):
            return opened.summary()
        raise stopped


def _is_done(opened: Session) -> bool:
    return all(opened.run.done(stage) is not None for stage in stages.STAGES)


def _with_prefect(opened: Session) -> BaseException | None:
    """Run the flow; returns what kept it from its end."""
    where = opened.run.folder
    try:
        with server.reachable():
            state: State[Any] = pipeline(str(where / "experiment.yaml"), folder=str(where), return_state=True)
    except PREFECT_IS_AWAY as error:
        return error
    stopped = state.result(raise_on_failure=False)
    return stopped if isinstance(stopped, BaseException) else None


def _without_prefect(opened: Session) -> NasflowError | None:
    """Do what the flow does; returns what kept it from its end."""
    stopped = None
    try:
        for stage in stages.STAGES:
            plain(stage, opened)
    except NasflowError as error:
        stopped = error
        plain("report", opened)
    finally:
        summary = opened.summary()
    with contextlib.suppress(TrackingError):  # the log has it, and the run has lost nothing
        opened.tracker.sync(summary, opened.trials()).result()
    return stopped
