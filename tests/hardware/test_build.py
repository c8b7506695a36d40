import itertools
import json

import pytest

from nasflow.hardware import build as building
from nasflow.hardware import store
from nasflow.hardware.build import BuildError, Record, build
from nasflow.hardware.device import DeviceError
from nasflow.names import UnknownName
from nasflow.testing.devices import Simulated
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


@pytest.mark.parametrize("method", building.METHODS)
def test_every_method_builds_a_predictor_that_is_judged_on_networks_held_out(method, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "PRIOR", 6)
    monkeypatch.setattr(building, "NEIGHBOURS", 1)
    built = made(tmp_path, method, minutes=2.0)
    assert built.predictor.kind == method
    assert built.accuracy.count >= 2
    assert built.accuracy.mape.value < (1.0 if method == "roofline" else 0.3)
    assert (built.device, built.networks) == ("simulated", "chains")
    assert built.environment["runtime"] == "simulated 1.0"
    assert store.from_json(json.loads(json.dumps(store.to_json(built)))).accuracy == built.accuracy


def test_a_build_that_was_stopped_goes_on_and_measures_nothing_twice(tmp_path):
    def say(text):
        if text.startswith("20 networks"):
            raise Stopped

    device = Simulated()
    with pytest.raises(Stopped):
        made(tmp_path, device=device, say=say)
    assert device.asked == 21  # and the file that does nothing
    said = []
    made(tmp_path, device=device, say=said.append)
    assert said[0].startswith("going on") and said[1].startswith("30 networks")
    numbers = [row[0] for line in _lines(tmp_path) for row in line.get("networks", [])]
    assert len(numbers) == len(set(numbers)) == device.asked - 2


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
    before = len(Record.open(tmp_path, {"runtime": "simulated 1.0", "threads": 1}, "chains").networks)
    built = made(tmp_path)
    assert before < len(Record.open(tmp_path, {"runtime": "simulated 1.0", "threads": 1}, "chains").networks)
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


def test_an_unknown_method_is_told_before_anything_is_measured(tmp_path):
    with pytest.raises(UnknownName, match="did you mean 'network'"):
        made(tmp_path, "netwrok")


def _lines(folder):
    return [json.loads(line) for line in (folder / "measurements.jsonl").read_text().splitlines()]
