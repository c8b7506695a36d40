"""A whole run that is killed with kill -9, whenever and inside whatever it writes: run again, it goes on, nothing
that was finished is done twice or lost, and it ends as if nothing had happened.

Everything here happens in a process of its own that forks runs, kills them, and looks at what is left.
"""

import functools
import hashlib
import importlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from test_kill_search import alive, forked, vanish, workers_of

from nasflow.testing import elsewhere

MOMENTS = ("half written", "written", "in place")


def deterministic(summary: dict[str, Any]) -> dict[str, Any]:
    """A summary without what depends on the clock and on where the folder lies."""
    stages = {stage: {**said, "seconds": 0} for stage, said in summary["stages"].items()}
    stages["report"]["message"] = ""
    points = [{**point, "seconds": 0} for point in summary["points"]]
    # Where the time of the shipped file goes is timed by the runtime itself.
    latency = {name: {**said, "breakdown": ...} for name, said in summary["latency"].items()}
    said = {**summary, "stages": stages, "points": points, "latency": latency}
    return {**said, "folder": "", "seconds": 0, "time": sorted(summary["time"])}


def results(folder: Path) -> dict[str, str]:
    """Everything that stays as it is once it is there: the digest of each such file and when it was written."""
    kept = [
        *folder.glob("stages/*.json"),
        *folder.rglob("training.json"),
        *folder.rglob("latency@*.json"),
        *(file.with_name("weights.pt") for file in folder.rglob("training.json")),
    ]
    return {
        str(
            file.relative_to(folder)
        ): f"{hashlib.sha256(file.read_bytes()).hexdigest()} {file.stat().st_mtime_ns}"
        for file in kept
        if file.name != "report.json"  # the page is made anew by every run
    }


class Witness:
    """Looks at a run's folder after each kill, and at its end."""

    def __init__(self, folder: Path, expected: dict[str, Any]) -> None:
        self.folder = folder
        self.expected = expected
        self.known: dict[str, str] = {}

    def look(self) -> None:
        now = results(self.folder)
        changed = [name for name, said in self.known.items() if now.get(name) != said]
        assert not changed, f"done again or lost: {changed}"
        self.known = now
        for file in self.folder.rglob("*.json"):
            json.loads(file.read_text())  # whole, or not there

    def conclude(self) -> None:
        self.look()
        left = [str(file) for file in self.folder.rglob(".*")]
        assert not left, f"left behind: {left}"
        found = deterministic(json.loads((self.folder / "summary.json").read_text()))
        differing = [key for key in self.expected if found.get(key) != self.expected[key]]
        assert found == self.expected, f"it ended otherwise: {differing}"


def ended(driver: Callable[[], None]) -> bool:
    """Run to the end, or to a kill; whether it was the end."""
    status = os.waitpid(forked(driver), 0)[1]
    assert status == 0 or os.WIFSIGNALED(status), f"the run failed instead of going on: {status}"
    return status == 0


def warm_up() -> None:
    """Load once for all forks what training and exporting load when they begin."""
    importlib.import_module("torch._dynamo")


# ---- at any time


def kill_at_random_times(data: Path, expected: dict[str, Any], folder: Path, kills: int, seed: int) -> None:
    """Kill runs with a worker process at times uniform over about an undisturbed one, run after run, until so many
    were killed; then let the last one end."""
    warm_up()
    rng, killed, runs = np.random.default_rng(seed), 0, 0
    longest = 1.5 * expected["seconds"]  # which was measured without workers and their starts
    wanted = tiny.experiment(data)
    while killed < kills:
        runs += 1
        place = folder / f"run-{runs}"
        witness = Witness(place, deterministic(expected))

        def driver(place: Path = place) -> None:
            tiny.run(wanted, place, processes=True)

        done = False
        while not done:
            pid, due = forked(driver), time.monotonic() + float(rng.uniform(0.0, longest))
            status = 0
            while killed < kills and time.monotonic() < due and not done:
                done = os.waitpid(pid, os.WNOHANG)[0] == pid
                time.sleep(0.01)
            if not done:
                workers = workers_of(pid)
                if killed < kills:
                    os.kill(pid, signal.SIGKILL)
                status = os.waitpid(pid, 0)[1]
                done = status == 0
                killed += os.WIFSIGNALED(status)
                assert status == 0 or os.WIFSIGNALED(status), "the run failed instead of going on"
                assert vanish([*workers, *workers_of(pid)]), "a worker outlived its driver"
                witness.look()
        witness.conclude()
        assert not any(alive(worker) for worker in workers_of(pid))


# ---- inside every write


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kind_of(path: str) -> str:
    """What is written: the file's name, and for records of which search."""
    name = path.rpartition("/")[2]
    return path.partition("/")[0] + "/" + name if name == "study.journal" else name


