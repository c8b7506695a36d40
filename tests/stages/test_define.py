"""Before anything is trained: data counted, networks and devices asked whether they answer."""

from unittest import mock

import pytest
import tiny
import torch
from tiny import experiment, opened

from nasflow import names, stages
from nasflow.data import DataError
from nasflow.errors import NasflowError, Unavailable
from nasflow.hardware import Unreachable


def defined(data, folder, **changes):
    with opened(experiment(data, **changes), folder) as run:
        return stages.define(run)


def test_data_and_space_are_counted(finished_run):
    with opened(finished_run.experiment, finished_run.folder) as run:
        found = stages.define(run)
    assert found["data"] == {
        "name": "npz",
        "sha256": run.data.sha256,
        "shape": [1, 8, 8],
        "classes": 4,
        "train": 205,
        "validation": 51,
        "skipped": {},
    }
    assert found["message"] == "205 training images of 1x8x8, 64 points"
    assert found["space"]["size"] == 64
    assert 0 < found["space"]["first"]["flops"] < found["space"]["last"]["flops"]
    assert found["weights"] == {"sha256": None}


def test_a_space_with_reals_has_infinitely_many_points(finished_run, tmp_path):
    space = [tiny.SETTINGS["space"], {"name": "training"}]
    found = defined(finished_run.data, tmp_path / "run", space=space)
    assert found["message"].endswith("infinitely many points")
    assert found["space"]["size"] is None


def test_a_device_that_is_away_is_told_before_anything_is_trained(finished_run, tmp_path):
    with (
        stages.open_run(experiment(finished_run.data, devices=["pixel-3"]), tmp_path / "run") as run,
        pytest.raises(Unreachable, match=r"pixel-3 .* is described but not connected"),
    ):
        stages.pipeline(run)
    assert not (tmp_path / "run" / "study.journal").exists()


def test_what_a_device_cannot_tell_is_said_before_anything_is_trained(finished_run, tmp_path):
    wanted = experiment(finished_run.data, objectives=["error", "energy_mj"])
    with (
        opened(wanted, tmp_path / "run", meter=False) as run,
        pytest.raises(
            Unavailable, match=r"energy_mj on local-cpu: the device measured none .*: no meter here"
        ),
    ):
        stages.pipeline(run)
    assert not (tmp_path / "run" / "study.journal").exists()
    with opened(wanted, tmp_path / "other") as run:
        assert stages.define(run)["message"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("seven_classes", r"gives logits \(2, 4\), one number for each class; it gives \(2, 7\)"),
        ("for_larger_images", r"takes images of \(2, 1, 8, 8\) .*; it fails with RuntimeError: .*64.*784"),
        ("Two", r"gives logits \(2, 4\), .*; it gives a tuple"),
        ("OWN", "known: "),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_told_why(finished_run, tmp_path, at_home, model, message):
    model = f"networks_at_home.py:{model}"
    with pytest.raises(NasflowError, match=message):
        defined(finished_run.data, tmp_path / "run", space=None, model=model)


@pytest.mark.parametrize("setting", ["protect", "only"])
def test_a_part_that_an_own_model_does_not_have_is_told_before_anything_is_trained(
    finished_run, tmp_path, at_home, setting
):
    def started(part, folder):
        model = {"name": "networks_at_home.py:plain"}
        return defined(finished_run.data, folder, space=None, model=model, compress={setting: [part]})

    assert started("3", tmp_path / "right")
    with pytest.raises(NasflowError, match="stem: no module of that name in the network; known: 0, 1"):
        started("stem", tmp_path / "wrong")


def test_the_weights_of_a_model_are_part_of_what_the_run_is_about(finished_run, tmp_path, at_home):
    model = {"name": "networks_at_home.py:plain", "weights": str(tmp_path / "weights.pt")}
    torch.save(names.resolve("model", "networks_at_home.py:plain")().state_dict(), tmp_path / "weights.pt")
    mine = experiment(finished_run.data, space=None, model=model)
    with opened(mine, tmp_path / "run") as run:
        assert len(stages.define(run)["weights"]["sha256"]) == 64
    with opened(mine, tmp_path / "run") as run:
        stages.search(run)
    torch.save(names.resolve("model", "networks_at_home.py:plain")().state_dict(), tmp_path / "weights.pt")
    with (
        opened(mine, tmp_path / "run") as run,
        pytest.raises(NasflowError, match="the weights have changed since this run began"),
    ):
        stages.compress(run)


def test_data_that_cannot_be_read_are_told_before_anything_is_trained(finished_run, tmp_path):
    with (
        mock.patch("nasflow.stages.search.search_loop", lambda *_, **__: pytest.fail("it searched")),
        pytest.raises(DataError, match=r"nowhere\.npz does not exist; correct data\.path"),
    ):
        tiny.run(experiment(tmp_path / "nowhere.npz"), tmp_path / "run")
