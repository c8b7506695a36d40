"""A search that is killed with kill -9, whenever and wherever: finished trials stay, are never trained again, and
the search ends as if nothing had happened.

Everything here happens in a process of its own that forks a search, kills it, and looks at what is left.
"""

import functools
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from nasflow.loop import Evaluate, run
from nasflow.pool import InProcess, Pool, Processes, Train
from nasflow.record import open_record
from nasflow.space import Choice, Point, Real, Space, point_key
from nasflow.strategies.optuna_samplers import nsga2
from nasflow.study import Metrics, Objective, Study, Trial
from nasflow.testing import elsewhere

SPACE = Space(
    (
        Choice("a", tuple(range(12)), ordered=True),
        Choice("b", ("x", "y", "z")),
        Choice("c", (0, 1)),
        Real("d", 0.1, 1.0),
    ),
    (lambda point: {**point, "b": "x", "d": 0.5} if point["c"] == 0 else point,),
)
OBJECTIVES = (Objective("error"), Objective("size", limit=9.0), Objective("latency", limit=0.95))
BATCH = 4


def chance(point: Point, name: str) -> float:
    """A number in [0, 1) that depends on the point alone."""
    return int(point_key({**SPACE.canonical(point), "of": name}), 16) / 16**16


def trainer(log: Path, seconds: float) -> Train:
    """Trains nothing, slowly, and logs who trained what. Some points crash."""

    def train(trial: Trial) -> Metrics:
        with log.open("a") as file:
            file.write(json.dumps([os.getpid(), trial.number]) + "\n")
        time.sleep(seconds)
        if chance(trial.point, "failure") < 0.1:
            raise RuntimeError("diverged")
        return {"error": chance(trial.point, "error")}

    return train


def measurer(log: Path) -> Callable[[Sequence[Trial]], list[Metrics]]:
    def measure(trials: Sequence[Trial]) -> list[Metrics]:
        with log.open("a") as file:
            file.writelines(f"{trial.number}\n" for trial in trials)
        return [{"latency": chance(trial.point, "latency")} for trial in trials]

    return measure


def opened(journal: Path) -> Study:
    return Study(SPACE, OBJECTIVES, open_record(journal, "it", SPACE, OBJECTIVES))


def search(study: Study, folder: Path, trials: int, pool: Pool, seconds: float) -> None:
    evaluate = Evaluate(
        trainer(folder / "trained.log", seconds),
        lambda point: {"size": float(point["a"])},
        measurer(folder / "measured.log"),
    )
    run(study, nsga2(SPACE, OBJECTIVES, population=8), evaluate, pool, trials=trials, batch=BATCH)


def history(study: Study) -> list[tuple[object, ...]]:
    return [(t.number, t.point, t.state, dict(t.metrics), t.error) for t in study.trials]


def forked(function: Callable[[], None]) -> int:
    """Start `function` in a copy of this process; its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        function()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def workers_of(pid: int) -> list[psutil.Process]:
    """The workers that the driver `pid` started, orphans or not."""

    def mine(process: psutil.Process) -> bool:
        command = process.info["cmdline"] or []
        return "nasflow.pool" in command and command[-1] == str(pid)

    return [process for process in psutil.process_iter(["cmdline"]) if mine(process)]


def vanish(processes: list[psutil.Process], within_s: float = 20.0) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if not any(alive(process) for process in processes):
            return True
        time.sleep(0.02)
    return False


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Witness:
    """Looks at a search's folder after each kill, and compares with what was there before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.finished: dict[int, tuple[object, ...]] = {}
        self.measured: set[int] = set()
        self.seen = {"trained.log": 0, "measured.log": 0}

    def look(self) -> Study:
        journal = self.folder / "study.journal"
        copy = self.folder / "copy.journal"  # opening mends; the next search shall find what the kill left
        if journal.exists():
            shutil.copy(journal, copy)
        study = opened(copy)
        trained = [number for _, number in self.news("trained.log", json.loads)]
        measured = self.news("measured.log", int)
        assert len(set(trained)) == len(trained), f"trained twice in one run: {trained}"
        again = self.finished.keys() & set(trained)
        assert not again, f"trained again though finished: {again}"
        again = self.measured & set(measured)
        assert not again, f"measured again though that was on record: {again}"
        now = {entry[0]: entry for entry in history(study) if entry[2] != "pending"}
        for number, entry in self.finished.items():
            assert now.get(number) == entry, f"lost or changed: {entry} became {now.get(number)}"
        self.finished = now
        self.measured = {trial.number for trial in study.trials if "latency" in trial.metrics}
        return study

    def news(self, log: str, parse: Callable[[str], Any]) -> list[Any]:
        """What was added to a log since the last look."""
        path = self.folder / log
        lines = path.read_text().splitlines() if path.exists() else []
        new, self.seen[log] = lines[self.seen[log] :], len(lines)
        return [parse(line) for line in new]


