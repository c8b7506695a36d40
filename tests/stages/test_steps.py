"""How a pruning is reached: from weights that can do without channels, and little by little."""

from pathlib import Path
from unittest import mock

import pytest
import tiny
import torch
import yaml
from tiny import experiment, opened

from nasflow import stages
from nasflow.attention import STRENGTH
from nasflow.compression import gradients, prune
from nasflow.errors import NasflowError
from nasflow.evaluators import accuracy
from nasflow.experiment import dump, from_mapping
from nasflow.files import read_json

QUICK = {"trials": 2, "epochs": 2, "int8": False}
SCALES = {"name": "bn-scales", "strength": 0.1}


def compressed(run, **settings):
    """What compressing a finished search with other settings came to, and the folder that it left."""
    with opened(experiment(run.data, compress={**QUICK, **settings}), run.folder) as held:
        return stages.compress(held), latest(run)


def latest(run) -> Path:
    """The folder of the compression that was begun last."""
    return max((run.folder / "compress").iterdir(), key=lambda folder: folder.stat().st_ctime_ns)


def weights(place: Path) -> dict[str, torch.Tensor]:
    return torch.load(place / "weights.pt", weights_only=True)


def numbers(place: Path) -> int:
    return sum(value.numel() for value in weights(place).values())


def scales(place: Path) -> float:
    return sum(
        float(v.abs().sum()) for k, v in weights(place).items() if v.dim() == 1 and k.endswith("weight")
    )


def parent(run, folder: Path) -> Path:
    """Where the search keeps the network that the compression in `folder` began with."""
    return run.folder / "trials" / f"{int(folder.name.split('-')[1]):05d}"


def policy(place: Path) -> dict[str, object]:
    return read_json(place / "training.json")["point"]


# In steps


def test_a_policy_is_reached_in_steps_each_smaller_than_the_one_before(copied):
    _, folder = compressed(copied, steps=3)
    places = sorted((folder / "trials").iterdir())
    assert len(places) == QUICK["trials"]
    for place in places:
        first, second = sorted((place / "steps").iterdir())
        wanted = policy(place)
        assert policy(first) == prune.partway(wanted, 1 / 3) and policy(second) == prune.partway(
            wanted, 2 / 3
        )
        assert numbers(first) >= numbers(second) >= numbers(place)
    assert any(numbers(place / "steps/00001") > numbers(place) for place in places)


def test_the_steps_share_the_epochs_and_each_begins_with_what_the_one_before_learnt(copied):
    _, folder = compressed(copied, steps=2, epochs=4)
    place = folder / "trials" / "00000"
    assert [len(read_json(p / "training.json")["epochs"][0]) for p in (place / "steps/00001", place)] == [
        2,
        2,
    ]
    _, at_once = compressed(copied, epochs=4)
    assert policy(at_once / "trials" / "00000") == policy(place)
    assert not _same(weights(at_once / "trials" / "00000"), weights(place))


def test_training_images_are_asked_anew_after_each_step(copied):
    asked = []

    def gather(model, *given, **more):
        asked.append(sum(parameter.numel() for parameter in model.parameters()))
        return real(model, *given, **more)

    real = gradients.gather
    with mock.patch.object(gradients, "gather", gather):
        compressed(copied, steps=3, criterion="taylor", reconstruct=True, trials=1)
    whole, first, second = asked
    assert whole > first >= second
    assert not list(copied.folder.glob("compress/*/trials/**/moments.pt"))


