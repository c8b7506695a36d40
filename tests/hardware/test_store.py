import dataclasses
import json
from pathlib import Path

import pytest

from nasflow.hardware import Profile, Reach, store
from nasflow.hardware.predictor import Accuracy, Built
from nasflow.hardware.table import Table
from nasflow.yamlfile import FileError

PROFILE = Profile(name="my-board", description="a test", reach=Reach(backend="none"))
BUILT = Built(
    predictor=Table("my-board", {"Relu batch=1": 0.5}, 0.1),
    device="my-board",
    environment={"runtime": "onnxruntime 1.30.0", "threads": 1, "load_average": [0.1]},
    date="2026-01-01T00:00:00Z",
    accuracy=Accuracy.of([1.0, 2.0, 3.0], [1.0, 2.1, 2.9]),
    reference_ms=0.05,
    networks="mobile, 3x32x32",
)


def test_a_predictor_of_ones_own_board_lies_beside_its_profile(tmp_path):
    file = tmp_path / "boards" / "my-board.yaml"
    store.save(BUILT, store.place(PROFILE, file))
    assert (tmp_path / "boards" / "my-board.predictor.json").is_file()
    assert store.load(PROFILE, file) == BUILT


def test_that_of_a_shipped_profile_lies_among_the_users_data(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for file in (None, Path("my-board")):
        assert store.place(PROFILE, file) == tmp_path / "nasflow" / "devices" / "my-board.predictor.json"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert store.place(PROFILE).is_relative_to(Path.home() / ".local" / "share")


def test_what_was_never_built_is_none(tmp_path):
    assert store.load(PROFILE, tmp_path / "my-board.yaml") is None


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"kind": "oracle"},
        {"reference_ms": 0},
        {"predictor": {}},
        {"accuracy": None},
        {"environment": 3},
    ],
)
def test_a_broken_file_is_named_with_what_to_do(tmp_path, change):
    file = tmp_path / "my-board.predictor.json"
    file.write_text(json.dumps({**store.to_json(BUILT), **change}))
    with pytest.raises(FileError, match=r"my-board\.predictor\.json: expected a predictor.*--build"):
        store.read(file)


@pytest.mark.parametrize("text", ["[]", "3", "{}"])
def test_json_of_something_else_is_refused(tmp_path, text):
    file = tmp_path / "x.json"
    file.write_text(text)
    with pytest.raises(FileError):
        store.read(file)


def test_a_changed_runtime_is_told_and_a_busy_hour_is_not():
    now = {"runtime": "onnxruntime 1.31.1", "threads": 1, "load_average": [7.0], "governor": "powersave"}
    assert store.stale(BUILT, now) == ["runtime was onnxruntime 1.30.0, is onnxruntime 1.31.1"]
    assert store.stale(BUILT, BUILT.environment) == []


def test_a_built_predictor_is_a_value():
    assert dataclasses.replace(BUILT) == BUILT