def undisturbed(folder: Path, trials: int) -> list[tuple[object, ...]]:
    (folder / "undisturbed").mkdir()
    study = Study(SPACE, OBJECTIVES)
    search(study, folder / "undisturbed", trials, InProcess(), 0.0)
    assert set(study.counts) - {"pending"} == {state for state, count in study.counts.items() if count}, (
        f"a search that is worth killing has trials of every kind: {study.counts}"
    )
    return history(study)


def kill_at_random_times(folder: Path, kills: int, trials: int, seed: int) -> None:
    """Kill a search with two workers at times uniform over somewhat more than a start and some batches."""
    rng, witness, expected = np.random.default_rng(seed), Witness(folder), undisturbed(folder, trials)

    def driver() -> None:
        search(opened(folder / "study.journal"), folder, trials, Processes(2), seconds=0.03)

    killed = 0
    for delay in rng.uniform(0.0, 0.9, size=kills):
        pid = forked(driver)
        time.sleep(delay)
        workers = workers_of(pid)
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        killed += os.WIFSIGNALED(status)
        assert vanish([*workers, *workers_of(pid)]), "a worker outlived its driver"
        witness.look()
    assert os.waitpid(forked(driver), 0)[1] == 0
    assert history(witness.look()) == expected
    assert killed >= kills // 2, f"only {killed} of {kills} kills came before the end"


# ---- inside every write

WRITES = ("create", "note", "outcome", "state")
MOMENTS = ("locked", "nothing", "half", "written", "synced", "unlocking", "unlocked")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kind_of(line: bytes) -> str:
    entry = json.loads(line)
    attribute = next(iter(entry.get("user_attr", {})), "")
    if "distributions" in entry:
        return "create"
    return {"known": "note", "outcome": "outcome"}.get(attribute, "state" if "values" in entry else "study")


def die_inside(journal: Path, write: str, moment: str, nth: int) -> None:
    """Have this process killed at a `moment` of the `nth` time that it writes a line of kind `write`."""
    sync, rename, unlink = os.fsync, os.rename, os.unlink
    left, due = nth, False

    def fsync(fd: int) -> None:
        nonlocal left, due
        content = journal.read_bytes()
        start = content.rfind(b"\n", 0, len(content) - 1) + 1
        left -= kind_of(content[start:]) == write
        due = left == 0
        if due and moment in ("locked", "nothing", "half"):
            os.truncate(journal, start + (len(content) - start) // 2 if moment == "half" else start)
            if moment == "locked":
                (journal.parent / f"{journal.name}.lock").touch()
        if due and moment in ("locked", "nothing", "half", "written"):
            die()
        sync(fd)
        if due and moment == "synced":
            die()

    def renaming(a: str, b: str) -> None:
        if due and moment == "unlocking":
            die()
        rename(a, b)

    def unlinking(path: str) -> None:
        if due and moment == "unlocked":
            die()
        unlink(path)

    os.fsync, os.rename, os.unlink = fsync, renaming, unlinking


def kill_inside_writes(folder: Path, moments: Sequence[str], trials: int, seed: int) -> None:
    """One kill at each of `moments` of each kind of write, in random order."""
    rng, witness, expected = np.random.default_rng(seed), Witness(folder), undisturbed(folder, trials)
    journal = folder / "study.journal"

    def driver(write: str = "", moment: str = "", nth: int = 0) -> None:
        if write:
            die_inside(journal, write, moment, nth)
        search(opened(journal), folder, trials, InProcess(), seconds=0.0)

    cases = [(write, moment) for write in WRITES for moment in moments]
    for write, moment in (cases[i] for i in rng.permutation(len(cases))):
        pid = forked(functools.partial(driver, write, moment, int(rng.integers(1, 5))))
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), f"it ended before {moment} of {write}"
        witness.look()
    assert os.waitpid(forked(driver), 0)[1] == 0
    assert history(witness.look()) == expected


def check(function: Callable[[], None], timeout_s: float = 300.0) -> None:
    ended = elsewhere.call(function, timeout_s=timeout_s)
    assert ended.returncode == 0, ended.stderr.decode()


def test_a_dozen_kills_at_random_times_change_nothing(tmp_path):
    check(functools.partial(kill_at_random_times, tmp_path, kills=12, trials=60, seed=0))


def test_a_kill_inside_every_write_changes_nothing(tmp_path):
    check(functools.partial(kill_inside_writes, tmp_path, MOMENTS, trials=60, seed=0))


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 6))
def test_forty_kills_at_random_times_change_nothing(tmp_path, seed):
    check(functools.partial(kill_at_random_times, tmp_path, kills=40, trials=200, seed=seed), timeout_s=600)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 11))
def test_kills_inside_every_write_in_any_order_change_nothing(tmp_path, seed):
    check(functools.partial(kill_inside_writes, tmp_path, MOMENTS, trials=60, seed=seed))
