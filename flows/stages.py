"""Each stage as a flow that runs alone, and what they have in common.

A flow here reads its form, opens the run (or finds it open, inside the pipeline) and calls the plain function of
nasflow.stages. Retries are for devices and for MLflow, whose trouble may pass; a search that fails would fail
again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

from prefect import Flow, State, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import StateType, TaskRun
from prefect.context import FlowRunContext
from prefect.tasks import Task

from flows import artifacts
from flows.forms import AS_IT_SAYS, Strategy, asked, form, place
from flows.session import Session, current, is_open, session
from flows.tracking import DamagedStore
from nasflow import stages
from nasflow.errors import NasflowError, Unavailable

Result = Mapping[str, Any]


def plain(stage: str, opened: Session) -> Result:
    """Do the work of one stage, as nasflow does it without Prefect."""
    if stage == "search":
        return stages.search(opened.run, observers=(opened.tracker,))
    work: Callable[[stages.Run], Result] = getattr(stages, stage)
    return work(opened.run)


def _unavailable(_: Task[Any, Any], __: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.result(raise_on_failure=False), Unavailable)


def _not_damaged(_: Task[Any, Any], __: TaskRun, state: State[Any]) -> bool:
    return not isinstance(state.result(raise_on_failure=False), DamagedStore)


UNAVAILABLE_AGAIN: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": [5, 60],
    "retry_condition_fn": _unavailable,
}


@task(task_run_name="{stage}", cache_policy=NO_CACHE, **UNAVAILABLE_AGAIN)
def carry_out(stage: str) -> Result:
    """The work of one stage; asked again when a device did not answer."""
    return plain(stage, current())


@task(
    task_run_name="track in MLflow",
    retries=2,
    retry_delay_seconds=[2, 20],
    retry_condition_fn=_not_damaged,
    cache_policy=NO_CACHE,
)
def track() -> None:
    """Bring MLflow up to date with the run."""
    opened = current()
    opened.tracker.sync(opened.summary(), opened.trials()).result()


def failed(error: NasflowError) -> State[Any]:
    """The end of a flow that could not do what it should; its message is what a person needs to know."""
    name = "Infeasible" if isinstance(error, stages.Infeasible) else "Failed"
    return State(type=StateType.FAILED, name=name, message=str(error), data=error)


def completed(message: str, result: Result | None = None) -> State[Any]:
    return State(type=StateType.COMPLETED, name="Completed", message=message, data=result)


def tracked(state: State[Any]) -> State[Any]:
    """The state, unless MLflow could not be brought up to date, which a run is not to end without saying."""
    tracking = track(return_state=True)
    if tracking.is_completed() or not state.is_completed():
        return state
    error = tracking.result(raise_on_failure=False)
    return State(type=StateType.COMPLETED, name="Untracked", message=str(error), data=state.data)


class _ToRun(logging.Handler):
    """Puts what nasflow logs into the log of the flow run."""

    def emit(self, record: logging.LogRecord) -> None:
        if FlowRunContext.get() is not None:
            get_run_logger().log(record.levelno, record.getMessage())


@contextmanager
def logged() -> Iterator[None]:
    logger, handler = logging.getLogger("nasflow"), _ToRun()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _stage(
    stage: str,
    experiment: str,
    overrides: Sequence[str],
    folder: str,
    strategy: Strategy = AS_IT_SAYS,
    trials: int = 0,
) -> State[Any]:
    """Carry out one stage as a flow; inside a pipeline the run is open already."""
    alone = not is_open()
    try:
        wanted = asked(experiment, strategy, trials, overrides)
        with (
            logged() if alone else nullcontext(),
            session(wanted, place(wanted, folder)) as opened,
            artifacts.progress(artifacts.key(wanted.name, stage), (stage,)) as bar,
            opened.hub.hearing(bar),
        ):
            ended = _work(stage)
            summary = opened.summary()
            if stage == "search" or alone:
                artifacts.show_result(summary, opened.run.folder)
            if alone:
                return tracked(ended)
            opened.tracker.sync(summary, opened.trials())
            return ended
    except NasflowError as error:
        return failed(error)


def _work(stage: str) -> State[Any]:
    # A device that is away at the very start is told at once: whoever started the run is still there.
    work = carry_out if stage != "define" else carry_out.with_options(retries=0)
    try:
        result = work(stage)
    except NasflowError as error:
        return failed(error)
    if stage == "deploy" and not result["choice"]["limits_kept"]:
        return failed(stages.Infeasible(f"{result['message']}, but {result['choice']['why']}"))
    return completed(result["message"], result)


@form
def define(
    experiment: str = "digits",
    overrides: Sequence[str] = (),
    folder: str = "",
) -> State[Any]:
    """Read the data, open the space and ask the devices: whether the run is possible at all."""
    return _stage("define", experiment, overrides, folder)


@form
def search(
    experiment: str = "digits",
    strategy: Strategy = AS_IT_SAYS,
    trials: int = 0,
    overrides: Sequence[str] = (),
    folder: str = "",
) -> State[Any]:
    """Propose, measure and train networks until the trials are spent; goes on where it was stopped."""
    return _stage("search", experiment, overrides, folder, strategy, trials)


@form
def compress(experiment: str = "digits", overrides: Sequence[str] = (), folder: str = "") -> State[Any]:
    """Prune and quantise networks of the front, keeping what measurably pays."""
    return _stage("compress", experiment, overrides, folder)


@form
def retrain(experiment: str = "digits", overrides: Sequence[str] = (), folder: str = "") -> State[Any]:
    """Train in full what is worth shipping."""
    return _stage("retrain", experiment, overrides, folder)


@form
def deploy(experiment: str = "digits", overrides: Sequence[str] = (), folder: str = "") -> State[Any]:
    """Export, measure and certify every network trained in full, and say which one ships."""
    return _stage("deploy", experiment, overrides, folder)


@form
def report(experiment: str = "digits", overrides: Sequence[str] = (), folder: str = "") -> State[Any]:
    """Write the page that says which network to ship, and why."""
    return _stage("report", experiment, overrides, folder)


FLOWS: dict[str, Flow[..., State[Any]]] = {
    "define": define,
    "search": search,
    "compress": compress,
    "retrain": retrain,
    "deploy": deploy,
    "report": report,
}
