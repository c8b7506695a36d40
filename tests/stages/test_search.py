"""The search as the experiment wants it: so many trials, within limits, on these devices and data."""

from unittest import mock

import numpy as np
import pytest
import tiny
import torch
from tiny import experiment, opened

from nasflow import names, report, stages
from nasflow.errors import NasflowError
from nasflow.evaluators.accuracy import Accuracy
from nasflow.evaluators.zero_cost import ZeroCost
from nasflow.files import read_json
from nasflow.loop import SearchError
from nasflow.report import facts
from nasflow.stages import Infeasible
from nasflow.stages.search import fidelities
from nasflow.stages.summary import summarise
from nasflow.training import Recipe, train


def searched(wanted, folder, **options):
    """The trials of a search and what its stage says."""
    with opened(wanted, folder, **options) as run:
        found = stages.search(run)
        return run.study().trials, found


def test_the_budget_is_trained_and_everything_else_refused_before(finished_run):
    with opened(finished_run.experiment, finished_run.folder) as run:
        study, found = run.study(), stages.search(run)
    assert found["trials"] == study.counts
    assert study.counts == {"pending": 0, "done": 5, "failed": 0, "refused": 1, "duplicate": 1}
    for trial in study.trials:
        place = finished_run.folder / "trials" / f"{trial.number:05d}"
        if trial.state == "done":
            assert trial.metrics["flops"] <= 1.5e5
            assert {file.name for file in place.iterdir()} == {
                "candidate.onnx",
                "latency@local-cpu.json",
                "weights.pt",
                "training.json",
            }
            assert trial.metrics["latency_ms@local-cpu"] == tiny.by_size(place / "candidate.onnx")
            assert read_json(place / "training.json")["metrics"]["error"] == trial.metrics["error"]
        else:
            assert "error" not in trial.metrics and not place.exists()


def test_networks_learn(finished_run):
    errors = [
        point["metrics"]["error"] for point in finished_run.summary["points"] if point["state"] == "done"
    ]
    assert min(errors) < 0.1  # guessing is wrong three times in four


def test_every_finished_trial_is_shown_to_observers_and_in_the_progress(finished_run, tmp_path):
    seen, told = [], []
    with opened(finished_run.experiment, tmp_path / "run", notify=lambda *event: told.append(event)) as run:
        stages.search(run, observers=[seen.append])
        assert seen == sorted(run.study().trials, key=lambda trial: seen.index(trial))
        assert {trial.number for trial in seen} == {trial.number for trial in run.study().trials}
    words = [event[3] for event in told]
    assert "trial 0 refused: flops 188992 is over its limit 150000" in words
    assert any(text.startswith("best error ") and text.endswith("on the front") for text in words)


def test_the_same_seed_searches_the_same(finished_run, tmp_path):
    trials, _ = searched(finished_run.experiment, tmp_path / "run")
    again = [(t.number, t.state, t.metrics.get("error")) for t in trials]
    with opened(finished_run.experiment, finished_run.folder) as run:
        assert again == [(t.number, t.state, t.metrics.get("error")) for t in run.study().trials]


def test_a_limit_that_nothing_keeps_ends_with_the_limit_and_the_best_seen(finished_run, tmp_path):
    mine = experiment(finished_run.data, limits={"flops": 10.0}, search={"trials": 1})
    with pytest.raises(
        Infeasible,
        match=r"no network keeps every limit: flops must be at most 10, best seen \d+\. Loosen a limit or widen",
    ):
        tiny.run(mine, tmp_path / "run")
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["status"] == "infeasible" and "best seen" in summary["message"]
    assert summary["stages"]["search"]["status"] == "failed"
    assert summary["trials"]["refused"] > 0 and summary["trials"]["done"] == 0


def test_a_limit_known_only_after_training_is_kept_too(finished_run, tmp_path):
    mine = experiment(finished_run.data, limits={"error": 1e-6}, search={"trials": 2, "epochs": 1})
    with pytest.raises(Infeasible, match="error must be at most 1e-06, best seen 0"):
        searched(mine, tmp_path / "run")


def test_a_latency_limit_saves_the_training(finished_run, tmp_path):
    mine = experiment(finished_run.data, limits={"latency_ms": 1e-3}, search={"trials": 1})
    with (
        mock.patch("nasflow.evaluators.accuracy.train", side_effect=AssertionError("it trained")),
        pytest.raises(Infeasible, match=r"latency_ms@local-cpu must be at most 0\.001, best seen 0\.0"),
    ):
        searched(mine, tmp_path / "run")


