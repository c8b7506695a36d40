"""What is worth shipping is trained in full, from every seed, the pruned ones taught by their parents."""

import re
import shutil
from pathlib import Path
from unittest import mock

import pytest
import tiny
import torch
from tiny import experiment, opened

from nasflow import stages
from nasflow.errors import NasflowError
from nasflow.evaluators.accuracy import Accuracy
from nasflow.files import read_json
from nasflow.network import Network
from nasflow.stages.retrain import spread, survivors
from nasflow.study import Objective
from nasflow.training import Diverged, train

TWO = [Objective("error"), Objective("flops")]


def retrained(run, **changes):
    """The result of retraining a run with other settings."""
    with opened(experiment(run.data, **changes), run.folder) as held:
        return stages.retrain(held)


def failing(*networks: str, seeds: tuple[int, ...] = (0, 1)):
    """Training that diverges for these networks and seeds."""
    real = Accuracy.__call__

    def call(self: Accuracy, trial):
        if trial.point.get("network") in networks and trial.point["seed"] in seeds:
            raise Diverged("the loss is infinite")
        return real(self, trial)

    return mock.patch.object(Accuracy, "__call__", call)


# Who


@pytest.fixture
def front(study_of):
    """Errors and flops from (0, 100) to (100, 0) in a line, at 0, 10, 45, 50 and 100; 5 is dominated."""
    points = [(0, 100), (10, 90), (45, 55), (50, 50), (100, 0), (60, 60)]
    return study_of(TWO, *({"error": float(e), "flops": float(f)} for e, f in points))


@pytest.mark.parametrize(
    ("first", "count", "expected"),
    [
        ([3], 1, [3]),
        ([3], 2, [3, 0]),  # the best is always tried
        ([3], 3, [3, 0, 4]),  # then the one farthest from all
        ([3], 4, [3, 0, 4, 1]),
        ([3], 9, [3, 0, 4, 1, 2]),
        ([0], 2, [0, 4]),
        ([2, 3], 1, [2, 3]),  # what was picked stays
        ([5], 2, [5, 0]),
    ],
)
def test_beside_those_picked_come_the_best_and_the_farthest_of_the_front(front, first, count, expected):
    chosen = spread(front, [front.trials[number] for number in first], count)
    assert [trial.number for trial in chosen] == expected


def test_without_a_front_there_are_only_those_picked(study_of):
    study = study_of(TWO, None)
    assert spread(study, [], 3) == []


def test_networks_start_anew_and_pruned_ones_from_their_trained_weights(finished_run):
    with opened(finished_run.experiment, finished_run.folder) as run:
        whole, pruned = survivors(run)
    assert [network.name for network in whole] == finished_run.front[:2]
    assert all(network.weights is None and not network.policy for network in whole)
    kept = [
        step for step in finished_run.summary["compression"] if step["accepted"] and step["kind"] == "prune"
    ]
    assert [(network.name, network.policy) for network in pruned] == [(s["name"], s["policy"]) for s in kept]
    assert all(network.weights.is_file() for network in pruned)


# How


def test_every_network_is_trained_from_every_seed_and_the_best_is_kept(finished_run):
    networks = read_json(finished_run.folder / "stages" / "retrain.json")["networks"]
    assert len(networks) == 3
    with opened(finished_run.experiment, finished_run.folder) as run:
        for said in networks:
            folder = run.folder / said["folder"]
            trials = [read_json(folder.with_name(f"{n:05d}") / "training.json") for n in said["trials"]]
            assert [told["metrics"]["error"] for told in trials] == said["errors"]
            assert len({told["metrics"]["train_loss"] for told in trials}) == 2  # from two beginnings
            assert said["error"] == pytest.approx(sum(said["errors"]) / 2)
            told = read_json(folder / "training.json")
            assert told["metrics"]["error"] == min(said["errors"])
            assert len(told["epochs"][0]) == 6
            network = Network.from_dict(said["network"], run.folder)
            weights = torch.load(folder / "weights.pt", weights_only=True)
            built = network.build(run.architecture).state_dict()
            assert all(torch.equal(built[name], value) for name, value in weights.items())


