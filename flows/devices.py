"""One run at a time uses a device, and Prefect's page shows who waits for it.

Prefect keeps a concurrency limit of one for each device, held while it measures. That is for people to see: what keeps
two runs off one device are the locks of nasflow.hardware, which the system frees when their holder dies. So a
Prefect that is away, or that never heard of a holder's end, makes nobody wait for long.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import httpx
from prefect import State
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.client.schemas.objects import ConcurrencyLeaseHolder, StateType
from prefect.concurrency._asyncio import ConcurrencySlotAcquisitionError
from prefect.concurrency.sync import concurrency
from prefect.context import FlowRunContext
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.runtime import flow_run

from flows import server
from nasflow.hardware import Comparison, Device, Latency, Profile
from nasflow.hardware.device import Follow

LEASE_S = 60.0  # a holder that is not heard of for so long has lost the device
PATIENCE_S = 300.0  # longer than measuring a batch takes: then the device's own lock decides alone
ASK_S = 1.0  # between two looks at whether it is free
AWAY = (httpx.HTTPError, PrefectException, ConcurrencySlotAcquisitionError)

log = logging.getLogger("nasflow.flows")


@dataclass(frozen=True)
class Shared:
    """A device that a run takes in turns with others. It is otherwise the device that it wraps."""

    device: Device

    @property
    def name(self) -> str:
        return self.device.name

    @property
    def profile(self) -> Profile:
        return self.device.profile

    def check(self) -> None:
        with reserved(self.name):
            self.device.check()

    def latency(self, file: Path) -> Latency:
        with reserved(self.name):
            return self.device.latency(file)

    def latencies(self, files: Sequence[Path], watch: Follow | None = None) -> list[Latency]:
        with reserved(self.name):
            return self.device.latencies(files, watch)

    def compare(self, a: Path, b: Path, watch: Follow | None = None) -> Comparison:
        with reserved(self.name):
            return self.device.compare(a, b, watch)


@contextmanager
def reserved(device: str) -> Iterator[None]:
    """Hold the device's limit in Prefect, once it is free. Outside a flow, or where nobody else can see the server,
    there is nothing to hold."""
    held = ExitStack()
    if FlowRunContext.get() is not None and not server.is_own():
        _take(limit_name(device), device, held)
    try:
        yield
    finally:
        try:
            held.close()
        except AWAY as error:
            log.warning("Prefect does not hear that %s is free, and finds out itself: %s", device, error)


def limit_name(device: str) -> str:
    """What a device's limit is called in Prefect's page."""
    return f"device-{device}"


_given_up: set[str] = set()  # limits whose holder never came back: of no use to this process any more


def _take(limit: str, device: str, held: ExitStack) -> None:
    until, waited = time.monotonic() + PATIENCE_S, False
    if limit in _given_up:
        return
    try:
        _make(limit)
        while not _taken(limit, held):
            if time.monotonic() > until:
                _given_up.add(limit)
                log.warning(
                    "Prefect says for %g s that another run measures on %s: going on without asking it;"
                    " if no run does, this mends it: prefect gcl update %s --active-slots 0",
                    PATIENCE_S, device, limit,
                )  # fmt: skip
                break
            if not waited:
                _show("AwaitingDevice", f"another run measures on {device}")
            waited = True
            time.sleep(ASK_S)
        if waited:
            _show("Running", "")
    except AWAY as error:
        log.warning("Prefect is not asked whether %s is free: %s", device, error)


def _taken(limit: str, held: ExitStack) -> bool:
    """Whether the limit could be taken now."""
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    holder = ConcurrencyLeaseHolder(type="flow_run", id=context.flow_run.id)
    wanted = concurrency(
        limit,
        max_retries=0,
        lease_duration=LEASE_S,
        strict=True,
        holder=holder,
        raise_on_lease_renewal_failure=False,
    )
    try:
        held.enter_context(wanted)
    except ConcurrencySlotAcquisitionError as error:
        cause = error.__cause__
        if isinstance(cause, httpx.HTTPStatusError) and cause.response.status_code == httpx.codes.LOCKED:
            return False
        raise
    return True


def _make(limit: str) -> None:
    """Create the limit; one that is there stays as people have set it."""
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(limit)
        except ObjectNotFound:
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=limit, limit=1))


def _show(name: str, message: str) -> None:
    """Say in the page what a run is doing: the innermost one, and the whole that it is part of."""
    shown = {UUID(str(one)) for one in (flow_run.id, flow_run.root_flow_run_id) if one}
    with get_client(sync_client=True) as client:
        for one in shown:
            # Not by force: a run that is being cancelled stays so.
            client.set_flow_run_state(one, State(type=StateType.RUNNING, name=name, message=message))
