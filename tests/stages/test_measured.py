"""Energy, throughput and compute intensity, wanted and limited like any other metric, from the search to the report."""

import pytest
import tiny
from tiny import experiment

from nasflow import report
from nasflow.errors import NasflowError
from nasflow.files import read_json
from nasflow.stages import Run

WANTED = ["error", "energy_mj", "throughput_per_s"]
SMALL = {
    "search": {"trials": 4, "epochs": 1},
    "compress": {"enabled": False},
    "retrain": {"networks": 1, "epochs": 1, "seeds": 1},
}


@pytest.fixture(scope="module")
def measured(finished_run, tmp_path_factory):
    """A run that asks for all three, and its folder."""
    folder = tmp_path_factory.mktemp("measured") / "run"
    limits = {"compute_intensity": 0.5, "throughput_per_s": 1.0, "energy_mj": 50.0}
    return tiny.run(experiment(finished_run.data, objectives=WANTED, limits=limits, **SMALL), folder), folder


def test_the_search_trades_them_and_the_certificate_certifies_them(measured):
    summary, folder = measured
    assert summary["status"] == "done", summary["message"]
    for member in summary["front"]:
        metrics = member["metrics"]
        assert metrics["energy_mj@local-cpu"] == pytest.approx(2 * metrics["latency_ms@local-cpu"])
        assert metrics["throughput_per_s@local-cpu"] > 0 and metrics["compute_intensity"] >= 0.5
    (shipped,) = (one for one in summary["deployed"] if one["shipped"])
    certificate = read_json(folder / shipped["certificate"])
    held = {limit["metric"]: limit["holds"] for limit in certificate["limits"]}
    asked = {"compute_intensity", "throughput_per_s@local-cpu", "energy_mj@local-cpu"}
    assert asked <= held.keys() and all(held.values())
    assert certificate["latency"]["local-cpu"]["energy_mj"] == certificate["metrics"]["energy_mj@local-cpu"]
    assert certificate["latency"]["local-cpu"]["energy_source"] == "a formula"


def test_the_report_tells_them_in_their_units(measured):
    summary, _ = measured
    said, page = report.answer(summary), report.render(summary)
    assert " mJ, " in said and " /s on local-cpu" in said
    for label in ("energy on local-cpu", "throughput on local-cpu", "multiply-adds per byte"):
        assert label in page


def test_a_limit_from_below_is_kept_before_anything_is_trained(finished_run, tmp_path):
    wanted = experiment(finished_run.data, limits={"compute_intensity": 1000.0}, **SMALL)
    with pytest.raises(NasflowError, match=r"compute_intensity must be at least 1000, best seen \d"):
        tiny.run(wanted, tmp_path / "run")


def test_what_nobody_asked_for_is_not_measured(finished_run, tmp_path):
    with tiny.world():
        (device,) = Run(finished_run.experiment, tmp_path).devices
        wanted = experiment(finished_run.data, objectives=["error", "energy_mj"])
        (asked,) = Run(wanted, tmp_path).devices
    assert (device.energy, device.throughput) == (False, False)
    assert (asked.energy, asked.throughput) == (True, False)
