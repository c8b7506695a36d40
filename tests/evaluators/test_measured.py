from dataclasses import replace

import pytest

from nasflow.errors import Unavailable
from nasflow.evaluators.measured import metrics_of, only_measured
from nasflow.hardware import Latency

PLAIN = Latency(
    p50_ms=2.0, p90_ms=2.5, ci=(1.9, 2.1), samples_ms=(2.0,), loads=(1,), outliers=0, reference_ms=0.05,
    noise=0.01, source="measured", date="2026-11-22T00:00:00Z",
)  # fmt: skip
WHOLE = replace(PLAIN, energy_mj=3.5, energy_source="RAPL", throughput_per_s=900.0)


def test_energy_and_throughput_are_told_where_they_are_asked():
    assert metrics_of(WHOLE, "board") == {"latency_ms@board": 2.0}
    assert metrics_of(WHOLE, "board", {"error", "energy_mj@board", "throughput_per_s@other"}) == {
        "latency_ms@board": 2.0,
        "energy_mj@board": 3.5,
    }
    everything = ["latency_ms@board", "energy_mj@board", "throughput_per_s@board"]
    assert list(metrics_of(WHOLE, "board", everything)) == everything


@pytest.mark.parametrize("metric", ["energy_mj", "throughput_per_s"])
def test_what_a_device_cannot_tell_is_an_error_and_never_0(metric):
    with pytest.raises(
        Unavailable, match=rf"{metric} on board: the device measured none.*leave {metric} out"
    ):
        metrics_of(PLAIN, "board", {f"{metric}@board"})


def test_a_predicted_latency_has_no_energy():
    predicted = replace(PLAIN, source="predicted", samples_ms=(), loads=(), reference_ms=None)
    assert metrics_of(predicted, "board", {"latency_ms@board"}) == {"latency_ms@board": 2.0}
    with pytest.raises(Unavailable, match="energy_mj on board: expected a measurement, got a prediction"):
        metrics_of(predicted, "board", {"energy_mj@board"})


def test_asking_for_energy_or_throughput_asks_for_a_measurement():
    asked = {"latency_ms@board", "latency_ms@phone", "energy_mj@phone", "flops"}
    assert only_measured("board", asked) == [] and only_measured("phone", asked) == ["energy_mj@phone"]
