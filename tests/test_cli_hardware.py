import json

import pytest
import yaml

from nasflow import cli_hardware, hardware
from nasflow.cli_hardware import Sampled, build_command
from nasflow.errors import NasflowError
from nasflow.hardware import build, store
from nasflow.testing.devices import Simulated
from nasflow.testing.predictors import chain


def test_a_network_is_the_same_whenever_it_is_made(tmp_path):
    supply = Sampled("mobile", (1, 8, 8))
    for name, number in (("a", 3), ("b", 3), ("c", 4)):
        supply.write(number, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


def test_the_command_leaves_a_predictor_and_its_measurements_and_says_how_good_it_is(
    tmp_path, monkeypatch, capsys
):
    profile = tmp_path / "my-board.yaml"
    profile.write_text(yaml.safe_dump({"description": "a test", "reach": {"backend": "none"}}))
    monkeypatch.setattr(hardware, "connect", lambda profile, **settings: Simulated(name=profile.name))
    seconds = iter(range(0, 10**6, 5))
    whole = build.build
    monkeypatch.setattr(
        build, "build", lambda *given, **named: whole(*given, **named, clock=lambda: float(next(seconds)))
    )
    monkeypatch.setattr(Sampled, "write", lambda supply, number, file: chain(file, number))
    out = tmp_path / "said.json"
    built = build_command(str(profile), "network", 1.0, "mobile", "1x8x8", as_json=out)
    assert store.load(hardware.load_profile(profile), profile).accuracy == built.accuracy
    assert (tmp_path / "my-board.predictor" / "measurements.jsonl").is_file()
    assert not (tmp_path / "my-board.predictor" / "networks").exists()
    said = capsys.readouterr().out
    assert "networks that it was not shown" in said and "within 10 %" in said
    assert f"from {built.measured} measurements" in said
    answer = json.loads(out.read_text())
    assert answer["accuracy"] == built.accuracy.to_json() and answer["measured"] == built.measured
    assert (answer["method"], answer["kind"]) == ("network", "network")
    assert answer["file"] == str(tmp_path / "my-board.predictor.json") and "predictor" not in answer
    assert "written:" in said


def test_a_known_device_without_a_predictor_is_told_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(hardware, "connect", lambda *given, **settings: pytest.fail("measured"))
    with pytest.raises(NasflowError, match="nasflow profile pixel-3 --build network"):
        build_command("local-cpu", "few-shot", 1.0, "mobile", "3x32x32", like=["pixel-3"])


def test_measurements_left_out_are_counted():
    from nasflow.hardware.predictor import Accuracy, Built

    built = Built(None, "board", {}, "2026-01-01", Accuracy.of([1.0], [1.0]), 1.0, measured=30, noisy=4)
    assert cli_hardware.counted(built) == "from 30 measurements; 4 more on a machine too noisy to tell"


@pytest.mark.parametrize("shape", ["32x32", "3x32x32x1", "3x0x32", "axbxc", ""])
def test_a_senseless_input_is_refused(shape):
    with pytest.raises(NasflowError, match="expected channels, height and width"):
        build_command("local-cpu", "network", 1.0, "mobile", shape)


def test_a_slip_in_a_space_is_told_before_anything_is_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "connect", lambda *given, **settings: pytest.fail("measured"))
    with pytest.raises(NasflowError, match="mobile"):
        build_command("local-cpu", "network", 1.0, "mobil", "3x32x32")


def test_words_for_every_figure():
    from nasflow.hardware.predictor import Accuracy

    assert len(cli_hardware.told(Accuracy.of([1.0, 2.0], [1.0, 2.0]))) == 6
