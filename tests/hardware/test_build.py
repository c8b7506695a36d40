import itertools
import json
from dataclasses import replace

import pytest

from nasflow.hardware import build as building
from nasflow.hardware import store
from nasflow.hardware.build import BuildError, Record, build
from nasflow.hardware.device import DeviceError, Lost
from nasflow.names import UnknownName
from nasflow.testing.devices import FUSING, Simulated, Speeds
from nasflow.testing.predictors import chain


class Chains:
    name = "chains"

    def __init__(self):
        self.written = []

    def write(self, number, file):
        self.written.append(number)
        chain(file, number)


class Stopped(Exception):
    pass


def ticking():
    """A clock that goes on by some seconds whenever it is looked at."""
    return itertools.count(step=4).__next__


def made(folder, method="network", minutes=1.0, device=None, **others):
    return build(device or Simulated(), method, minutes, Chains(), folder, clock=ticking(), **others)


class Neighboured(Simulated):
    """A device whose calls all take `times` as long for a while, but for the one in `quick` calls that nobody met."""

    times, quick = 1.0, 5

    def latencies(self, files, watch=None):
        return [self._met(one) for one in super().latencies(files, watch)]

    def _met(self, one):
        samples = tuple(
            ms * (1.0 if self.quick and number % self.quick == 0 else self.times)
            for number, ms in enumerate(one.samples_ms)
        )
        noisy = "others had the core" if self.times > 1 else ""
        return replace(one, samples_ms=samples, p50_ms=one.p50_ms * self.times, noisy=noisy)


@pytest.mark.parametrize("method", [one for one in building.METHODS if one != "few-shot"])
def test_every_method_builds_a_predictor_that_is_judged_on_networks_held_out(method, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "PRIOR", 6)
    monkeypatch.setattr(building, "NEIGHBOURS", 1)
    built = made(tmp_path, method, minutes=2.0)
    assert built.predictor.kind == method
    assert built.accuracy.count >= 2
    assert built.accuracy.mape.value < (1.0 if method == "roofline" else 0.3)
    assert (built.device, built.networks) == ("simulated", "chains")
    assert built.measured > built.accuracy.count and built.noisy == 0
    assert built.environment["runtime"] == "simulated 1.0"
    assert store.from_json(json.loads(json.dumps(store.to_json(built)))).accuracy == built.accuracy


def test_a_build_that_was_stopped_goes_on_and_measures_nothing_twice(tmp_path):
    def say(text):
        if text.startswith("24 networks"):
            raise Stopped

    device = Simulated()
    with pytest.raises(Stopped):
        made(tmp_path, device=device, say=say)
    assert device.asked == 24 + 3 + 1  # the anchors once more, and the file that does nothing
    said = []
    made(tmp_path, device=device, say=said.append)
    assert said[0].startswith("going on") and said[1].startswith("36 networks")
    numbers = [row[0] for line in _lines(tmp_path) for row in line.get("networks", [])]
    anchors = [row[0] for line in _lines(tmp_path) for row in line.get("anchors", [])]
    assert len(numbers) == len(set(numbers)) == device.asked - 2 - len(anchors)
    assert set(anchors) == {0, 1, 2}


def test_the_seconds_of_a_stopped_build_count(tmp_path):
    made(tmp_path, minutes=1.0)
    device = Simulated()
    made(tmp_path, minutes=1.0, device=device)
    assert device.asked == 1
    assert sum(line.get("seconds", 0) for line in _lines(tmp_path)) <= 70


def test_a_line_that_a_kill_cut_off_is_as_if_never_written(tmp_path):
    made(tmp_path)
    file = tmp_path / "measurements.jsonl"
    whole = file.read_text()
    file.write_text(whole[:-30])
    before = len(Record.open(tmp_path, {"runtime": "simulated 1.0", "threads": 1}, "chains").times)
    built = made(tmp_path)
    assert before < len(Record.open(tmp_path, {"runtime": "simulated 1.0", "threads": 1}, "chains").times)
    assert built.accuracy.count > 0


def test_measurements_of_another_runtime_are_left_aside(tmp_path):
    made(tmp_path)
    device = Simulated(environment={"runtime": "simulated 2.0", "threads": 1})
    made(tmp_path, device=device)
    assert device.asked > 20


def test_a_network_that_the_device_cannot_run_is_left_out(tmp_path):
    class Picky(Simulated):
        def latencies(self, files, watch=None):
            if any(file.stem == "00003" for file in files):
                raise DeviceError("cannot run 00003")
            return super().latencies(files, watch)

    made(tmp_path, device=Picky())
    numbers = {row[0] for line in _lines(tmp_path) for row in line.get("networks", [])}
    assert 3 not in numbers and {2, 4} <= numbers


def test_a_device_that_can_run_nothing_says_why(tmp_path):
    class Broken(Simulated):
        def latencies(self, files, watch=None):
            if "nothing" not in files[0].stem:
                raise DeviceError("no such operator")
            return super().latencies(files, watch)

    with pytest.raises(DeviceError, match="no such operator"):
        made(tmp_path, device=Broken())


def test_too_little_time_is_told_with_what_to_do(tmp_path):
    with pytest.raises(BuildError, match="--minutes"):
        made(tmp_path, minutes=0.01)
    with pytest.raises(BuildError, match="more than 0 minutes"):
        made(tmp_path, minutes=0.0)


