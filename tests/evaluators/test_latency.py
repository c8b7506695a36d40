import json
import pickle

import numpy as np
import pytest
import torch
from boards import Fake, Linear, made_up, trial

from nasflow.evaluators.latency import Fastest, MeasuredLatency
from nasflow.export import ExportError, to_onnx
from nasflow.hardware import DeviceError, Latency, Lost, Profile, Unreachable, connect


def test_every_device_gives_its_metric_with_its_name(tmp_path):
    measure = MeasuredLatency([Fake("one"), Fake("two")], Linear(), tmp_path)
    assert measure([trial(0, 3), trial(7, 5)]) == [
        {"latency_ms@one": 3.0, "latency_ms@two": 3.0},
        {"latency_ms@one": 5.0, "latency_ms@two": 5.0},
    ]
    assert measure([]) == []


def test_a_batch_is_measured_together_so_that_the_machines_drift_meets_all_alike(tmp_path):
    device = Fake()
    MeasuredLatency([device], Linear(), tmp_path)([trial(0, 3), trial(1, 4), trial(2, 5)])
    assert device.asked == [["00000", "00001", "00002"]]


def test_the_file_and_all_samples_are_kept_beside_the_trial(tmp_path):
    MeasuredLatency([Fake()], Linear(), tmp_path)([trial(12, 3)])
    kept = json.loads((tmp_path / "00012" / "latency@board.json").read_text())
    assert Latency.from_json(kept["latency"]) == made_up(3) and kept["point"] == {"width": 3}
    assert (tmp_path / "00012" / "candidate.onnx").exists() and len(kept["sha256"]) == 64


def test_a_resumed_trial_is_not_measured_twice(tmp_path):
    MeasuredLatency([Fake()], Linear(), tmp_path)([trial(0, 3)])
    device, other = Fake(), Fake("other")
    answers = MeasuredLatency([device, other], Linear(), tmp_path)([trial(0, 3), trial(1, 4)])
    assert device.asked == [["00001"]] and other.asked == [["00000", "00001"]]
    assert answers[0] == {"latency_ms@board": 3.0, "latency_ms@other": 3.0}


@pytest.mark.parametrize("change", ["another point", "torn", "other json", "no samples"])
def test_what_is_kept_for_another_network_or_broken_is_measured_again(change, tmp_path):
    MeasuredLatency([Fake()], Linear(), tmp_path)([trial(0, 3)])
    record = tmp_path / "00000" / "latency@board.json"
    kept = json.loads(record.read_text())
    record.write_text(
        {
            "another point": json.dumps({**kept, "point": {"width": 4}}),
            "torn": record.read_text()[:40],
            "other json": "[]",
            "no samples": json.dumps({**kept, "latency": {**kept["latency"], "samples_ms": []}}),
        }[change]
    )
    device = Fake()
    assert MeasuredLatency([device], Linear(), tmp_path)([trial(0, 3)]) == [{"latency_ms@board": 3.0}]
    assert device.asked == [["00000"]]


def test_one_bad_network_spoils_no_others_answer(tmp_path):
    measure = MeasuredLatency([Fake(dislikes=(4,)), Fake("other")], Linear(), tmp_path)
    good, disliked, unbuilt, last = measure([trial(0, 3), trial(1, 4), trial(2, 13), trial(3, 5)])
    assert good == {"latency_ms@board": 3.0, "latency_ms@other": 3.0}
    assert last == {"latency_ms@board": 5.0, "latency_ms@other": 5.0}
    assert isinstance(disliked, DeviceError) and "cannot run 4" in str(disliked)
    assert isinstance(unbuilt, RuntimeError) and "thirteen" in str(unbuilt)


def test_a_network_that_cannot_be_exported_is_a_failed_trial(tmp_path):
    (answer,) = MeasuredLatency([Fake()], Linear((1, 5, 5)), tmp_path)([trial(0, 3)])
    assert isinstance(answer, ExportError)


def test_a_device_that_is_away_stops_the_search(tmp_path):
    with pytest.raises(Unreachable, match="board does not answer"):
        MeasuredLatency([Fake(away=True)], Linear(), tmp_path)([trial(0, 3)])


class Going(Fake):
    """A device that goes away at the questions with these numbers, counted from 0."""

    def __init__(self, *at, **known):
        super().__init__(**known)
        self.at, self.questions = at, 0

    def latencies(self, files):
        self.questions += 1
        if self.questions - 1 in self.at:
            raise Lost(f"{self.name}: does not answer")
        return super().latencies(files)


