"""One command brings up pages and a worker, another ends them: whatever became of the first."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from prefects import Place, bearing, ended, free_port, until
from tiny_onnx import linear

from flows import started
from flows import up as ups
from flows.up import UpError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with temporary_settings({PREFECT_HOME: tmp_path / "home"}, restore_defaults={PREFECT_API_URL}):
        yield tmp_path


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_a_port_that_is_taken_is_told_with_its_user_and_what_to_do(here: Path, taken: int) -> None:
    words = rf"port {taken} of 127\.0\.0\.1 .*\(process {os.getpid()}\); choose another with "
    with pytest.raises(UpError, match=words + "--mlflow-port"):
        ups.up(port=free_port(), mlflow_port=taken)
    with pytest.raises(UpError, match=words + "--port"):
        ups.up(port=taken, mlflow_port=free_port())
    assert started.noted() is None


def test_a_server_that_is_set_up_elsewhere_but_away_is_told(here: Path) -> None:
    with (
        temporary_settings({PREFECT_API_URL: "http://prefect.invalid/api"}),
        pytest.raises(UpError, match=r"http://prefect\.invalid/api \(PREFECT_API_URL\) does not answer"),
    ):
        ups.up()


def test_what_does_not_start_is_told_with_its_last_words_and_leaves_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ups, "_mlflow", lambda *_: ["mlflow.no_such_module"])
    with pytest.raises(UpError, match=r"the MLflow page did not start: .*no_such_module.*mlflow-page\.log"):
        ups.up(port=free_port(), mlflow_port=free_port())
    assert started.noted() is None
    assert bearing(None, here / "home") == []


def test_nothing_up_is_nothing_to_end(here: Path) -> None:
    assert not ups.down()


# With real servers. One `up` serves several tests.


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("up"))
    with ended(place):
        said = place.call(*place.up, "--detach")
        assert said.returncode == 0, said.stderr
        assert f"Prefect's page: http://127.0.0.1:{place.port}\n" in said.stdout
        assert f"MLflow's page:  http://127.0.0.1:{place.mlflow_port}\n" in said.stdout
        yield place


@pytest.mark.long
def test_pages_answer_on_this_machine_alone(place: Place) -> None:
    assert 'id="app"' in httpx.get(place.api.page).text
    assert "<title>MLflow</title>" in httpx.get(f"http://127.0.0.1:{place.mlflow_port}").text
    listening = {
        one.laddr.ip
        for process in bearing(None, place.home)
        for one in process.net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.long
def test_up_twice_is_told_with_the_addresses(place: Place) -> None:
    said = place.call(*place.up)
    assert said.returncode == 2
    assert f"up already, for {place.folder}: Prefect at {place.api.page}" in said.stderr
    assert "`nasflow down` ends it" in said.stderr


@pytest.mark.long
def test_the_worker_runs_in_the_folder_and_a_mistake_is_told(place: Place) -> None:
    linear(place.folder / "model.onnx")
    good = place.api.ended(place.api.start("profile/profile", {"file": "model.onnx"}))
    assert (good["state_name"], good["name"]) == ("Completed", "local-cpu"), good
    assert "ms on local-cpu (95 % interval" in good["state"]["message"]
    bad = place.api.ended(place.api.start("profile/profile", {"file": "no.onnx"}))
    assert (bad["state_name"], bad["state_type"]) == ("Failed", "FAILED")
    assert "no such file" in bad["state"]["message"]


@pytest.mark.long
def test_a_run_in_a_terminal_reports_to_the_same_page(place: Place) -> None:
    asked = "from flows.server import reachable\nwith reachable() as url:\n    print(url)"
    assert place.call(sys.executable, "-c", asked).stdout.strip() == place.api.url


@pytest.mark.long
def test_a_device_that_is_not_offered_is_refused_by_the_form(place: Place) -> None:
    deployment = place.api.deployment("profile/profile")
    wrong = {"parameters": {"file": "model.onnx", "device": "pixel"}}
    answer = httpx.post(f"{place.api.url}/deployments/{deployment['id']}/create_flow_run", json=wrong)
    assert answer.status_code == 409
    assert "'pixel' is not one of" in answer.text


@pytest.mark.long
def test_a_schedule_made_in_the_page_fires(place: Place) -> None:
    linear(place.folder / "model.onnx")
    deployment = place.api.deployment("profile/profile")
    made = place.api.post(
        f"deployments/{deployment['id']}/schedules",
        [
            {
                "schedule": {"interval": 2.0},
                "active": True,
                "parameters": {"file": "model.onnx", "device": "local-cpu"},
            }
        ],
    )

    def fired() -> bool:
        runs = place.api.runs(deployment["id"])
        return len([one for one in runs if one["auto_scheduled"] and one["state_name"] == "Completed"]) >= 2

    try:
        until(fired, "two scheduled runs")
    finally:
        httpx.delete(f"{place.api.url}/deployments/{deployment['id']}/schedules/{made[0]['id']}")


@pytest.mark.long
def test_after_down_nothing_is_left_and_up_again_keeps_the_schedules(place: Place) -> None:
    deployment = place.api.deployment("define/define")
    said = [{"schedule": {"interval": 86400.0}, "active": False, "parameters": {}}]
    place.api.post(f"deployments/{deployment['id']}/schedules", said)
    assert "ended Prefect server, MLflow page, worker" in place.down()
    assert bearing(None, place.home) == []
    assert place.call(*place.up, "--detach").returncode == 0
    kept = place.api.deployment("define/define")["schedules"]
    assert sorted(one["schedule"]["interval"] for one in kept) == [3600.0, 86400.0]


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_in_the_foreground_it_ends_with_all_it_started_and_down_ends_what_a_kill_left(
    number: signal.Signals, tmp_path: Path
) -> None:
    place = Place(tmp_path)
    with ended(place):
        with subprocess.Popen(
            place.up, env=place.environ, cwd=tmp_path, stdout=subprocess.PIPE, text=True, bufsize=1
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if "Ctrl-C" in line:
                    break
            token = place.noted().token
            assert len(bearing(token, place.home)) >= 3
            process.send_signal(number)
            process.wait(60)
        if number == signal.SIGKILL:
            assert len(bearing(token, place.home)) >= 3
            assert "ended Prefect server, MLflow page, worker" in place.down()
        assert bearing(token, place.home) == []


@pytest.mark.long
def test_down_elsewhere_ends_it_without_an_error(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with ended(place):
        process = subprocess.Popen(
            place.up,
            env=place.environ,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if "Ctrl-C" in line:
                break
        assert "ended Prefect server, MLflow page, worker" in place.down()
        said, _ = process.communicate(timeout=60)
        assert (process.returncode, said) == (0, "")


@pytest.mark.long
def test_killed_while_it_starts_nothing_is_lost_from_sight(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with ended(place):
        process = subprocess.Popen(place.up, env=place.environ, cwd=tmp_path)
        until(lambda: bool(bearing(None, place.home)), "first process")
        process.kill()
        process.wait()
        assert place.down()
        assert bearing(None, place.home) == []


@pytest.mark.long
def test_a_part_that_dies_ends_the_rest_with_its_name(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with ended(place):
        process = subprocess.Popen(
            place.up,
            env=place.environ,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        for line in process.stdout:
            if "Ctrl-C" in line:
                break
        (worker,) = [part.pid for part in place.noted().parts if part.name == "worker"]
        psutil.Process(worker).kill()
        said, _ = process.communicate(timeout=60)
        assert "the worker ended by itself" in said
        assert bearing(None, place.home) == []
