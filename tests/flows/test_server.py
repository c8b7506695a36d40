"""A run reports to the Prefect server that is set up, else to one of its own that leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import server
from flows.server import NoServer, OwnServer

PROGRAM = """
import sys, time
from flows.server import reachable
with reachable() as url:
    print(url, flush=True)
    time.sleep(float(sys.argv[1]))
"""


def test_a_server_that_is_set_up_but_away_is_named_with_its_address() -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(NoServer, match=r"http://127\.0\.0\.1:9/api \(PREFECT_API_URL\) does not answer"),
        server.reachable(),
    ):
        pass


def test_a_server_that_does_not_come_up_is_given_up_with_its_last_words_and_ended() -> None:
    before = {child.pid for child in psutil.Process().children()}
    with pytest.raises(NoServer, match=r"did not start within 0\.2 s"):
        OwnServer.start(0.2)
    assert {child.pid for child in psutil.Process().children()} == before


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    import socket

    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(NoServer, match="port"),
    ):
        OwnServer.start(1.0, port=taken.getsockname()[1])


@pytest.mark.long
def test_a_killed_run_leaves_no_server_behind(tmp_path: Path) -> None:
    run = started(tmp_path)
    assert run.stdout is not None
    url = run.stdout.readline().strip()
    assert httpx.get(f"{url}/health").is_success
    (child,) = psutil.Process(run.pid).children()
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    run.stdout.close()
    gone, _ = psutil.wait_procs([child], timeout=15)
    assert gone == [child]


@pytest.mark.long
def test_two_runs_that_start_at_once_on_a_new_machine_both_get_a_server(tmp_path: Path) -> None:
    runs = [started(tmp_path, seconds=0.1) for _ in range(2)]
    for run in runs:
        out, _ = run.communicate(timeout=180)
        assert run.returncode == 0
        assert out.startswith("http://127.0.0.1:")


@pytest.mark.long
def test_a_process_that_ends_takes_its_server_along_at_once(tmp_path: Path) -> None:
    run = started(tmp_path, seconds=0.0)
    assert run.stdout is not None
    run.stdout.readline()
    start = time.monotonic()
    run.communicate(timeout=60)
    assert time.monotonic() - start < 8


def started(home: Path, seconds: float = 60.0) -> subprocess.Popen[str]:
    environ = {key: value for key, value in os.environ.items() if key != "PREFECT_API_URL"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(seconds)],
        env={**environ, "PREFECT_HOME": str(home / "prefect")},
        stdout=subprocess.PIPE,
        text=True,
    )
