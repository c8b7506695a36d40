"""What a device's answer says about a network, as metrics: `latency_ms@device`, `energy_mj@device` and
`throughput_per_s@device`."""

from __future__ import annotations

from collections.abc import Collection

from nasflow.errors import Unavailable
from nasflow.hardware import Latency

ONLY_MEASURED = ("energy_mj", "throughput_per_s")  # no predictor tells these


def metrics_of(latency: Latency, device: str, asked: Collection[str] = ()) -> dict[str, float]:
    """The p50 of one answer in milliseconds always; the energy of one answer above idling in millijoules and the
    answers a second in batches where `asked`, which holds names such as `energy_mj@jetson-nano`, wants them.

    Raises Unavailable where the device could not tell what is asked of it: every trial would lack it.
    """
    found = {f"latency_ms@{device}": latency.p50_ms}
    for name in only_measured(device, asked):
        metric = name.partition("@")[0]
        value: float | None = getattr(latency, metric)
        if value is None:
            raise Unavailable(_missing(latency, device, metric))
        found[name] = value
    return found


def only_measured(device: str, asked: Collection[str]) -> list[str]:
    """Those of the metrics `asked` of this device that a prediction does not have: with any, it has to be measured."""
    return [name for metric in ONLY_MEASURED if (name := f"{metric}@{device}") in asked]


def _missing(latency: Latency, device: str, metric: str) -> str:
    if latency.source == "predicted":
        return f"{metric} on {device}: expected a measurement, got a prediction, which tells the latency only"
    why = f" ({latency.energy_source})" if metric == "energy_mj" else ""
    return (
        f"{metric} on {device}: the device measured none{why}; leave {metric} out of objectives and limits,"
        f" or ask it of a device that can tell, as in {metric}@jetson"
    )
