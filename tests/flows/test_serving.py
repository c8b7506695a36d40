"""Every flow a person would start can be started from Prefect's page: served, or deployed to a worker."""

from __future__ import annotations

import importlib
import inspect
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from prefect import Flow
from tiny_onnx import linear

from flows.environment import DEFAULTS
from flows.serving import SCHEDULABLE, deployments

ROOT = Path(__file__).parents[2]
CHROMIUM = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="module")
def declared() -> list[dict[str, Any]]:
    """The deployments in prefect.yaml."""
    found: list[dict[str, Any]] = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    return found


def target(entrypoint: str) -> Flow[..., Any]:
    module, _, name = entrypoint.rpartition(".")
    found: Flow[..., Any] = getattr(importlib.import_module(module), name)
    return found


def test_prefect_yaml_declares_what_is_served(declared: list[dict[str, Any]]) -> None:
    assert [target(one["entrypoint"]) for one in declared] == list(SCHEDULABLE)
    assert [one["name"] for one in declared] == [one.name for one in SCHEDULABLE]
    assert [one.entrypoint for one in deployments()] == [one["entrypoint"] for one in declared]


def test_every_declared_parameter_is_a_field_of_the_form(declared: list[dict[str, Any]]) -> None:
    for one in declared:
        assert (
            one.get("parameters", {}).keys()
            <= inspect.signature(target(one["entrypoint"]).fn).parameters.keys()
        )


def test_workers_report_to_nobody(declared: list[dict[str, Any]]) -> None:
    for one in declared:
        environ = one["work_pool"]["job_variables"]["env"]
        assert environ.items() <= DEFAULTS.items()
        assert {
            "DO_NOT_TRACK",
            "PREFECT_SERVER_ANALYTICS_ENABLED",
            "MLFLOW_DISABLE_TELEMETRY",
        } <= environ.keys()


def test_schedules_are_off_until_someone_wants_them(declared: list[dict[str, Any]]) -> None:
    schedules = [schedule for one in declared for schedule in one.get("schedules", [])]
    assert schedules
    assert not any(schedule["active"] for schedule in schedules)


# A Prefect of its own for each test below: its home, its port, its processes.


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


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


def until(found: Any, what: str, seconds: float = 120) -> Any:
    """Ask until there is an answer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if answer := found():
                return answer
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise AssertionError(f"no {what} within {seconds:g} s")


class Api:
    def __init__(self, port: int) -> None:
        self.page = f"http://127.0.0.1:{port}"
        self.url = f"{self.page}/api"

    def healthy(self) -> bool:
        return httpx.get(f"{self.url}/health").is_success

    def deployment(self, name: str) -> dict[str, Any] | None:
        answer = httpx.get(f"{self.url}/deployments/name/{name}")
        return dict(answer.json()) if answer.is_success else None

    def start(self, name: str, parameters: dict[str, Any]) -> str:
        """Ask for a run, as the form in the page does; gives its id."""
        deployment = until(lambda: self.deployment(name), f"deployment {name}")
        answer = httpx.post(
            f"{self.url}/deployments/{deployment['id']}/create_flow_run", json={"parameters": parameters}
        )
        return str(answer.raise_for_status().json()["id"])

    def ended(self, run: str) -> dict[str, Any]:
        def final() -> dict[str, Any] | None:
            said: dict[str, Any] = httpx.get(f"{self.url}/flow_runs/{run}").json()
            return said if said["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

        return dict(until(final, "end of the run"))


def clean(home: Path, port: int) -> dict[str, str]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT")}
    return {
        **environ,
        **DEFAULTS,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_API_PORT": str(port),
        "PATH": f"{Path(sys.executable).parent}:{environ['PATH']}",
    }


@pytest.mark.long
def test_serve_brings_a_page_from_which_a_flow_is_run(tmp_path: Path) -> None:
    port = free_port()
    api, file = Api(port), linear(tmp_path / "model.onnx")
    with running(
        [sys.executable, "-c", "from flows.serving import serve; serve()"],
        clean(tmp_path / "home", port),
        tmp_path,
    ):
        good = api.start("profile/profile", {"file": str(file)})
        ended = api.ended(good)
        assert ended["state_name"] == "Completed", ended
        assert ended["name"] == "local-cpu"
        assert "ms on local-cpu (95 % interval" in ended["state"]["message"]
        bad = api.ended(api.start("profile/profile", {"file": str(file), "device": "pixel"}))
        assert (bad["state_type"], bad["state_name"]) == ("FAILED", "Failed")
        assert "did you mean 'pixel-3'" in bad["state"]["message"]
        assert 'id="app"' in httpx.get(api.page).text


@pytest.mark.long
def test_deployed_to_a_work_pool_a_worker_runs_it_and_the_page_shows_it(tmp_path: Path) -> None:
    port = free_port()
    api, file = Api(port), linear(tmp_path / "model.onnx")
    environ = clean(tmp_path / "home", port)
    checkout = tmp_path / "checkout"
    shutil.copytree(ROOT / "flows", checkout / "flows")
    shutil.copy(ROOT / "prefect.yaml", checkout)
    with running(["prefect", "server", "start", "--port", str(port)], environ, tmp_path):
        until(api.healthy, "server")
        environ["PREFECT_API_URL"] = api.url
        for command in (
            ["work-pool", "create", "nasflow", "--type", "process"],
            ["--no-prompt", "deploy", "--all"],
        ):
            subprocess.run(["prefect", *command], env=environ, cwd=checkout, check=True, capture_output=True)
        with running(["prefect", "worker", "start", "--pool", "nasflow"], environ, tmp_path):
            run = api.start("profile/profile", {"file": str(file)})
            assert api.ended(run)["state_name"] == "Completed"
        seen = page(f"{api.page}/runs/flow-run/{run}", environ)
    assert "local-cpu" in seen
    assert "measure on local-cpu" in seen or "Completed" in seen


def page(url: str, environ: dict[str, str]) -> str:
    """What a browser makes of a page."""
    if shutil.which("chromium") is None:
        pytest.skip("no chromium on this machine")
    with tempfile.TemporaryDirectory() as profile:
        told = subprocess.run(
            [*CHROMIUM, f"--user-data-dir={profile}", "--virtual-time-budget=20000", "--dump-dom", url],
            env=environ, capture_output=True, text=True, timeout=180, check=True,
        )  # fmt: skip
    return told.stdout
