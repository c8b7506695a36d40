"""One run at a time uses a device, whoever waits says so, and a Prefect that is away makes nobody wait.

Long, because what Prefect still has to send to a server that is gone holds up other tests of the same process.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows import devices
from flows.devices import Shared
from flows.server import OwnServer
from nasflow.hardware import Latency, load_profile
from nasflow.hardware.device import Follow, Missing

pytestmark = pytest.mark.long

SLOW_S = 5.0  # longer than it takes to ask Prefect for a device


@pytest.fixture(scope="module")
def api(prefect_home: Path) -> Iterator[str]:
    """A server that others use too."""
    server = OwnServer.start(120)
    with temporary_settings({PREFECT_API_URL: server.url}):
        yield server.url
    server.stop()


@dataclass(frozen=True)
class Slow(Missing):
    """A device that takes its time, and notes from when to when."""

    used: list[tuple[float, float]] = field(default_factory=list)

    def latencies(self, files: Sequence[Path], watch: Follow | None = None) -> list[Latency]:
        start = time.monotonic()
        time.sleep(SLOW_S)
        self.used.append((start, time.monotonic()))
        return []


def measure(device: Slow, together: threading.Barrier | None = None) -> UUID:
    """Measure on a device as a run does, as soon as all are `together`; the id of the run."""

    @flow(name="measuring")
    def measuring() -> str:
        if together is not None:
            together.wait(60)
        Shared(device).latencies([])
        return str(flow_run.id)

    return UUID(measuring())


def at_once(*used: Slow) -> list[UUID]:
    together = threading.Barrier(len(used))
    with ThreadPoolExecutor(len(used)) as threads:
        asked = [threads.submit(contextvars.copy_context().run, measure, device, together) for device in used]
        return [one.result() for one in asked]


def states(run: UUID) -> dict[str | None, str | None]:
    """The states that a run was in, with their messages."""
    with get_client(sync_client=True) as client:
        return {state.name: state.message for state in client.read_flow_run_states(run)}


def overlap(used: list[tuple[float, float]]) -> bool:
    (_, end), (start, _) = sorted(used)
    return start < end


def test_two_runs_take_turns_on_a_device_and_the_page_says_who_waits(api: str) -> None:
    device = Slow(load_profile("pixel-3"))
    devices._make("device-pixel-3")
    runs = at_once(device, device)
    assert not overlap(device.used)
    waited = [states(run) for run in runs]
    words = [one.get("AwaitingDevice") for one in waited]
    assert sorted(map(str, words)) == ["None", "another run measures on pixel-3"]
    assert all("Completed" in one for one in waited)
    with get_client(sync_client=True) as client:
        limit = client.read_global_concurrency_limit_by_name("device-pixel-3")
    assert (limit.limit, limit.active_slots) == (1, 0)


def test_two_runs_on_two_devices_go_on_at_once(api: str) -> None:
    used: list[tuple[float, float]] = []
    runs = at_once(*(Slow(load_profile(name), used) for name in ("jetson-nano", "raspberry-pi-4")))
    assert overlap(used)
    assert not any("AwaitingDevice" in states(run) for run in runs)


def test_a_limit_that_people_have_raised_stays(api: str) -> None:
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name="device-pixel-3-x", limit=3))
    devices._make("device-pixel-3-x")
    with get_client(sync_client=True) as client:
        assert client.read_global_concurrency_limit_by_name("device-pixel-3-x").limit == 3


def test_a_holder_that_never_comes_back_is_waited_for_once(
    api: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(devices, "PATIENCE_S", 1.5)
    monkeypatch.setattr(devices, "_given_up", set())
    device = Slow(load_profile("jetson-tx2"))
    devices._make("device-jetson-tx2")
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit(
            "device-jetson-tx2", GlobalConcurrencyLimitUpdate(active_slots=1)
        )
    measure(device)
    assert "prefect gcl update device-jetson-tx2 --active-slots 0" in caplog.text
    start = time.monotonic()
    assert "AwaitingDevice" not in states(measure(device))
    assert time.monotonic() - start < 10
    assert len(device.used) == 2


def test_a_prefect_that_went_away_costs_a_warning(api: str, caplog: pytest.LogCaptureFixture) -> None:
    device = Slow(load_profile("pixel-3"))

    @flow
    def measuring() -> None:
        gone = {PREFECT_API_URL: "http://127.0.0.1:9/api", PREFECT_CLIENT_MAX_RETRIES: 0}
        with temporary_settings(gone), devices.reserved(device.name):
            device.latencies([])

    start = time.monotonic()
    measuring()
    assert time.monotonic() - start < 20
    assert "pixel-3 is free" in caplog.text
    assert len(device.used) == 1


def test_outside_a_flow_nobody_is_asked(prefect_home: Path) -> None:
    device = Slow(load_profile("pixel-3"))
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        Shared(device).latencies([])
    assert len(device.used) == 1
