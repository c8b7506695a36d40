"""Predictions beside measurements: believed, refused, refitted, and the same again after a kill."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
from boards import Fake, Linear, made_up, trial

from nasflow.errors import Unavailable
from nasflow.evaluators.foretold import Foresight, Record, Records
from nasflow.evaluators.latency import MeasuredLatency
from nasflow.hardware import Unreachable
from nasflow.hardware.device import Lost
from nasflow.hardware.predictor import CannotPredict, Prediction


@dataclass(frozen=True)
class Scaled:
    """A predictor by the width of the network, which it finds out from the size of its file; it errs by a factor."""

    factor: float = 1.0
    deviation: float = 0.02
    unknown: tuple[str, ...] = ()
    kind: str = "network"
    refits: list = field(default_factory=list, compare=False)

    def predict(self, files):
        if any(file.parent.name in self.unknown for file in files):
            raise CannotPredict("no entry for such a layer")
        times = [self.factor * Fake().latency(file).p50_ms for file in files]
        return [Prediction(ms, self.deviation * ms, (("Gemm", ms),)) for ms in times]

    def refitted(self, measured):
        self.refits.append([file.parent.name for file, _ in measured])
        ratios = [ms / Fake().latency(file).p50_ms for file, ms in measured]
        return replace(self, factor=float(np.mean(ratios)))


def latency(folder: Path, device=None, asked=(), **foresight):
    predictor = foresight.pop("predictor", Scaled())
    known = {"board": Foresight(predictor, **foresight)}
    return MeasuredLatency([device or Fake()], Linear(), folder, known, asked)


def kept(folder: Path, number: int):
    return json.loads((folder / f"{number:05d}" / "latency@board.json").read_text())


def test_a_prediction_that_is_sure_enough_spares_the_measurement(tmp_path):
    device = Fake()
    found = latency(tmp_path, device, predictor=Scaled(1.1), width=0.1)([trial(0, 3), trial(1, 5)])
    assert [one["latency_ms@board"] for one in found] == pytest.approx([3.3, 5.5])
    assert device.asked == []
    assert kept(tmp_path, 0)["source"] == "predicted" and "latency" not in kept(tmp_path, 0)
    assert (tmp_path / "00000" / "candidate.onnx").exists()


@pytest.mark.parametrize("deviation,asked", [(0.049, []), (0.051, [["00000"]])])
def test_a_wide_interval_is_measured(deviation, asked, tmp_path):
    device = Fake()
    latency(tmp_path, device, predictor=Scaled(1.1, deviation), width=0.1)([trial(0, 3)])
    assert device.asked == asked


@pytest.mark.parametrize("limit,asked", [(3.2, []), (3.1, [["00000"]]), (2.9, [["00000"]]), (2.8, [])])
def test_an_interval_across_the_limit_is_measured(limit, asked, tmp_path):
    device = Fake()  # 3 ms, and two deviations of 0.06 ms on each side
    latency(tmp_path, device, limit_ms=limit, width=0.1)([trial(0, 3)])
    assert device.asked == asked


def test_without_width_only_what_is_surely_over_the_limit_is_not_measured(tmp_path):
    device = Fake()
    wide = Scaled(deviation=0.1)
    found = latency(tmp_path, device, predictor=wide, limit_ms=4.0)([trial(0, 3), trial(1, 5), trial(2, 6)])
    assert device.asked == [["00000", "00001"]]
    assert [one["latency_ms@board"] for one in found] == [3.0, 5.0, 6.0]
    exact = latency(tmp_path / "exact", device, predictor=Scaled(deviation=0.0))
    exact([trial(0, 3)])
    assert device.asked[1:] == [["00000"]]


def test_both_are_kept_so_that_they_can_be_compared(tmp_path):
    latency(tmp_path, predictor=Scaled(1.5))([trial(0, 3)])
    record = Record.from_json(kept(tmp_path, 0))
    assert record.predicted == Prediction(4.5, 0.09, (("Gemm", 4.5),)) and record.latency == made_up(3)
    assert kept(tmp_path, 0)["source"] == "measured"


def test_a_batch_is_foretold_by_what_was_measured_before_it(tmp_path):
    predictor = Scaled(2.0, deviation=0.2)
    measure = latency(tmp_path, predictor=predictor, width=0.1)
    measure([trial(0, 3), trial(1, 4)])
    measure([trial(2, 5)])
    assert [kept(tmp_path, n)["predicted"]["p50_ms"] for n in range(3)] == [6.0, 8.0, 5.0]
    assert predictor.refits == [["00000", "00001"]]


def test_what_a_kill_left_in_the_middle_of_a_batch_is_foretold_in_the_same_way(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for folder in (whole, cut):
        measure = latency(folder, predictor=Scaled(2.0, deviation=0.2))
        measure([trial(0, 3), trial(1, 4)])
        measure([trial(2, 5), trial(3, 6)])
    (cut / "00003" / "latency@board.json").unlink()  # and trial 2 was measured already
    again = latency(cut, predictor=Scaled(2.0, deviation=0.2))([trial(2, 5), trial(3, 6)])
    assert again == [{"latency_ms@board": 5.0}, {"latency_ms@board": 6.0}]
    assert kept(cut, 3) == kept(whole, 3)


def test_what_was_foretold_stays_foretold_when_the_search_goes_on(tmp_path):
    latency(tmp_path, predictor=Scaled(1.1), width=0.1)([trial(0, 3)])
    device, other = Fake(), Scaled(9.0)
    found = latency(tmp_path, device, predictor=other, width=0.1)([trial(0, 3)])
    assert found[0]["latency_ms@board"] == pytest.approx(3.3) and device.asked == []


def test_what_a_predictor_knows_too_little_about_is_measured(tmp_path):
    device = Fake()
    found = latency(tmp_path, device, predictor=Scaled(1.1, unknown=("00001",)), width=0.1)(
        [trial(0, 3), trial(1, 5)]
    )
    assert device.asked == [["00001"]]
    assert [one["latency_ms@board"] for one in found] == pytest.approx([3.3, 5.0])


def test_where_energy_is_asked_for_a_prediction_does_not_do(tmp_path):
    device = Fake()
    with_energy = latency(tmp_path, device, asked=["energy_mj@board"], limit_ms=4.0, width=0.1)
    (near, far) = with_energy([trial(0, 3), trial(1, 9)])
    assert device.asked == [["00000"]] and isinstance(near, Unavailable)  # this device has no meter
    assert far == {"latency_ms@board": 9.0}  # over the limit, whatever its energy


def test_predictions_stand_for_a_device_that_is_away_if_they_may(tmp_path, caplog):
    wide = Scaled(deviation=0.3, unknown=("00001",))
    found = latency(tmp_path, Fake(away=True), predictor=wide, width=0.1)([trial(0, 3), trial(1, 5)])
    assert found[0] == {"latency_ms@board": 3.0}
    assert isinstance(found[1], Unreachable)
    assert "board does not answer; predictions stand for it meanwhile" in caplog.text
    with pytest.raises(Unreachable):
        latency(tmp_path, Fake(away=True))([trial(0, 3)])


def test_predictions_stand_for_a_device_that_goes_away_while_it_is_asked(tmp_path, caplog):
    class Going(Fake):
        def latencies(self, files):
            raise Lost("board went away")

    found = latency(tmp_path, Going(), predictor=Scaled(deviation=0.3), width=0.1)([trial(0, 3), trial(1, 5)])
    assert found == [{"latency_ms@board": 3.0}, {"latency_ms@board": 5.0}]
    assert "board went away; its prediction stands for it" in caplog.text
    (failed,) = latency(tmp_path / "measured", Going())([trial(0, 3)])
    assert isinstance(failed, Lost)


def test_records_from_before_there_were_predictions_are_read(tmp_path):
    place = tmp_path / "00000"
    place.mkdir()
    said = {"point": {"width": 3}, "sha256": "0" * 64, "latency": made_up(3).to_json()}
    (place / "latency@board.json").write_text(json.dumps(said))
    assert Records(tmp_path).measured("board", before=1) == ([(place / "candidate.onnx", 3.0)], 0)
    assert Records(tmp_path).read(trial(0, 3), "board").latency == made_up(3)
    assert Records(tmp_path).read(trial(0, 4), "board") is None


def test_noisy_measurements_teach_nothing_and_are_counted(tmp_path):
    kept, afterwards = Records(tmp_path), Records(tmp_path)
    assert kept.measured("board") == ([], 0)
    for number in range(4):
        noisy = "others had the core" if number % 2 else ""
        kept.write(number, "board", Record({}, "0" * 64, latency=replace(made_up(3 + number), noisy=noisy)))
    for records in (kept, afterwards):
        assert records.measured("board") == ([(kept.file(0), 3.0), (kept.file(2), 5.0)], 2)
        assert records.measured("board", before=1) == ([(kept.file(0), 3.0)], 0)
