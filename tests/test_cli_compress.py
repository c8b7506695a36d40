"""A network of one's own from the command line to smaller files: what is asked for, and what is told of it."""

import json
from pathlib import Path
from unittest import mock

import pytest
import tiny
from tiny import opened

from nasflow import cli_compress, stages
from nasflow.errors import NasflowError
from nasflow.report import words

MODEL = """
from torch import nn

def small(width=16):
    def conv(a, b, stride=1):
        return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
    return nn.Sequential(conv(1, width), conv(width, width), conv(width, 2 * width, 2),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 4))
"""
QUICK = [
    "search.epochs=3",
    "search.workers=1",
    "compress.trials=2",
    "compress.epochs=2",
    "compress.max_error_increase=0.5",
    "compress.round_to=8",
    "compress.mixed=false",
    "retrain.epochs=2",
    "deploy.int8_agreement=0.3",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(targets=(), data="digits", model="my_net.py:small", weights=None, overrides=()):
    return cli_compress.experiment(model, data, targets, weights, overrides)


# What is asked for


def test_the_devices_are_those_of_the_targets(folder):
    (folder / "pi.yaml").write_text("description: a board\nreach: {backend: none}\n")
    assert asked().devices == ("local-cpu",)
    assert asked(["flops=0.5x"]).devices == ("local-cpu",)
    assert asked(["latency_ms=0.5x@jetson-nano", "size_kb=9"]).devices == ("jetson-nano",)


def test_with_targets_the_least_error_ships_without_them_the_fastest_of_about_the_same_error(folder):
    assert str(asked(["flops=0.5x"]).deploy.ship) == "best error"
    assert str(asked().deploy.ship) == "fastest within 1 points"
    assert asked().name == "my_net-small"


def test_data_may_be_a_name_a_folder_a_file_or_an_experiment(folder):
    (folder / "classes" / "a").mkdir(parents=True)
    (folder / "cifar10" / "cifar-10-batches-py").mkdir(parents=True)
    (folder / "some.npz").touch()
    (folder / "other.yaml").write_text("data: {name: digits, validation: 0.3}\n")
    said = {
        text: asked(data=text).data for text in ("classes", "cifar10", "some.npz", "other.yaml", "digits")
    }
    assert [one.name for one in said.values()] == ["folder", "cifar", "npz", "digits", "digits"]
    assert said["some.npz"].path == Path("some.npz") and said["other.yaml"].validation == 0.3


def test_settings_may_be_overridden(folder):
    assert asked(overrides=["compress.trials=3", "data.validation=0.4"]).compress.trials == 3


def test_how_it_is_pruned_and_taught_may_be_set(folder):
    said = [
        "compress.steps=3",
        "compress.sparse.epochs=2",
        "compress.distill=features",
        "compress.only=[features]",
    ]
    found = asked(overrides=said).compress
    assert (found.steps, found.distill, found.only) == (3, "features", ("features",))
    assert (found.sparse.penalty.name, found.sparse.epochs) == ("group-norms", 2)
    scales = asked(overrides=["compress.sparse.penalty={name: bn-scales, strength: 0.01}"]).compress.sparse
    assert scales.penalty.arguments == {"strength": 0.01}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"targets": ["latency=0.5x"]}, r"compress\.target.*expected one of flops.*got 'latency'"),
        ({"targets": ["fast"]}, r"--target: expected a target such as"),
        ({"targets": ["flops=0.5x", "flops=100"]}, "got flops twice"),
        ({"targets": ["flops=0.5x@local-cpu"]}, "same on every device"),
        ({"weights": Path("none.pt")}, "--weights: expected a state dict.*no file at none.pt"),
        ({"data": "nothing"}, "unknown data 'nothing'"),
        ({"model": "resnet"}, "unknown model 'resnet'"),
    ],
)
def test_a_mistake_is_told(folder, given, message):
    with pytest.raises(NasflowError, match=message):
        asked(**given)


# What comes of it


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    """A whole run on the scripted device, whose int8 files are three times as fast: experiment, folder, summary."""
    place = tmp_path_factory.mktemp("compressed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        (place / "small_net.py").write_text(MODEL)
        tiny.write_images(place / "bars.npz")
        wanted = asked(["latency_ms=0.6x@local-cpu"], "bars.npz", "small_net.py:small", overrides=QUICK)
        summary = tiny.run(wanted, place / "run")
    return wanted, place / "run", summary


def test_what_ships_meets_the_target_beside_the_original(compressed):
    _, folder, summary = compressed
    told = cli_compress.outcome(summary, folder)
    before, after = told["before"], told["after"]
    assert told["met"] and before["name"] == "trial-0" and after["name"] != "trial-0"
    assert after["latency_ms"]["local-cpu"] <= 0.6 * before["latency_ms"]["local-cpu"]
    limit = next(one for one in after["limits"] if one["metric"] == "latency_ms@local-cpu")
    assert limit["holds"] and limit["limit"] == pytest.approx(0.6 * before["latency_ms"]["local-cpu"])
    assert told["change"].startswith("FLOPs ") and "latency on local-cpu -" in told["change"]
    assert told["change"] == words.change(
        {"flops": before["flops"], "latency_ms@local-cpu": before["latency_ms"]["local-cpu"],
         "size_kb": before["size_kb"], "error": before["error"]},
        {"flops": after["flops"], "latency_ms@local-cpu": after["latency_ms"]["local-cpu"],
         "size_kb": after["size_kb"], "error": after["error"]},
    )  # fmt: skip


def test_the_outcome_is_one_file_with_the_exported_files_beside_it(compressed, tmp_path):
    _, folder, summary = compressed
    out = tmp_path / "there" / "out.json"
    cli_compress.write(summary, folder, out)
    told = json.loads(out.read_text())
    assert {one["name"] for one in told["variants"]} == {one["name"] for one in summary["deployed"]}
    for one in told["variants"]:
        assert (out.parent / one["file"]).read_bytes() == (
            folder / "models" / one["name"] / "model.onnx"
        ).read_bytes()
    assert {"error", "test_error", "latency_ms", "size_kb", "flops", "params"} <= told["after"].keys()
    for step in (*told["steps"], *told["refused"]):
        assert step["reason"] and step["before"].keys() == step["after"].keys()
    before = {
        file: (out.parent / file).stat().st_mtime_ns for file in [one["file"] for one in told["variants"]]
    }
    cli_compress.write(summary, folder, out)
    assert all((out.parent / file).stat().st_mtime_ns == when for file, when in before.items())


def test_done_once_it_is_not_done_again(compressed, monkeypatch):
    wanted, folder, summary = compressed
    monkeypatch.chdir(folder.parent)
    with opened(wanted, folder) as run, mock.patch("nasflow.stages.compress._compress_one") as again:
        assert stages.pipeline(run)["compression"] == summary["compression"]
    again.assert_not_called()


def test_a_target_that_nothing_meets_is_told_with_the_best_seen(compressed, tmp_path, monkeypatch):
    _, folder, _ = compressed
    monkeypatch.chdir(folder.parent)
    never = asked(["latency_ms=0.01x@local-cpu"], "bars.npz", "small_net.py:small", overrides=QUICK)
    summary = tiny.run(never, tmp_path / "run")
    told = cli_compress.outcome(summary, tmp_path / "run")
    assert summary["status"] == "infeasible" and not told["met"]
    assert "no pruning of trial-0 tried meets the target" in summary["stages"]["compress"]["message"]
    assert not any(one["holds"] for one in told["after"]["limits"] if one["metric"].startswith("latency_ms"))