def test_a_small_space_ends_when_it_is_used_up(finished_run, tmp_path):
    space = {**tiny.SETTINGS["space"], "widths": [[8, 16], [16]], "depths": [1], "expansions": [1]}
    mine = experiment(finished_run.data, space=space, search={"trials": 4, "epochs": 1})
    trials, found = searched(mine, tmp_path / "run")
    assert sum(trial.state == "done" for trial in trials) == 2
    assert "the space holds few other points" in found["message"]


def test_when_nothing_can_be_trained_the_reason_is_told(finished_run, tmp_path):
    def fail(*_, **__):
        raise MemoryError("too large")

    with (
        mock.patch("nasflow.evaluators.accuracy.train", fail),
        pytest.raises(
            SearchError, match="all 5 trials so far failed, 5 of them with: MemoryError: too large"
        ),
    ):
        searched(finished_run.experiment, tmp_path / "run")
    trials, _ = searched(experiment(finished_run.data, search={"trials": 7}), tmp_path / "run")
    assert sum(trial.state == "done" for trial in trials) == 2  # the cause is gone, so the search goes on


def test_architecture_and_training_are_searched_together(finished_run, tmp_path):
    space = [tiny.SETTINGS["space"], {"name": "training", "batch_size": [16, 32], "optimizer": ["sgd"]}]
    mine = experiment(finished_run.data, space=space, search={"trials": 2})
    with mock.patch("nasflow.evaluators.accuracy.train", mock.Mock(side_effect=train)) as trained:
        trials, _ = searched(mine, tmp_path / "run")
    done = [trial for trial in trials if trial.state == "done"]
    used = [call.args[2] for call in trained.call_args_list]
    assert [(r.batch_size, r.learning_rate, r.optimizer) for r in used] == [
        (trial.point["train.batch_size"], trial.point["train.learning_rate"], "sgd") for trial in done
    ]
    assert all(1e-3 <= recipe.learning_rate <= 1e-1 for recipe in used)


def test_area_begins_with_the_best_by_a_zero_cost_score(finished_run, tmp_path):
    area = {"name": "area", "score": "synflow", "population": 2, "pool": 30}
    mine = experiment(finished_run.data, limits={}, search={"strategy": area, "trials": 2, "epochs": 1})
    trials, _ = searched(mine, tmp_path / "run")
    with opened(mine, tmp_path / "run") as run:
        of = ZeroCost(run.architecture, run.data, ("synflow",), seed=mine.seed)
        space, rng = run.architecture.space(), np.random.default_rng(0)
        usual = np.mean([of(space.sample(rng))["synflow"] for _ in range(10)])
        assert all(of(trial.point)["synflow"] > usual for trial in trials)


def test_area_with_a_score_that_does_not_exist_names_those_that_do(finished_run, tmp_path):
    mine = experiment(finished_run.data, search={"strategy": {"name": "area", "score": "nasvot"}})
    with pytest.raises(NasflowError, match="unknown zero-cost score 'nasvot': did you mean 'naswot'"):
        searched(mine, tmp_path / "run")


def test_errors_are_the_mean_over_all_folds_where_there_are_some(finished_run, tmp_path):
    raw = finished_run.experiment.model_dump(mode="json")
    raw["data"]["folds"] = 3
    mine = tiny.from_mapping({**raw, "search": {**raw["search"], "trials": 1}}, "folds")
    trials, _ = searched(mine, tmp_path / "run")
    done = next(trial for trial in trials if trial.state == "done")
    told = read_json(tmp_path / "run" / "trials" / f"{done.number:05d}" / "training.json")
    assert len(told["epochs"]) == 3
    assert done.metrics["error"] == pytest.approx(np.mean([fold[-1]["error"] for fold in told["epochs"]]))


@pytest.mark.parametrize("strategy", ["random", "tpe", "pymoo-nsga2", {"name": "nsga2", "population": 4}])
def test_every_strategy_fills_the_budget(finished_run, tmp_path, strategy):
    mine = experiment(finished_run.data, search={"trials": 3, "strategy": strategy})
    with mock.patch.object(Accuracy, "__call__", lambda self, trial: {"error": 1 / trial.metrics["flops"]}):
        trials, _ = searched(mine, tmp_path / "run")
    assert sum(trial.state == "done" for trial in trials) == 3


