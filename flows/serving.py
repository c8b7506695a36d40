"""Offers every flow to a Prefect server, to be started or scheduled from its page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import cast

import httpx
from prefect import serve as serve_deployments
from prefect.deployments.runner import RunnerDeployment
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_API_HOST,
    PREFECT_SERVER_API_PORT,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    temporary_settings,
)
from prefect.types.entrypoint import EntrypointType

from flows.pipeline import pipeline
from flows.profiling import profile
from flows.server import OwnServer
from flows.stages import FLOWS

SCHEDULABLE = (pipeline, *FLOWS.values(), profile)


def serve() -> None:
    """Offer the flows until Ctrl-C, one run at a time, since two at once would spoil each other's latencies.

    Uses the Prefect server that is set up or running on this machine, else starts one with its page.
    """
    with page() as url:
        print(f"Prefect's page: {url.removesuffix('/api')}")
        serve_deployments(*deployments(), limit=1)


def deployments() -> list[RunnerDeployment]:
    """Every flow a person would start or schedule, loaded from where nasflow is installed."""
    return [
        cast(
            RunnerDeployment,
            one.to_deployment(one.name, tags=["nasflow"], entrypoint_type=EntrypointType.MODULE_PATH),
        )
        for one in SCHEDULABLE
    ]


@contextlib.contextmanager
def page() -> Iterator[str]:
    """A Prefect server with its page, for as long as it is needed; gives its API's address."""
    if PREFECT_API_URL.value():
        yield str(PREFECT_API_URL.value())
        return
    host, port = PREFECT_SERVER_API_HOST.value(), int(PREFECT_SERVER_API_PORT.value())
    url = f"http://{host}:{port}/api"
    own = None
    if not _answers(url):
        own = OwnServer.start(
            float(PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value()), port=port, with_page=True
        )
    try:
        with temporary_settings({PREFECT_API_URL: url}):
            yield url
    finally:
        if own is not None:
            own.stop()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).is_success
    except httpx.HTTPError:
        return False
