"""Every flow a person would start can be started from Prefect's page: by `nasflow up`, or by `prefect deploy --all`."""

from __future__ import annotations

import inspect
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from prefects import Api, clean, free_port, running, until
from tiny_onnx import linear

from flows.environment import DEFAULTS
from flows.pipeline import pipeline
from flows.profiling import profile
from flows.serving import POOL, declared, deployment, flow_of, schedule, what_code_decides
from flows.stages import FLOWS

ROOT = Path(__file__).parents[2]
SCHEDULES = [one for said in declared() for one in said.get("schedules", ())]


def test_prefect_yaml_offers_every_flow_under_its_name() -> None:
    assert [flow_of(one["entrypoint"]) for one in declared()] == [pipeline, *FLOWS.values(), profile]
    assert [one["name"] for one in declared()] == ["pipeline", *FLOWS, "profile"]


def test_every_declared_parameter_is_a_field_of_the_form() -> None:
    for one in declared():
        fields = inspect.signature(flow_of(one["entrypoint"]).fn).parameters.keys()
        asked = [one, *one.get("schedules", ())]
        assert {name for said in asked for name in said.get("parameters", ())} <= fields


def test_workers_report_to_nobody() -> None:
    for one in declared():
        assert one["work_pool"]["name"] == POOL
        environ = one["work_pool"]["job_variables"]["env"]
        assert environ.items() <= DEFAULTS.items()
        assert {
            "DO_NOT_TRACK",
            "PREFECT_SERVER_ANALYTICS_ENABLED",
            "MLFLOW_DISABLE_TELEMETRY",
        } <= environ.keys()


def test_schedules_of_both_kinds_are_there_and_off_until_someone_wants_them() -> None:
    kinds = [schedule(one) for one in SCHEDULES]
    assert {(one.cron, one.interval) for one in kinds} >= {("0 2 * * *", None), (None, timedelta(weeks=1))}
    assert not any(one.active for one in kinds)
    assert all(one.slug for one in kinds)


def test_a_deployment_that_is_there_keeps_what_was_changed_in_the_page(tmp_path: Path) -> None:
    (said,) = [one for one in declared() if one["name"] == "pipeline"]
    fresh = deployment(said, tmp_path)
    assert (len(fresh.schedules or ()), fresh.parameters) == (2, said["parameters"])
    again = what_code_decides(fresh, pipeline).model_dump(exclude_unset=True)
    assert not {"schedules", "parameters", "concurrency_limit", "paused"} & again.keys()
    assert again["job_variables"]["working_dir"] == str(tmp_path)


@pytest.mark.long
def test_deployed_from_the_checkout_a_worker_of_the_pool_runs_it(tmp_path: Path) -> None:
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
        for said in declared():
            made = api.deployment(f"{said['name']}/{said['name']}")
            assert made["parameters"] == said.get("parameters", {})
            assert {one["slug"]: one["active"] for one in made["schedules"]} == {
                one["slug"]: False for one in said.get("schedules", ())
            }
        worker = ["prefect", "worker", "start", "--pool", "nasflow", "--limit", "1"]
        with running(worker, environ, tmp_path):
            ended = api.ended(api.start("profile/profile", {"file": str(file)}))
            assert ended["state_name"] == "Completed", ended
            assert "ms on local-cpu (95 % interval" in ended["state"]["message"]