def test_a_killed_step_is_not_trained_again(copied):
    def killed(*given, **more):
        trained.append(more["checkpoint"].parent.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(*given, **more)

    trained: list[str] = []
    train = accuracy.train
    settings = experiment(copied.data, compress={**QUICK, "steps": 2, "trials": 1})
    with mock.patch.object(accuracy, "train", killed):
        with opened(settings, copied.folder) as run, pytest.raises(KeyboardInterrupt):
            stages.compress(run)
        with opened(settings, copied.folder) as run:
            stages.compress(run)
    assert trained == ["00001", "00000", "00000"]


# Sparse training


def test_sparse_training_comes_first_and_pruning_begins_with_its_weights(copied):
    _, folder = compressed(copied, sparse={"penalty": SCALES, "epochs": 3})
    _, plain = compressed(copied)
    sparse = folder / "sparse" / "00000"
    assert scales(sparse) < 0.9 * scales(parent(copied, folder))
    assert len(read_json(sparse / "training.json")["epochs"][0]) == 3
    assert scales(folder / "trials" / "00000") < scales(plain / "trials" / "00000")


def test_whoever_was_trained_sparsely_is_still_taught_by_the_network_as_it_was(copied):
    taught = []

    def train(model, *given, teacher=None, **more):
        taught.append(teacher.state_dict())
        return real(model, *given, teacher=teacher, **more)

    real = accuracy.train
    with mock.patch.object(accuracy, "train", train):
        _, folder = compressed(copied, sparse={"penalty": SCALES, "epochs": 1}, steps=2, trials=1)
    assert len(taught) == 3  # sparsely, and in two steps
    whole = weights(parent(copied, folder))
    assert all(_same(one, whole) for one in taught)


def test_sparse_training_that_fails_is_told_and_pruning_goes_on_without(copied):
    found, _ = compressed(copied, sparse={"penalty": {"name": "bn-scales", "strength": 1e30}})
    assert "is pruned without sparse training: " in found["message"] and "diverged" in found["message"]
    assert found["steps"]


def test_criteria_that_ask_training_images_ask_about_the_sparse_network(copied):
    found, folder = compressed(copied, sparse={"penalty": SCALES}, criterion="taylor", trials=1)
    assert "without sparse training" not in found["message"]
    known = torch.load(folder / "batches.pt", weights_only=True)
    with opened(experiment(copied.data, compress={"criterion": "taylor"}), copied.folder) as run:
        trial = next(t for t in run.study().trials if t.number == int(parent(copied, folder).name))
        sparse = run.architecture.build(trial.point)
        sparse.load_state_dict(weights(folder / "sparse/00000"))
        expected = gradients.gather(sparse, run.folds[0], seed=run.experiment.seed)
    assert all(torch.equal(value, known[0][name]) for name, value in expected[0].items())


@pytest.mark.parametrize("penalty", ["bn-scales", "group-norms"])
def test_penalties_are_named_with_their_arguments(copied, penalty):
    strong, weak = (
        compressed(copied, sparse={"penalty": {"name": penalty, "strength": s}}, trials=1)[1]
        for s in (0.1, 1e-4)
    )
    assert not _same(weights(strong / "sparse/00000"), weights(weak / "sparse/00000"))


def test_settings_are_written_back_and_read_again_as_they_were(finished_run):
    asked = experiment(finished_run.data, compress={"sparse": {"penalty": SCALES}, "steps": 3})
    assert from_mapping(yaml.safe_load(dump(asked)), "again") == asked
    assert asked.compress.sparse.penalty.arguments == {"strength": 0.1}
    assert experiment(finished_run.data).compress.sparse is None


@pytest.mark.parametrize(
    ("sparse", "message"),
    [
        ({"penalty": "group-norm"}, "unknown penalty 'group-norm': did you mean 'group-norms'"),
        ("group-norms", "expected {penalty: group-norms, epochs: 3}, or nothing"),
    ],
)
def test_what_is_no_penalty_is_refused_in_words(finished_run, sparse, message):
    with pytest.raises(NasflowError, match=message):
        experiment(finished_run.data, compress={"sparse": sparse})


# Distillation


def test_with_features_pruned_networks_learn_where_the_whole_one_looks_in_every_fine_tuning(copied):
    asked = []

    def train(model, *given, attention=0.0, teacher=None, **more):
        asked.append((teacher is not None, attention))
        return real(model, *given, attention=attention, teacher=teacher, **more)

    real = accuracy.train
    _, plain = compressed(copied)
    with mock.patch.object(accuracy, "train", train):
        summary = tiny.run(experiment(copied.data, compress={**QUICK, "distill": "features"}), copied.folder)
    assert summary["status"] == "done"
    folder = latest(copied)
    assert set(asked) == {(True, STRENGTH), (False, 0.0)}
    assert not _same(weights(folder / "trials/00000"), weights(plain / "trials/00000"))


def _same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