def test_the_message_names_how_many_and_the_best(finished_run):
    networks = read_json(finished_run.folder / "stages" / "retrain.json")["networks"]
    best = min(networks, key=lambda said: said["error"])
    message = f"3 networks, validation error from {best['error']:.2%} ({best['name']})"
    assert finished_run.summary["stages"]["retrain"]["message"] == message


def test_pruned_networks_learn_from_their_retrained_parents_and_nobody_else_is_taught(copied):
    with mock.patch("nasflow.evaluators.accuracy.train", mock.Mock(side_effect=train)) as trained:
        result = retrained(copied, retrain={"epochs": 2, "seeds": 1})
    teachers = [call.kwargs["teacher"] for call in trained.call_args_list]
    assert [teacher is not None for teacher in teachers] == [False, False, True]
    parent = next(said for said in result["networks"] if said["name"] == copied.front[0])
    weights = torch.load(copied.folder / parent["network"]["weights"], weights_only=True)
    assert all(torch.equal(teachers[-1].state_dict()[name], value) for name, value in weights.items())


def test_test_data_play_no_part(copied):
    with mock.patch("nasflow.data.load_test", side_effect=AssertionError("it looked")):
        retrained(copied, retrain={"epochs": 1, "seeds": 1})


def test_what_a_point_says_about_training_holds_in_full_training_too(finished_run, tmp_path):
    space = [tiny.SETTINGS["space"], {"name": "training", "batch_size": [32], "optimizer": ["sgd"]}]
    mine = experiment(
        finished_run.data,
        space=space,
        search={"trials": 1, "epochs": 1},
        compress={"enabled": False},
        retrain={"epochs": 4, "seeds": 1},
    )
    with opened(mine, tmp_path / "run") as run:
        stages.search(run), stages.compress(run)
        with mock.patch("nasflow.evaluators.accuracy.train", mock.Mock(side_effect=train)) as trained:
            stages.retrain(run)
    (recipe,) = (call.args[2] for call in trained.call_args_list)
    assert (recipe.batch_size, recipe.optimizer, recipe.epochs) == (32, "sgd", 4)


# What fails


def test_a_seed_that_fails_costs_itself(copied):
    name = copied.front[0]
    with failing(name, seeds=(0,)):
        result = retrained(copied, retrain={"epochs": 2})
    errors = {said["name"]: len(said["errors"]) for said in result["networks"]}
    assert errors[name] == 1 and all(count == 2 for other, count in errors.items() if other != name)


def test_a_network_that_cannot_be_trained_is_left_out_with_the_reason_and_its_pupils_too(copied):
    knee, other = copied.front[:2]
    with failing(knee):
        result = retrained(copied, retrain={"epochs": 2})
    assert [said["name"] for said in result["networks"]] == [other]
    assert result["message"].endswith(f"; {knee} is left out: Diverged: the loss is infinite")
    summary = tiny.run(experiment(copied.data, retrain={"epochs": 2}), copied.folder)
    assert summary["status"] == "done"
    assert [one["name"] for one in summary["deployed"]] == [other]


def test_a_pruned_network_that_cannot_be_trained_leaves_its_parent(copied):
    pruned = next(step["name"] for step in copied.summary["compression"] if step["accepted"])
    with failing(pruned):
        result = retrained(copied, retrain={"epochs": 2})
    assert {said["name"] for said in result["networks"]} == set(copied.front[:2])
    assert f"{pruned} is left out: Diverged" in result["message"]
    assert tiny.run(experiment(copied.data, retrain={"epochs": 2}), copied.folder)["status"] == "done"


def test_if_nothing_can_be_trained_the_reason_and_the_way_on_are_told(copied):
    message = (
        r"nothing could be trained in full: .* is left out: Diverged: the loss is infinite; .*"
        r"Change the settings of retrain; if the cause lay elsewhere and is gone, delete (\S+) and run again"
    )
    with failing(*copied.front), pytest.raises(NasflowError, match=message) as told:
        retrained(copied, retrain={"epochs": 2})
    with pytest.raises(NasflowError, match=message):  # failures are on record: it does not try for ever
        retrained(copied, retrain={"epochs": 2})
    folder = Path(re.search(message, str(told.value))[1])
    shutil.rmtree(folder)
    assert len(retrained(copied, retrain={"epochs": 2})["networks"]) == 3
