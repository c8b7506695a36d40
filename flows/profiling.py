"""How long an exported network takes on a device, as a flow: asked again when a board does not answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import State, task
from prefect.cache_policies import NO_CACHE

from flows import artifacts
from flows.devices import Shared
from flows.forms import Device, form
from flows.stages import UNAVAILABLE_AGAIN, completed, failed
from nasflow.errors import NasflowError
from nasflow.hardware import DeviceError, Latency, connect, load_profile


@task(task_run_name="measure on {device}", cache_policy=NO_CACHE, **UNAVAILABLE_AGAIN)
def measure(device: str, file: Path) -> Latency:
    """Ask the device; one caller at a time, as its profile says."""
    return Shared(connect(load_profile(device))).latency(file)


@form
def profile(file: str, device: Device = "local-cpu", board: str = "") -> State[Any]:
    """Measure an exported network on a device: median, 90th percentile and how sure they are."""
    try:
        if not Path(file).is_file():
            raise DeviceError(f"{file!r}: no such file; expected an exported network such as model.onnx")
        device = board or device
        measured = measure(device, Path(file))
    except NasflowError as error:
        return failed(error)
    words = (
        f"{measured.p50_ms:.4g} ms on {device} (95 % interval {measured.ci[0]:.4g} to {measured.ci[1]:.4g}, "
        f"p90 {measured.p90_ms:.4g}, {len(measured.samples_ms)} calls)"
    )
    if measured.noisy:
        words += f"; too noisy to tell: {measured.noisy}"
    artifacts.show_latency(device, file, measured, words)
    return completed(words, measured.to_json())
