"""A Prefect of a test's own: its home, its ports, its processes, and what its API tells."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
from prefect.settings import PREFECT_HOME, temporary_settings

from flows import started
from flows.environment import DEFAULTS
from flows.started import TOKEN, Started

T = TypeVar("T")

NASFLOW = [sys.executable, "-c", "from nasflow.cli import main; main()"]
FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
QUICK = {  # servers and workers that do soon what they do now and then
    "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_SERVER_SERVICES_SCHEDULER_DEPLOYMENT_BATCH_SIZE": "100",
}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def clean(home: Path, port: int | None = None) -> dict[str, str]:
    """An environment in which Prefect finds nothing of the user's."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT", "MLFLOW"))}
    return {
        **environ,
        **DEFAULTS,
        **QUICK,
        "PREFECT_HOME": str(home),
        **({} if port is None else {"PREFECT_SERVER_API_PORT": str(port)}),
        "PATH": f"{Path(sys.executable).parent}:{environ['PATH']}",
    }


@contextmanager
def running(command: list[str], environ: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a folder, ended with all it started."""
    with (folder / "output.txt").open("ab") as output:
        process = subprocess.Popen(command, env=environ, cwd=folder, stdout=output, stderr=output)
        try:
            yield process
        finally:
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            _, alive = psutil.wait_procs(family, timeout=30)
            for one in alive:
                one.kill()
            assert not alive, f"left behind: {alive}"


def until(found: Callable[[], T], what: str, seconds: float = 180) -> T:
    """Ask until there is an answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if answer := found():
                return answer
        except httpx.HTTPError:
            pass
        time.sleep(0.25)
    raise AssertionError(f"no {what} within {seconds:g} s")


class Api:
    """What the page in the browser asks of the server, asked without a browser."""

    def __init__(self, port: int) -> None:
        self.page = f"http://127.0.0.1:{port}"
        self.url = f"{self.page}/api"

    def get(self, path: str) -> Any:
        return self._ask("GET", path)

    def post(self, path: str, said: Any) -> Any:
        return self._ask("POST", path, said)

    def _ask(self, method: str, path: str, said: Any = None) -> Any:
        def answered() -> httpx.Response | None:
            answer = httpx.request(method, f"{self.url}/{path}", json=said, timeout=30)
            busy = answer.status_code == httpx.codes.SERVICE_UNAVAILABLE  # its database is; clients ask again
            return None if busy else answer

        answer = until(answered, f"answer to {path}", 60)
        assert answer is not None
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def healthy(self) -> bool:
        return httpx.get(f"{self.url}/health", timeout=30).is_success

    def deployment(self, name: str) -> dict[str, Any]:
        return dict(self.get(f"deployments/name/{name}"))

    def start(self, name: str, parameters: dict[str, Any]) -> str:
        """Ask for a run, as the form in the page does; gives its id."""
        deployment = self.deployment(name)
        made = self.post(f"deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})
        return str(made["id"])

    def run(self, run: str) -> dict[str, Any]:
        return dict(self.get(f"flow_runs/{run}"))

    def runs(self, deployment: str) -> list[dict[str, Any]]:
        """The runs of a deployment, by its id."""
        return list(self.post("flow_runs/filter", {"deployments": {"id": {"any_": [deployment]}}}))

    def inside(self, run: str) -> list[dict[str, Any]]:
        """The flow runs that a run started."""
        return list(self.post("flow_runs/filter", {"flow_runs": {"parent_flow_run_id": {"any_": [run]}}}))

    def cancel(self, run: str) -> None:
        """What the button in the page does."""
        said = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        self.post(f"flow_runs/{run}/set_state", said)

    def ended(self, run: str, seconds: float = 180) -> dict[str, Any]:
        def final() -> dict[str, Any] | None:
            said = self.run(run)
            return said if said["state_type"] in FINAL else None

        return dict(until(final, "end of the run", seconds) or {})

    def artifacts(self, run: str) -> dict[str, dict[str, Any]]:
        found = self.post("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return {str(one["key"]): one for one in found}


def bearing(token: str | None, home: Path) -> list[psutil.Process]:
    """The processes that `up` started, all or those of one token, for one Prefect home."""
    found = []
    for process in psutil.process_iter():
        try:
            environ = process.environ()
            alive = process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        marked = environ.get(TOKEN)
        if alive and marked and environ.get("PREFECT_HOME") == str(home) and token in (None, marked):
            found.append(process)
    return found


class Place:
    """A folder with a Prefect of its own, in which `nasflow up` is called."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder, folder / "home"
        self.port, self.mlflow_port = free_port(), free_port()
        self.api = Api(self.port)
        self.environ = clean(self.home)
        self.up = [*NASFLOW, "up", "--port", str(self.port), "--mlflow-port", str(self.mlflow_port)]

    def call(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environ, cwd=self.folder, capture_output=True, text=True, timeout=300
        )

    def down(self) -> str:
        return self.call(*NASFLOW, "down").stdout

    def noted(self) -> Started:
        with temporary_settings({PREFECT_HOME: self.home}):
            found = started.noted()
        assert found is not None
        return found


@contextmanager
def ended(place: Place) -> Iterator[None]:
    try:
        yield
    finally:
        place.down()
        assert bearing(None, place.home) == []
