"""What was started is ended, all of it and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefect.settings import PREFECT_HOME, temporary_settings

from flows import started
from flows.started import TOKEN, Part, Started

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
PARENT = """
import subprocess, sys, time
print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True).pid, flush=True)
time.sleep(float(sys.argv[1]))
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path) -> Iterator[None]:
    with temporary_settings({PREFECT_HOME: tmp_path / "home"}):
        yield


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(SLEEP)
    yield process
    process.kill()
    process.wait()


def start(name: str, token: str, command: list[str] = SLEEP) -> tuple[Part, subprocess.Popen[str]]:
    process = subprocess.Popen(
        command, env={**os.environ, TOKEN: token}, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    return Part(name, process.pid, time.time()), process


def runs(process: int | subprocess.Popen[Any]) -> bool:
    pid = process if isinstance(process, int) else process.pid
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def noted(token: str, *parts: Part) -> Started:
    found = Started(token, "here", parts=parts)
    started.note(found)
    return found


def test_all_that_was_started_ends_and_nothing_else(bystander: subprocess.Popen[bytes]) -> None:
    server, one = start("server", "mine")
    worker, other = start("worker", "mine", [sys.executable, "-c", PARENT, "600"])
    theirs, third = start("server", "another")
    assert other.stdout is not None
    child = int(other.stdout.readline())
    found = noted("mine", server, worker)
    assert started.running() == found
    assert started.end(found) == 3
    assert not any(map(runs, [child, one, other]))
    assert started.noted() is None
    assert runs(third) and runs(bystander)
    started.end(noted("another", theirs))
    for process in (one, other, third):
        process.communicate()


def test_what_lost_its_parent_is_found_again() -> None:
    part, process = start("worker", "mine", [sys.executable, "-c", PARENT, "0"])
    assert process.stdout is not None
    orphan = int(process.stdout.readline())
    process.wait()
    found = noted("mine", part)
    assert (found.gone(), started.running()) == ([part], None)
    assert runs(orphan)
    assert started.end(found) == 1
    assert not runs(orphan)
    process.communicate()


def test_what_was_started_before_it_could_be_noted_is_found_again() -> None:
    found = noted("mine")
    _, process = start("server", "mine")
    assert started.end(found) == 1
    assert not runs(process)
    process.communicate()


def test_a_process_number_that_was_given_to_another_since_is_left_alone(
    bystander: subprocess.Popen[bytes],
) -> None:
    found = noted("mine", Part("worker", bystander.pid, time.time()))
    assert started.running() is None
    assert started.end(found) == 0
    assert runs(bystander)


def test_what_does_not_want_to_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(started, "PATIENCE_S", 0.2)
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(600)"
    part, process = start("worker", "mine", [sys.executable, "-c", deaf])
    assert process.stdout is not None
    process.stdout.readline()
    started.end(noted("mine", part))
    assert not runs(process)
    process.communicate()
