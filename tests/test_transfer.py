"""A network that was found is taken to other data or made larger."""

import json
from pathlib import Path

import pytest

from nasflow.errors import NasflowError
from nasflow.experiment import load
from nasflow.transfer import NoPoint, experiment

POINT = {"stage1.depth": 2, "stage1.width": 16, "stage1.squeeze": True, "resolution": 1.0}
OTHER = {**POINT, "stage1.width": 24}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A run with two networks on its front, one of which ships."""
    monkeypatch.chdir(tmp_path)
    origin = load(
        "digits", ["space={name: mobile, kernels: [3]}", "search.recipe.batch_size=32", "retrain.epochs=9"]
    )
    summary = {
        "experiment": origin.model_dump(mode="json"),
        "front": [{"trial": 3, "point": POINT}, {"trial": 12, "point": OTHER}],
        "deployed": [
            {"shipped": False, "network": {"point": OTHER, "policy": {}}},
            {"shipped": True, "network": {"point": POINT, "policy": {"stage1.width": 0.5}}},
        ],
    }
    (tmp_path / "runs/digits").mkdir(parents=True)
    (tmp_path / "runs/digits/summary.json").write_text(json.dumps(summary))
    return tmp_path


def test_the_shipped_network_of_a_run_goes_to_other_data_with_the_run_s_settings():
    found = experiment("digits", "folder", overrides=["data.path=pictures"])
    assert found.point == POINT and found.name == "digits-on-folder"
    assert (found.data.name, found.data.path) == ("folder", Path("pictures"))
    assert found.space[0].arguments == {"kernels": [3]}
    assert found.search.recipe.batch_size == 32 and found.retrain.epochs == 9
    assert not found.compress.enabled
    assert found.limits == {}, "limits were meant for the other data"


def test_a_trial_of_the_front_is_named_by_its_number():
    found = experiment("runs/digits:12", "digits")
    assert found.point == OTHER and found.name == "digits-12-on-digits"


def test_an_experiment_file_brings_data_and_all_other_settings(folder):
    (folder / "larger.yaml").write_text(
        "data: {name: folder, path: pictures}\nretrain: {epochs: 77}\nlimits: {flops: 5}\n"
    )
    found = experiment("digits:3", "larger.yaml", overrides=["compress.enabled=true"])
    assert (found.retrain.epochs, found.limits, found.data.name) == (77, {"flops": 5.0}, "folder")
    assert found.point == POINT and found.compress.enabled and found.name == "digits-3-on-larger"
    assert found.space[0].arguments == {"kernels": [3]}, "the point is one of its own space"


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(POINT),
        "stage1.depth: 2\nstage1.width: 16\nstage1.squeeze: true\nresolution: 1.0\n",
        json.dumps({"name": "trial-3", "network": {"name": "trial-3", "point": POINT, "policy": {}}}),
        json.dumps({"trial": 3, "point": POINT}),
    ],
)
def test_a_point_is_read_from_a_file_or_a_certificate(folder, content):
    (folder / "found.json").write_text(content)
    found = experiment("found.json", "digits")
    assert found.point == POINT and found.name == "found-on-digits"
    assert [part.name for part in found.space] == ["mobile"]


def test_a_network_can_be_made_larger():
    found = experiment("digits", "digits", width=2.0, depth=1)
    assert found.point == {**POINT, "stage1.depth": 3, "stage1.width": 32}


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("digits:4", r"expected a trial on the front of runs/digits, got 4: .*12, 3"),
        ("digitz", r"digitz: expected the folder of a run.*runs/digits"),
        ("list.json", r"list\.json: expected lines such as"),
        ("nested.json", r"nested\.json: expected a point, a value for the name of every choice"),
        ("empty.json", r"empty\.json: expected a point"),
    ],
)
def test_what_holds_no_network_is_told_clearly(folder, point, message):
    (folder / "list.json").write_text("[1]")
    (folder / "nested.json").write_text('{"a": {"b": [1]}}')
    (folder / "empty.json").write_text("{}")
    with pytest.raises(NasflowError, match=message):
        experiment(point, "digits")


def test_a_run_that_ships_nothing_asks_for_a_trial(folder):
    summary = json.loads((folder / "runs/digits/summary.json").read_text())
    (folder / "runs/digits/summary.json").write_text(json.dumps({**summary, "deployed": []}))
    with pytest.raises(NoPoint, match=r"ships nothing \(yet\); name a trial of its front"):
        experiment("digits", "digits")


def test_wrong_settings_are_told_as_for_a_file():
    with pytest.raises(NasflowError, match=r"digits on idx: data\.path: expected"):
        experiment("digits", "idx")
    with pytest.raises(
        NasflowError, match=r"--set retrain\.epochs=0: retrain\.epochs: expected an integer >= 1"
    ):
        experiment("digits", "digits", overrides=["retrain.epochs=0"])


def test_a_space_that_cannot_grow_says_so(folder):
    (folder / "rigid.py").write_text("def space(): ...\n")
    summary = json.loads((folder / "runs/digits/summary.json").read_text())
    summary["experiment"]["space"] = "rigid.py"
    (folder / "runs/digits/summary.json").write_text(json.dumps(summary))
    with pytest.raises(NoPoint, match=r"the space 'rigid\.py' has no `larger`"):
        experiment("digits", "digits", width=2.0)
