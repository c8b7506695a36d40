"""What finding the error of a trial promises."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from nasflow.data import Data, Preprocess, Split, digest
from nasflow.errors import NasflowError
from nasflow.evaluators import accuracy
from nasflow.evaluators.accuracy import Accuracy
from nasflow.spaces import training as training_space
from nasflow.study import Trial
from nasflow.training import Recipe, error

torch.set_num_threads(1)


def halves(count=90, seed=0):
    """Images of 8x8 that are brighter on the left, on the right or alike."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 100, (count, 1, 8, 8), dtype=np.uint8)
    y = np.arange(count, dtype=np.int64) % 3
    x[y == 0, :, :, :4] += 80
    x[y == 1, :, :, 4:] += 80
    cut = count * 2 // 3
    splits = Split(x[:cut], y[:cut]), Split(x[cut:], y[cut:])
    return Data(
        "halves", *splits, ("l", "r", "n"), Preprocess(1 / 255, (0.3,), (0.2,)), (), {}, digest(*splits)
    )


@dataclasses.dataclass(frozen=True)
class Networks:
    """Two convolutions of a chosen width; sees nothing of how they are trained."""

    def build(self, point):
        assert set(point) == {"width"}
        width = point["width"]
        return nn.Sequential(
            nn.Conv2d(1, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(),
            nn.Linear(9 * width, 3),
        )  # fmt: skip


def evaluator(folder, **changes):
    given = Accuracy(Networks(), (halves(),), Recipe(epochs=4, batch_size=16), folder, seed=0)
    return dataclasses.replace(given, **changes)


POINT = {"width": 4}


def weights(folder, number=0):
    return torch.load(folder / f"{number:05d}" / "weights.pt", weights_only=True)


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a.keys() | b.keys())


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def killed_at(monkeypatch, call):
    """Make training die after `call` epochs in all."""
    calls = iter(range(1, 100))
    real = accuracy.train

    def dying(*args, **kwargs):
        def on_epoch(epoch):
            if next(calls) == call:
                raise Killed

        return real(*args, **kwargs, on_epoch=on_epoch)

    monkeypatch.setattr(accuracy, "train", dying)


def test_gives_exactly_error_and_training_loss(tmp_path):
    metrics = evaluator(tmp_path)(Trial(0, POINT))
    assert set(metrics) == {"error", "train_loss"}
    assert 0 <= metrics["error"] < 0.4
    assert 0 < metrics["train_loss"] < 1.2


def test_the_weights_kept_are_those_that_made_the_error(tmp_path):
    data = halves()
    metrics = evaluator(tmp_path)(Trial(7, POINT))
    model = Networks().build(POINT)
    model.load_state_dict(weights(tmp_path, 7))
    assert error(model, data.validation, data.preprocess) == metrics["error"]
    assert sorted(path.name for path in (tmp_path / "00007").iterdir()) == ["training.json", "weights.pt"]


def test_every_epoch_is_told_in_the_folder(tmp_path):
    metrics = evaluator(tmp_path)(Trial(0, POINT))
    said = json.loads((tmp_path / "00000" / "training.json").read_text())
    assert said["metrics"] == metrics
    (epochs,) = said["epochs"]
    assert [epoch["number"] for epoch in epochs] == [1, 2, 3, 4]
    assert epochs[-1]["error"] == metrics["error"]


def test_a_trained_trial_is_not_trained_again(tmp_path, monkeypatch):
    first = evaluator(tmp_path)(Trial(0, POINT))
    monkeypatch.setattr(accuracy, "train", None)
    assert evaluator(tmp_path)(Trial(0, POINT)) == first


def test_the_number_of_a_trial_does_not_matter(tmp_path):
    evaluate = evaluator(tmp_path)
    assert evaluate(Trial(0, POINT)) == evaluate(Trial(5, POINT))
    assert same(weights(tmp_path, 0), weights(tmp_path, 5))


def test_seed_and_point_matter(tmp_path):
    evaluator(tmp_path)(Trial(0, POINT))
    evaluator(tmp_path, seed=1)(Trial(1, POINT))
    assert not same(weights(tmp_path, 0), weights(tmp_path, 1))
    evaluator(tmp_path)(Trial(2, POINT | {"train.weight_decay": 0.021}))
    first, other = (weights(tmp_path, n)["0.weight"] for n in (0, 2))
    assert float((first - other).abs().max()) > 0.05  # other first weights, not just another decay


