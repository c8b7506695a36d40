"""One opened run and all who want to hear of it: a pipeline opens it once, its stages find it open."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.devices import Shared
from flows.tracking import Tracker, address
from nasflow.experiment import Experiment
from nasflow.stages import Notify, Run, open_run, summarise
from nasflow.study import Trial

log = logging.getLogger("nasflow.flows")


class Hub:
    """Passes what a run tells on to everyone who listens at the moment."""

    def __init__(self, *listeners: Notify) -> None:
        self._listeners = list(listeners)

    def __call__(self, stage: str, done: int, total: int, message: str) -> None:
        for listener in self._listeners:
            listener(stage, done, total, message)

    @contextmanager
    def hearing(self, listener: Notify) -> Iterator[None]:
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)


@dataclass(frozen=True)
class Session:
    """A run held by this process, those who listen to it, and its tracker."""

    run: Run
    hub: Hub
    tracker: Tracker

    def summary(self) -> dict[str, Any]:
        """Write summary.json and return what it says."""
        return summarise(self.run)

    def trials(self) -> list[Trial]:
        """What the search has on record; none if it has not begun."""
        return list(self.run.study().trials) if (self.run.folder / "study.journal").exists() else []


_held: ContextVar[Session | None] = ContextVar("session", default=None)


def current() -> Session:
    """The session that this code runs in."""
    held = _held.get()
    if held is None:
        raise RuntimeError("expected an open session; call this from inside one of nasflow's flows")
    return held


def is_open() -> bool:
    return _held.get() is not None


@contextmanager
def session(
    experiment: Experiment,
    folder: Path,
    *,
    fresh: bool = False,
    wait: bool = False,
    notify: Notify | None = None,
) -> Iterator[Session]:
    """Hold `folder` for `experiment`, or give the session that already does."""
    held = _held.get()
    if held is not None:
        yield held
        return
    hub = Hub(notify) if notify else Hub()
    with open_run(experiment, folder, fresh=fresh, wait=wait, notify=hub, share=Shared) as run:
        tracker = Tracker(address(experiment, folder), folder)
        opened = Session(run, hub, tracker)
        token = _held.set(opened)
        try:
            # What a kill left out of MLflow is written now, and the store is made ready while nothing waits for it.
            tracker.sync(opened.summary(), opened.trials())
            yield opened
        finally:
            _held.reset(token)
            tracker.close()
