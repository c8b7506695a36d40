"""Architecture, sparsity and bits searched together: error, size and latency are those of what a point means."""

import doctest
import importlib

import numpy as np
import onnx
import pytest
import tiny
from tiny import experiment, opened

from nasflow.stages import integers
from nasflow.stages.integers import validation_error
from nasflow.stages.search import evaluation


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(importlib.import_module("nasflow.stages.integers")).failed == 0


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    """A whole run over architecture * compression: experiment, folder, summary."""
    folder = tmp_path_factory.mktemp("joint")
    data = tiny.write_images(folder / "images.npz")
    space = [tiny.SETTINGS["space"], {"name": "compression", "keep": [0.5, 1.0]}]
    wanted = experiment(
        data,
        space=space,
        search={"trials": 4, "epochs": 2, "strategy": "random", "batch": 4},
        retrain={"networks": 2, "epochs": 2, "seeds": 1},
        limits={"latency_ms": 1.0},
    )
    return wanted, folder / "run", tiny.run(wanted, folder / "run")


def test_both_kinds_stand_on_one_front_of_one_study(joint):
    _, folder, summary = joint
    points = [entry for entry in summary["points"] if entry["state"] == "done"]
    assert {entry["point"]["compression.int8"] for entry in points} == {False, True}
    for entry in points:
        file = folder / "trials" / f"{entry['trial']:05d}" / "candidate.onnx"
        kinds = {node.op_type for node in onnx.load(file).graph.node}
        assert ("QuantizeLinear" in kinds) is entry["point"]["compression.int8"]
        assert entry["metrics"]["latency_ms@local-cpu"] == tiny.by_size(file)
        assert ("error_fp32" in entry["metrics"]) is entry["point"]["compression.int8"]


def test_the_error_of_a_network_in_integers_is_that_of_its_file(joint):
    wanted, folder, summary = joint
    whole = [e for e in summary["points"] if e["state"] == "done" and e["point"]["compression.int8"]]
    with opened(wanted, folder) as run:
        for entry in whole:
            file = folder / "trials" / f"{entry['trial']:05d}" / "int8.onnx"
            assert entry["metrics"]["error"] == validation_error(run.data, file)


def test_bytes_are_counted_as_they_are_stored(joint):
    wanted, folder, _ = joint
    with opened(wanted, folder) as run:
        cheap = evaluation(run).cheap
        point = run.architecture.space().sample(np.random.default_rng(0))
        floats, whole = (cheap({**point, "compression.int8": int8}) for int8 in (False, True))
    assert whole["size_kb"] == floats["size_kb"] / 4 and whole["flops"] == floats["flops"]


def test_what_is_deployed_is_in_the_form_that_was_searched(joint):
    _, folder, summary = joint
    assert summary["stages"]["compress"]["message"] == "searched together with the architecture"
    for one in summary["deployed"]:
        kinds = {node.op_type for node in onnx.load(folder / one["file"]).graph.node}
        asked = one["network"]["point"]["compression.int8"]
        assert ("QuantizeLinear" in kinds) is asked is one["network"]["int8"]


def test_only_spaces_of_networks_can_be_searched_alone(joint):
    with pytest.raises(Exception, match="got compression \\* training alone"):
        experiment(joint[1], space="compression * training")


def test_images_for_calibration_are_the_same_every_time(joint):
    wanted, folder, _ = joint
    with opened(wanted, folder) as run:
        a, b, other = (integers.calibration(run.data, seed, 16) for seed in (1, 1, 2))
    assert (a == b).all() and not (a == other).all() and len(a) == 16
