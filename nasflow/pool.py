"""Where trials are trained: in this process, or in restartable processes of their own.

A pool takes a function and trials and gives back a `Result` for each, in any order. Whatever happens to a
trial (an exception, a crash, too much time or memory) becomes the reason of a failed result; it costs the
slot's restart and nothing else.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Protocol

import cloudpickle
import psutil

from nasflow.study import Metrics, Trial

Train = Callable[[Trial], Metrics]

POLL_S = 0.25
START_S = 120.0  # a worker may take this long to start and load what it trains with, beside any deadline
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Result:
    """What a trial gave: metrics, or the reason why there are none; seconds it took in its slot."""

    number: int
    metrics: Metrics | None
    error: str | None
    seconds: float


class Pool(Protocol):
    """Somewhere to train. `slots` trials run at a time."""

    @property
    def slots(self) -> int: ...
    def results(self, train: Train, trials: Sequence[Trial]) -> Iterator[Result]: ...
    def close(self) -> None: ...


class InProcess:
    """Trains one trial after the other, here: for tests, cheap evaluators and debugging."""

    slots = 1

    def results(self, train: Train, trials: Sequence[Trial]) -> Iterator[Result]:
        for trial in trials:
            yield attempt(train, trial)

    def close(self) -> None:
        pass


def attempt(train: Train, trial: Trial) -> Result:
    """Train one trial; an exception is its failure, with its kind and message as the reason."""
    start = time.perf_counter()
    try:
        metrics = {name: float(value) for name, value in train(trial).items()}
    except Exception as error:  # the one place where an error of a trial becomes a failed trial
        return Result(trial.number, None, f"{type(error).__name__}: {error}", time.perf_counter() - start)
    return Result(trial.number, metrics, None, time.perf_counter() - start)


@dataclass
class _Slot:
    """One worker process and what it is doing."""

    process: subprocess.Popen[bytes]
    pipe: Connection
    ready: bool = False
    trial: Trial | None = None
    since: float = field(default_factory=time.monotonic)


class Processes:
    """Trains in `workers` processes with one torch thread each, restarted after a crash.

    `deadline_s` ends a trial that takes longer, `memory_mb` one whose process holds more resident memory.
    A worker ends by itself when this process dies, however it dies. It is started as a plain program, not by
    multiprocessing, which would run the caller's main script a second time in every worker.
    """

    def __init__(
        self, workers: int = 2, *, deadline_s: float | None = None, memory_mb: float | None = None
    ) -> None:
        if workers < 1:
            raise ValueError(f"expected at least one worker, got {workers}")
        self.slots = workers
        self._deadline_s = deadline_s
        self._memory_mb = memory_mb
        self._slots: list[_Slot] = []
        self._train: Train | None = None
        self._pickled = b""

    def results(self, train: Train, trials: Sequence[Trial]) -> Iterator[Result]:
        for old in list(self._slots):
            if old.trial is not None or train is not self._train:  # busy: from a call that was given up
                self._end(old)
        if train is not self._train:
            self._train, self._pickled = train, cloudpickle.dumps(train)
        waiting = list(reversed(trials))
        while waiting or any(slot.trial is not None for slot in self._slots):
            while waiting and (slot := self._idle()) is not None:
                slot.trial, slot.since = waiting.pop(), time.monotonic()
                with contextlib.suppress(OSError):  # it just died: `_look` sees that
                    slot.pipe.send(slot.trial)
            busy = [slot for slot in self._slots if slot.trial is not None]
            wait([slot.pipe for slot in busy], POLL_S)
            for slot in busy:
                result = self._look(slot)
                if result is not None:
                    yield result

    def close(self) -> None:
        for slot in list(self._slots):
            self._end(slot)

    def _idle(self) -> _Slot | None:
        for slot in list(self._slots):
            if slot.trial is None and slot.process.poll() is None:
                return slot
            if slot.trial is None:  # it died with nothing to do
                self._end(slot)
        return self._start() if len(self._slots) < self.slots else None

    def _start(self) -> _Slot:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                # -P: a user's random.py in the current folder is not to stand in for Python's
                [sys.executable, "-P", "-m", "nasflow.pool", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **ONE_THREAD},
                process_group=0,  # Ctrl-C is for this process: it is no failure of the trials
            )
        pipe = Connection(ours.detach())
        slot = _Slot(process, pipe)
        self._slots.append(slot)
        with contextlib.suppress(OSError):  # it died at once: `_look` sees that
            pipe.send(sys.path)
            pipe.send_bytes(self._pickled)
        return slot

    def _end(self, slot: _Slot) -> None:
        slot.process.kill()
        slot.process.wait()
        slot.pipe.close()
        self._slots.remove(slot)

    def _look(self, slot: _Slot) -> Result | None:
        """The result of a busy slot's trial if there is one by now, its failure if it must be ended."""
        trial, seconds = slot.trial, time.monotonic() - slot.since
        assert trial is not None
        if slot.pipe.poll():
            try:
                result: Result | None = slot.pipe.recv()
            except (EOFError, ConnectionResetError):
                return self._died(slot, trial, seconds)
            if result is None:  # its start, that is over now, is no part of the trial
                slot.ready, slot.since = True, time.monotonic()
            else:
                slot.trial = None
            return result
        if not slot.ready and seconds > START_S:
            return self._fail(slot, trial, seconds, f"its process took longer than {START_S:g} s to start")
        if slot.ready and self._deadline_s is not None and seconds > self._deadline_s:
            return self._fail(
                slot, trial, seconds, f"took longer than its deadline of {self._deadline_s:g} s"
            )
        if self._memory_mb is not None and (used := _resident_mb(slot.process.pid)) > self._memory_mb:
            return self._fail(
                slot,
                trial,
                seconds,
                f"held {used:.0f} MB of memory, more than the {self._memory_mb:g} MB allowed",
            )
        return None

    def _died(self, slot: _Slot, trial: Trial, seconds: float) -> Result:
        code = slot.process.wait()
        self._end(slot)
        how = f"signal {-code}, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
        return Result(trial.number, None, f"its process died ({how})", seconds)

    def _fail(self, slot: _Slot, trial: Trial, seconds: float, reason: str) -> Result:
        self._end(slot)
        return Result(trial.number, None, reason, seconds)


def _resident_mb(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss) / 2**20
    except psutil.NoSuchProcess:
        return 0.0


def work(pipe: Connection, parent: int) -> None:
    """A worker's life: take a trial, train it, send the result; end when the pipe or the parent does."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        sys.path[:] = pipe.recv()
        train = _loaded(pipe.recv_bytes())
        pipe.send(None)
        while True:
            pipe.send(attempt(train, pipe.recv()))
    except (EOFError, ConnectionResetError, BrokenPipeError):
        return


def _loaded(pickled: bytes) -> Train:
    """The function in `pickled`; if this process cannot load it, one that fails every trial with the reason."""
    try:
        train: Train = cloudpickle.loads(pickled)
    except Exception as error:  # what a pickle imports may raise anything
        reason = error

        def train(trial: Trial) -> Metrics:
            raise reason

    return train


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os._exit(1)


if __name__ == "__main__":
    from nasflow.pool import work as _work  # so that a Result's class is nasflow.pool's, not __main__'s

    _work(Connection(int(sys.argv[1])), int(sys.argv[2]))
