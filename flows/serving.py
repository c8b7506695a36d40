"""Which flows a Prefect server is offered, to be started or scheduled from its page: what prefect.yaml declares.

`prefect deploy --all` does the same from a checkout. Here a deployment that is there already keeps its schedules and
what was changed in the page.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import yaml
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.schedules import Cron, Interval, Schedule
from prefect.types.entrypoint import EntrypointType
from prefect.workers.process import ProcessWorker

POOL = "nasflow"


def declared() -> list[dict[str, Any]]:
    """The deployments in prefect.yaml: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).parent
    inside = package / "prefect.yaml"
    file = inside if inside.is_file() else package.parent / "prefect.yaml"
    found: list[dict[str, Any]] = yaml.safe_load(file.read_text())["deployments"]
    return found


def flow_of(entrypoint: str) -> Flow[..., Any]:
    """The flow behind `flows.stages.search`."""
    module, _, name = entrypoint.rpartition(".")
    found: Flow[..., Any] = getattr(importlib.import_module(module), name)
    return found


def deploy(folder: Path) -> None:
    """Offer every flow to the server that is set up, to be carried out in `folder` by a worker of the pool."""
    with get_client(sync_client=True) as client:
        try:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        except ObjectAlreadyExists:
            pass
        for said in declared():
            made = deployment(said, folder)
            try:
                there = client.read_deployment_by_name(f"{made.flow_name}/{made.name}")
            except ObjectNotFound:
                made.apply()
            else:
                client.update_deployment(there.id, what_code_decides(made, flow_of(said["entrypoint"])))


def deployment(said: Mapping[str, Any], folder: Path) -> RunnerDeployment:
    """What Prefect is told of a declared deployment."""
    flow = flow_of(said["entrypoint"])
    made = flow.to_deployment(
        said["name"],
        description=said.get("description", flow.description),
        tags=list(said["tags"]),
        parameters=said.get("parameters", {}),
        schedules=[schedule(one) for one in said.get("schedules", ())],
        work_pool_name=POOL,
        job_variables={**said["work_pool"].get("job_variables", {}), "working_dir": str(folder)},
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    return cast(RunnerDeployment, made)


def what_code_decides(made: RunnerDeployment, flow: Flow[..., Any]) -> DeploymentUpdate:
    """What is told of a deployment that is there already: not what people change in the page."""
    return DeploymentUpdate(
        description=made.description,
        entrypoint=made.entrypoint,
        work_pool_name=POOL,
        job_variables=made.job_variables,
        parameter_openapi_schema=flow.parameters.model_dump(exclude_unset=True),
        pull_steps=None,
    )


def schedule(said: Mapping[str, Any]) -> Schedule:
    """A schedule as prefect.yaml says it: `cron` in a time zone, or `interval` in seconds."""
    about: dict[str, Any] = {key: said[key] for key in ("active", "slug", "parameters") if key in said}
    if "cron" in said:
        return Cron(said["cron"], timezone=said.get("timezone", "UTC"), **about)
    return Interval(timedelta(seconds=said["interval"]), **about)