def test_short_trainings_choose_what_is_trained_in_full(finished_run, tmp_path):
    steps = {**tiny.RECIPE, "batch_size": 4}  # enough of them in an epoch
    mine = experiment(
        finished_run.data, search={"trials": 3, "epochs": 3, "strategy": "mo-asha", "recipe": steps}
    )
    with opened(mine, tmp_path / "run") as run:
        stages.search(run)
        study, summary = run.study(), summarise(run)
    trained = [trial for trial in study.trials if trial.state == "done"]
    assert 3 <= study.spent < 4 and {trial.fidelity for trial in trained} == {1 / 3, 1.0}
    for trial in trained:
        told = read_json(tmp_path / "run" / "trials" / f"{trial.number:05d}" / "training.json")
        assert len(told["epochs"][0]) == 3 * trial.fidelity
    full = {trial.number for trial in trained if trial.fidelity == 1.0}
    assert {entry["trial"] for entry in summary["front"]} <= full
    assert len(summary["hypervolume"]["curve"]) == len(full)
    shown = {one.name for one in facts.networks(summary) if one.kind in ("front", "searched")}
    assert shown == {f"trial-{number}" for number in full}
    short = len(trained) - len(full)
    assert f"<b>{short}</b></td><td>trained for a part of the time" in report.render(summary)


@pytest.mark.parametrize(
    ("batch", "epochs", "whole"),
    [(4, 1, [1]), (4, 4, [1, 4]), (4, 8, [1, 3, 8]), (4, 100, [11, 33, 100]), (16, 9, [4, 9]), (256, 9, [9])],
)
def test_short_trainings_are_whole_epochs_and_not_too_short(finished_run, batch, epochs, whole):
    training = Recipe(epochs=epochs, batch_size=batch)
    with opened(finished_run.experiment, finished_run.folder) as run:
        assert len(run.data.train) == 205
        shares = fidelities(run, names.resolve("strategy", "asha"), training)["fidelities"]
        assert fidelities(run, names.resolve("strategy", "random"), training) == {}
    assert [round(epochs * share, 9) for share in shares] == whole and shares[-1] == 1.0


def test_an_experiment_may_say_which_shares_to_use(finished_run, tmp_path):
    chosen = {"name": "asha", "fidelities": [2 / 3, 1.0], "eta": 2}
    mine = experiment(finished_run.data, search={"trials": 3, "epochs": 3, "strategy": chosen})
    trials, _ = searched(mine, tmp_path / "run")
    assert {trial.fidelity for trial in trials} == {2 / 3, 1.0}


def test_two_devices_give_two_latencies(finished_run, tmp_path):
    (tmp_path / "board.yaml").write_text("description: a board\nreach: {backend: local}\n")
    mine = experiment(
        finished_run.data,
        devices=["local-cpu", str(tmp_path / "board.yaml")],
        limits={"latency_ms": 0.025},
        search={"trials": 1, "epochs": 1},
    )
    trials, _ = searched(mine, tmp_path / "run")
    done = next(trial for trial in trials if trial.state == "done")
    assert done.metrics["latency_ms@board"] == done.metrics["latency_ms@local-cpu"] <= 0.025


# A user's own model


def test_an_own_model_is_trained_once(finished_run, tmp_path, at_home):
    mine = experiment(finished_run.data, space=None, model="networks_at_home.py:plain", limits=None)
    trials, found = searched(mine, tmp_path / "run")
    assert [(trial.state, trial.point) for trial in trials] == [("done", {})]
    assert found["message"] == "1 network on the front"


def test_an_own_model_with_weights_is_judged_and_not_trained(finished_run, tmp_path, at_home):
    network = names.resolve("model", "networks_at_home.py:plain")()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    model = {"name": "networks_at_home.py:plain", "weights": str(tmp_path / "weights.pt")}
    mine = experiment(finished_run.data, space=None, model=model, limits=None)
    with mock.patch("nasflow.evaluators.accuracy.train", side_effect=AssertionError("it trained")):
        trials, _ = searched(mine, tmp_path / "run")
    assert [trial.state for trial in trials] == ["done"]
    kept = torch.load(tmp_path / "run" / "trials" / "00000" / "weights.pt", weights_only=True)
    assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("model", "reason"), [("Double", "Conv"), ("Sorted", "linalg_svd|svd")])
def test_an_operator_that_the_runtime_lacks_is_named(finished_run, tmp_path, at_home, model, reason):
    mine = experiment(finished_run.data, space=None, model=f"networks_at_home.py:{model}", limits=None)
    with pytest.raises(SearchError, match=f"failed, 1 of them with: .*(cannot|not).*({reason})"):
        searched(mine, tmp_path / "run")
