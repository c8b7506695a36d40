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

from flows import artifacts, reports
from flows.forms import AS_IT_SAYS, Device, Space, Strategy, Trials, asked, form, place
from flows.session import Session, current, is_open, session
from flows.tracking import DamagedStore
from nasflow import stages
from nasflow.errors import NasflowError, Unavailable
from nasflow.experiment import Experiment

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


def completed(message: str, result: Result | None = None, name: str = "Completed") -> State[Any]:
    return State(type=StateType.COMPLETED, name=name, message=message, data=result)


def tracked(state: State[Any]) -> State[Any]:
    """The state, unless MLflow could not be brought up to date, which a run is not to end without saying."""
    tracking = track(return_state=True)
    if tracking.is_completed() or not state.is_completed():
        return state
    error = tracking.result(raise_on_failure=False)
    return State(type=StateType.COMPLETED, name="Untracked", message=str(error), data=state.data)


def shown(state: State[Any], opened: Session) -> State[Any]:
    """The state, with what came of the run in the page beside it."""
    where = reports.shown(opened.tracker) if state.name != "Untracked" else None
    artifacts.show_result(opened.summary(), opened.run.folder, where)
    return state


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


def _stage(stage: str, wanted: Callable[[], Experiment], folder: str) -> State[Any]:
    """Carry out one stage as a flow; inside a pipeline the run is open already."""
    alone = not is_open()
    try:
        experiment = wanted()
        with (
            logged() if alone else nullcontext(),
            session(experiment, place(experiment, folder)) as opened,
            artifacts.progress(artifacts.key(experiment.name, stage, "progress"), (stage,)) as bar,
            opened.hub.hearing(bar),
        ):
            ended = _work(stage)
            summary = opened.summary()
            if not alone:
                if stage == "search":
                    artifacts.show_result(summary, opened.run.folder)
                opened.tracker.sync(summary, opened.trials())
                return ended
            return shown(tracked(ended), opened)
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
    said = [result["message"], *troubles(result.get("trials", {}), result.get("steps", []))]
    return completed(
        "; ".join(said), result, "Completed" if stage != "compress" or kept(result) else "Refused"
    )


def kept(compressed: Result) -> bool:
    """Whether compression gave anything, or was not tried at all."""
    steps = compressed["steps"]
    return not steps or any(step["accepted"] for step in steps)


def troubles(trials: Result, steps: Sequence[Result]) -> list[str]:
    """What a run that came to its end is not to hide: trials that failed, compression that was in vain."""
    found = []
    if failures := trials.get("failed", 0):
        found.append(f"{failures} of {failures + trials['done']} trials failed")
    if steps and not any(step["accepted"] for step in steps):
        found.append(f"compression kept none of {len(steps)}: {steps[-1]['name']} {steps[-1]['reason']}")
    return found


@form
def define(
    experiment: str = "digits",
    space: Space = AS_IT_SAYS,
    devices: Sequence[Device] = (),
    overrides: Sequence[str] = (),
    folder: str = "",
) -> State[Any]:
    """Read the data, open the space and ask the devices: whether the run is possible at all."""
    return _stage(
        "define", lambda: asked(experiment, space=space, devices=devices, overrides=overrides), folder
    )


@form
def search(
    experiment: str = "digits",
    space: Space = AS_IT_SAYS,
    strategy: Strategy = AS_IT_SAYS,
    trials: Trials = 0,
    devices: Sequence[Device] = (),
    overrides: Sequence[str] = (),
    folder: str = "",
) -> State[Any]:
    """Propose, measure and train networks until the trials are spent; goes on where it was stopped."""
    return _stage("search", lambda: asked(experiment, space, strategy, trials, devices, overrides), folder)


@form
def compress(experiment: str = "digits", overrides: Sequence[str] = (), folder: str = "") -> State[Any]:
    """Prune and quantise networks of the front, keeping what measurably pays."""
    return _stage("compress", lambda: asked(experiment, overrides=overrides), folder)


@form
def retrain(experiment: str = "digits", overrides: Sequence[str] = (), folder: str = "") -> State[Any]:
    """Train in full what is worth shipping."""
    return _stage("retrain", lambda: asked(experiment, overrides=overrides), folder)


@form
def deploy(experiment: str = "digits", overrides: Sequence[str] = (), folder: str = "") -> State[Any]:
    """Export, measure and certify every network trained in full, and say which one ships."""
    return _stage("deploy", lambda: asked(experiment, overrides=overrides), folder)


@form
def report(experiment: str = "digits", overrides: Sequence[str] = (), folder: str = "") -> State[Any]:
    """Write the page that says which network to ship, and why."""
    return _stage("report", lambda: asked(experiment, overrides=overrides), folder)


FLOWS: dict[str, Flow[..., State[Any]]] = {
    "define": define,
    "search": search,
    "compress": compress,
    "retrain": retrain,
    "deploy": deploy,
    "report": report,
}