def meaning(line: bytes) -> str:
    """What a line of a record says about which trial: written again after a kill, it is the same."""
    entry = json.loads(line)
    about = [entry["op_code"], entry.get("trial_id"), entry.get("params"), *entry.get("user_attr", {})]
    return json.dumps(about)


def die_writing(
    folder: Path, survived: Path, moments: tuple[str, ...], identity: Callable[[str], str]
) -> None:
    """Have this process killed the first time that it comes to a moment of a write that is not in the file
    `survived`, where it is put first."""
    sync, replace = os.fsync, os.replace
    seen = set(survived.read_text().splitlines()) if survived.exists() else set()

    def at(moment: str, path: str) -> bool:
        what = f"{moment}: {identity(path)}"
        if moment not in moments or what in seen:
            return False
        with survived.open("a") as file:
            file.write(what + "\n")
        return True

    def relative(path: str) -> str:
        return os.path.relpath(path, folder)

    def fsync(fd: int) -> None:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if path.endswith(".journal"):
            last = Path(path).read_bytes().splitlines(keepends=True)[-1]
            said = f"{relative(path)}#{meaning(last)}"
            if at("half written", said):
                os.truncate(path, os.path.getsize(path) - len(last) // 2)
                die()
            if at("written", said):
                die()
            sync(fd)
            if at("in place", said):
                die()
            return
        if path.endswith(".part") and at("half written", relative(path)):
            os.truncate(path, os.path.getsize(path) // 2)
            die()
        sync(fd)

    def replacing(source: Any, target: Any) -> None:
        if at("written", relative(target)):
            die()
        replace(source, target)
        if at("in place", relative(target)):
            die()

    os.fsync, os.replace = fsync, replacing


def each_kind(path: str) -> str:
    """Every kind of write once: one checkpoint stands for all, one line of a record for all lines."""
    name = path.rpartition("/")[2]
    if name.endswith(".part"):
        name = name[1:].rpartition(".")[0].rpartition(".")[0]
    return path.partition("#")[0] if ".journal" in name else name


def each(path: str) -> str:
    """Every write once, whatever its temporary file is called."""
    name = path.rpartition("/")[2]
    return path.rpartition("/")[0] + "/" + each_kind(path) if name.endswith(".part") else path


def kill_inside_writes(
    data: Path,
    expected: dict[str, Any],
    folder: Path,
    moments: tuple[str, ...],
    identity: Callable[[str], str],
) -> None:
    """One run, killed once at each of `moments` of each write."""
    warm_up()
    wanted, place, survived = tiny.experiment(data), folder / "run", folder / "survived.txt"
    witness = Witness(place, deterministic(expected))

    def driver() -> None:
        die_writing(place, survived, moments, identity)
        tiny.run(wanted, place)

    while not ended(driver):
        witness.look()
    witness.conclude()


def check(function: Callable[[], None], timeout_s: float = 900.0) -> None:
    done = elsewhere.call(function, timeout_s=timeout_s)
    assert done.returncode == 0, done.stderr.decode()[-5000:]


def test_kills_at_random_times_change_nothing(finished_run, tmp_path):
    check(
        functools.partial(
            kill_at_random_times, finished_run.data, finished_run.summary, tmp_path, kills=4, seed=0
        )
    )


@pytest.mark.long
def test_a_kill_inside_every_kind_of_write_changes_nothing(finished_run, tmp_path):
    check(
        functools.partial(
            kill_inside_writes, finished_run.data, finished_run.summary, tmp_path, MOMENTS[::2], each_kind
        )
    )
    survived = (tmp_path / "survived.txt").read_text()
    for kind in (
        "study.journal",
        "begun.json",
        "experiment.yaml",
        "candidate.onnx",
        "latency@local-cpu.json",
        "checkpoint.pt",
        "weights.pt",
        "training.json",
        "search.json",
        "compress.json",
        "choice.json",
        "model.onnx",
        "certificate.json",
        "deploy.json",
        "summary.json",
        "report.html",
    ):
        assert f"half written: {kind}" in survived, f"no kill while {kind} was written"


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 5))
def test_forty_kills_at_random_times_change_nothing(finished_run, tmp_path, seed):
    check(
        functools.partial(
            kill_at_random_times, finished_run.data, finished_run.summary, tmp_path, kills=40, seed=seed
        ),
        timeout_s=1800,
    )


@pytest.mark.long
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_inside_every_single_write_changes_nothing(finished_run, tmp_path, moment):
    check(
        functools.partial(
            kill_inside_writes, finished_run.data, finished_run.summary, tmp_path, (moment,), each
        ),
        timeout_s=1800,
    )
    survived = (tmp_path / "survived.txt").read_text().splitlines()
    assert len(survived) > 100