def test_a_device_that_goes_away_fails_the_batch_at_once_and_is_asked_again_for_the_next(tmp_path):
    device, other = Going(0), Fake("other")
    measure = MeasuredLatency([device, other], Linear(), tmp_path)
    for answer in measure([trial(0, 3), trial(1, 4), trial(2, 5)]):
        assert isinstance(answer, Lost) and "board: does not answer" in str(answer)
    assert device.questions == 1, "not once a file: each question waits for the device to come back"
    assert measure([trial(3, 6)]) == [{"latency_ms@board": 6.0, "latency_ms@other": 6.0}]


def test_what_was_measured_before_a_device_went_away_is_kept(tmp_path):
    device = Going(2, dislikes=(13, 4))  # 0: all together; 1, 2, ...: one by one, since it dislikes one
    answers = MeasuredLatency([device], Linear(), tmp_path)(
        [trial(0, 3), trial(1, 4), trial(2, 5), trial(3, 6)]
    )
    assert answers[0] == {"latency_ms@board": 3.0}
    assert all(isinstance(one, Lost) for one in answers[1:]) and device.questions == 3
    assert (tmp_path / "00000" / "latency@board.json").exists()


def test_a_device_that_went_away_in_three_batches_in_a_row_stops_the_search(tmp_path):
    device = Going(0, 1, 3, 4, 5)
    measure = MeasuredLatency([device], Linear(), tmp_path)
    for number, lost in enumerate([True, True, False, True, True]):
        (answer,) = measure([trial(number, 3)])
        assert isinstance(answer, Lost) is lost
    with pytest.raises(Unreachable, match="board: went away in 3 batches in a row; start the run again"):
        measure([trial(5, 3)])
    with pytest.raises(Unreachable):
        measure([trial(6, 3)])
    assert device.questions == 6, "it is not waited for again"


def test_the_weights_are_the_same_every_time_and_randomness_is_left_alone(tmp_path):
    before = torch.manual_seed(123).get_state()
    MeasuredLatency([Fake()], Linear(), tmp_path / "a")([trial(0, 3)])
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    MeasuredLatency([Fake()], Linear(), tmp_path / "b")([trial(9, 3)])
    first, second = (tmp_path / place / "candidate.onnx" for place in ("a/00000", "b/00009"))
    assert first.read_bytes() == second.read_bytes()


def test_it_can_be_sent_to_another_process(tmp_path):
    measure = MeasuredLatency([Fake()], Linear(), tmp_path)
    assert pickle.loads(pickle.dumps(measure)) == measure


def test_a_real_device_measures_the_exported_files(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    device = connect(Profile(name="here", description="a test", reach={"backend": "local"}), budget_s=0.05)
    small, large = MeasuredLatency([device], Linear((4, 16, 64)), tmp_path / "trials")(
        [trial(0, 2), trial(1, 9)]
    )
    assert isinstance(small, DeviceError | ExportError) and isinstance(large, DeviceError | ExportError)
    answers = MeasuredLatency([device], Linear(), tmp_path / "trials")([trial(0, 2), trial(1, 4000)])
    assert answers[1]["latency_ms@here"] > 2 * answers[0]["latency_ms@here"] > 0
    assert all(np.isfinite(list(answer.values())).all() for answer in answers)


# Several forms of one network


class Halved:
    """Networks of half the width cannot take the other form where that is no whole number; the file is the smaller."""

    def __call__(self, model, shape, path):
        width = model[1].out_features
        if width % 2:
            raise ExportError("odd")
        to_onnx(Linear().build({"width": width // 2}), shape, path)


def test_of_several_forms_the_faster_counts_and_one_that_cannot_be_is_left_out(tmp_path):
    plain = MeasuredLatency([Fake()], Linear(), tmp_path / "plain")
    other = MeasuredLatency([Fake()], Linear(), tmp_path / "other", write=Halved())
    answers = Fastest([plain, other])([trial(0, 4), trial(1, 5)])
    assert answers == [{"latency_ms@board": 2.0}, {"latency_ms@board": 5.0}]
    assert isinstance(Fastest([other])([trial(2, 5)])[0], ExportError)


def test_a_device_that_is_away_for_one_form_is_away(tmp_path):
    plain = MeasuredLatency([Fake()], Linear(), tmp_path / "plain")
    away = MeasuredLatency([Fake(away=True)], Linear(), tmp_path / "other")
    with pytest.raises(Unreachable):
        Fastest([plain, away])([trial(0, 4)])