@pytest.mark.parametrize("epochs", [1, 3, 4, 6, 8])
def test_a_killed_trial_ends_as_if_never_killed(tmp_path, monkeypatch, epochs):
    """With two folds of four epochs each: killed in the first, between them, in the second, and at the end."""
    arguments = {"data": tuple(halves().folds(2, seed=0))}
    whole = evaluator(tmp_path / "whole", **arguments)(Trial(0, POINT))
    with monkeypatch.context() as patch:
        killed_at(patch, epochs)
        with pytest.raises(Killed):
            evaluator(tmp_path / "killed", **arguments)(Trial(0, POINT))
    assert (tmp_path / "killed" / "00000" / "checkpoint.pt").exists()
    assert evaluator(tmp_path / "killed", **arguments)(Trial(0, POINT)) == whole
    assert same(weights(tmp_path / "killed"), weights(tmp_path / "whole"))
    assert len(list((tmp_path / "killed" / "00000").iterdir())) == 2


def test_a_kill_before_the_result_is_written_trains_nothing_twice(tmp_path, monkeypatch):
    def killed(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(accuracy, "write_json", killed)
        with pytest.raises(Killed):
            evaluator(tmp_path)(Trial(0, POINT))
    killed_at(monkeypatch, 1)
    assert set(evaluator(tmp_path)(Trial(0, POINT))) == {"error", "train_loss"}


def test_folds_are_averaged_and_the_first_ones_weights_kept(tmp_path):
    folds = tuple(halves().folds(3, seed=0))
    metrics = evaluator(tmp_path, data=folds)(Trial(0, POINT))
    said = json.loads((tmp_path / "00000" / "training.json").read_text())
    errors = [epochs[-1]["error"] for epochs in said["epochs"]]
    assert len(errors) == 3
    assert metrics["error"] == pytest.approx(np.mean(errors))
    model = Networks().build(POINT)
    model.load_state_dict(weights(tmp_path))
    assert error(model, folds[0].validation, folds[0].preprocess) == errors[0]


def test_fidelity_scales_the_epochs(tmp_path):
    evaluate = evaluator(tmp_path)
    for number, (fidelity, epochs) in enumerate([(0.01, 1), (0.5, 2), (1.0, 4)]):
        evaluate(Trial(number, POINT, fidelity=fidelity))
        said = json.loads((tmp_path / f"{number:05d}" / "training.json").read_text())
        assert said["recipe"]["epochs"] == len(said["epochs"][0]) == epochs


def test_what_the_point_says_about_training_is_done(tmp_path):
    point = POINT | {"train.learning_rate": 0.003, "train.batch_size": 30, "train.optimizer": "sgd"}
    evaluator(tmp_path)(Trial(0, point))
    said = json.loads((tmp_path / "00000" / "training.json").read_text())["recipe"]
    assert (said["learning_rate"], said["batch_size"], said["optimizer"], said["epochs"]) == (
        0.003,
        30,
        "sgd",
        4,
    )
    assert training_space.recipe(point, Recipe(epochs=4, batch_size=16)) == Recipe(**said)


def test_a_teacher_is_asked_for_the_point_and_followed(tmp_path):
    asked = []

    def teacher(point):
        asked.append(point)
        model = Networks().build(POINT)
        with torch.no_grad():
            model[-1].weight.zero_()
            model[-1].bias.copy_(torch.tensor([0.0, 0.0, 50.0]))
        return model

    recipe = Recipe(epochs=4, batch_size=16, distillation=1.0)
    metrics = evaluator(tmp_path, teacher=teacher, recipe=recipe)(Trial(0, POINT))
    assert asked == [POINT]
    assert metrics["error"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("changes", "trial", "named"),
    [
        ({"seed": 3}, Trial(0, POINT), "seed"),
        ({"recipe": Recipe(epochs=2)}, Trial(0, POINT), "recipe"),
        ({"data": (halves(seed=1),)}, Trial(0, POINT), "data"),
        ({}, Trial(0, {"width": 8}), "point"),
        ({}, Trial(0, POINT, fidelity=0.5), "recipe"),
    ],
)
def test_a_folder_of_another_training_is_refused_by_what_differs(tmp_path, changes, trial, named):
    evaluator(tmp_path)(Trial(0, POINT))
    with pytest.raises(NasflowError, match=f"differs in {named}. Delete the folder"):
        evaluator(tmp_path, **changes)(trial)


def test_travels_to_another_process(tmp_path):
    evaluate = evaluator(tmp_path)
    assert pickle.loads(pickle.dumps(evaluate))(Trial(0, POINT)) == evaluate(Trial(1, POINT))


def test_global_random_state_is_left_alone(tmp_path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    evaluator(tmp_path)(Trial(0, POINT))
    assert torch.equal(torch.get_rng_state(), before)


def test_divergence_reaches_the_caller_and_leaves_no_result(tmp_path):
    recipe = Recipe(epochs=2, batch_size=16, optimizer="sgd", learning_rate=1e30, clip=1e30)
    with pytest.raises(RuntimeError, match="diverged"):
        evaluator(tmp_path, recipe=recipe)(Trial(0, POINT))
    assert not (tmp_path / "00000" / "weights.pt").exists()
    assert not (tmp_path / "00000" / "training.json").exists()