@pytest.mark.parametrize("method", ["roofline", "table"])
def test_what_the_device_runs_as_one_is_looked_for_in_time_and_never_twice(method, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "PRIOR", 6)
    monkeypatch.setattr(building, "PAIRS_AT_ONCE", 1)
    first, again, whole = Simulated(), Simulated(), Simulated()
    with pytest.raises(BuildError, match="1 of 2 pairs of operators were tried"):
        made(tmp_path / "hurried", method, minutes=0.3, device=first)
    made(tmp_path / "hurried", method, minutes=3.0, device=again)
    made(tmp_path / "whole", method, minutes=3.0, device=whole)
    lines = map(json.loads, (tmp_path / "hurried" / "measurements.jsonl").read_text().splitlines())
    tried = [pair for line in lines for *pair, _ in line.get("together", [])]
    assert first.asked and sorted(tried) == [["Conv", "Relu"], ["DepthwiseConv", "Relu"]]
    kept = [Record.open(tmp_path / name, {"runtime": "simulated 1.0", "threads": 1}, "chains").rules
            for name in ("hurried", "whole")]  # fmt: skip
    assert kept[0] == kept[1] is not None


def test_a_neighbour_moves_no_prediction_as_long_as_some_calls_do_not_meet_him(tmp_path):
    files = [chain(tmp_path / f"{seed}.onnx", 1000 + seed) for seed in range(5)]

    class Sometimes(Neighboured):
        @property
        def times(self):
            return 1.0 + self.asked % 2  # with every second batch

    alone, neighboured = made(tmp_path / "a"), made(tmp_path / "b", device=Sometimes())
    assert neighboured.noisy == 0
    pairs = zip(alone.predictor.predict(files), neighboured.predictor.predict(files), strict=True)
    assert all(one.p50_ms == pytest.approx(other.p50_ms, rel=1e-6) for one, other in pairs)


def test_batches_that_were_disturbed_throughout_are_left_out_and_counted(tmp_path):
    class Once(Neighboured):
        quick = 0

        @property
        def times(self):
            return 1.5 if 30 < self.asked < 60 else 1.0

    said = []
    built = made(tmp_path, minutes=3.0, device=Once(), say=said.append)
    assert built.noisy == 24 and built.accuracy.mape.value < 0.3
    assert any("24 too noisy to count" in text for text in said)


def test_a_clock_that_changes_a_little_is_taken_out(tmp_path):
    class Warming(Neighboured):
        quick = 0

        @property
        def times(self):
            return 1.0 + self.asked / 2000

    record = Record.open(tmp_path, {"runtime": "simulated 1.0", "threads": 1}, "chains")
    made(tmp_path, device=(device := Warming()))
    record = Record.open(tmp_path, {"runtime": "simulated 1.0", "threads": 1}, "chains")
    true = {number: device.true_ms(chain(tmp_path / "one.onnx", number)) for number in record.times}
    ratios = [record.times[number] / true[number] for number in true]
    assert max(ratios) / min(ratios) < 1.005 and record.noisy == 0


def test_what_stands_alone_as_the_quickest_is_unsure_and_left_out(tmp_path):
    class Lucky(Simulated):
        def latencies(self, files, watch=None):
            told = super().latencies(files, watch)
            return [
                replace(one, samples_ms=(one.p50_ms / 2, *one.samples_ms[1:]))
                if file.stem == "00007"
                else one
                for file, one in zip(files, told, strict=True)
            ]

    built = made(tmp_path, device=Lucky())
    assert built.noisy == 1
    assert [line["unsure"] for line in _lines(tmp_path) if line.get("unsure")] == [[7]]


def test_few_networks_are_enough_where_another_device_is_known(tmp_path):
    known = made(tmp_path / "known", minutes=2.0)
    device = Simulated(Speeds(gmacs=2.0, gbytes=4.0, start_us=8.0), name="slow")
    built = made(tmp_path / "new", "few-shot", minutes=2.0, device=device, like=[known])
    assert built.predictor.kind == "transfer"
    assert built.measured == building.FEW + building.JUDGING and built.accuracy.count == building.JUDGING
    assert built.accuracy.mape.value < 0.1


def test_few_shot_needs_a_known_device_and_no_other_method_takes_one(tmp_path):
    with pytest.raises(BuildError, match="--like DEVICE"):
        made(tmp_path, "few-shot")
    known = made(tmp_path)
    with pytest.raises(BuildError, match="no other method"):
        made(tmp_path, "network", like=[known])


def test_kernels_are_those_that_the_device_was_found_to_fuse(tmp_path, monkeypatch):
    monkeypatch.setattr(building, "PRIOR", 6)
    for method in ("table", "kernels", "roofline"):
        built = made(tmp_path / method, method, minutes=4.0, device=Simulated(rules=FUSING), batch=1)
        assert ("Conv", "Relu") in built.predictor.rules.pairs
        if method == "table":
            assert any(name.startswith("Conv+Relu ") for name in built.predictor.kernels)
    assert sum("rules" in line for line in _lines(tmp_path / "table")) == 1


def test_a_device_that_went_away_stops_the_build_and_refuses_no_network(tmp_path):
    class Away(Simulated):
        def latencies(self, files, watch=None):
            if self.asked > 10:
                raise Lost("does not answer")
            return super().latencies(files, watch)

    with pytest.raises(Lost):
        made(tmp_path, device=Away())
    assert not any(line.get("refused") for line in _lines(tmp_path))


def test_an_unknown_method_is_told_before_anything_is_measured(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'network'"):
        made(tmp_path, "netwrok")


def _lines(folder):
    return [json.loads(line) for line in (folder / "measurements.jsonl").read_text().splitlines()]
