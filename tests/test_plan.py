"""What an experiment would do and about how long it takes, without doing it."""

from pathlib import Path

import pytest

from nasflow.errors import NasflowError
from nasflow.experiment import load
from nasflow.plan import plan

TINY = [
    "space={name: mobile, stages: 1, widths: [[8, 16]], depths: [1], kernels: [3], resolutions: [1.0]}",
    "data.train_limit=300",
    "search.workers=2",
    "search.recipe.batch_size=16",
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(*overrides):
    return plan(load("digits", [*TINY, *overrides]), Path("runs/digits"))


def test_every_stage_is_planned_with_what_it_does_and_nothing_is_left_behind(folder):
    found = planned("search.trials=30", "search.epochs=4", "compress.trials=5", "retrain.seeds=2")
    said = {step.stage: step.what for step in found.steps}
    assert list(said) == ["define", "search", "compress", "retrain", "deploy"]
    assert "225 images to train on, 75 to judge by" in said["define"]
    assert "30 trainings of 4 epochs by auto, 2 at once; each measured on local-cpu" in said["search"]
    assert "5 prunings" in said["compress"] and "2 times each" in said["retrain"]
    assert found.seconds == sum(step.seconds for step in found.steps) > 0
    assert not (folder / "runs" / "digits").exists()


def test_what_costs_more_is_said_to_cost_more():
    from nasflow.plan import Cost, _steps
    from nasflow.stages import Run

    def seconds(*overrides):
        run = Run(load("digits", [*TINY, *overrides]), Path("runs/digits"))
        return {step.stage: step.seconds for step in _steps(run, 100, Cost(epoch=2.0, measure=1.0))}

    usual = seconds("search.trials=10", "search.epochs=3", "compress.trials=4", "compress.epochs=5")
    assert usual["search"] == 10 * (3 * 2.0 / 2 + 1.0)
    assert usual["compress"] == 4 * (5 * 2.0 / 2 + 1.0)
    assert seconds("search.trials=20", "search.epochs=3")["search"] == 2 * usual["search"]
    assert seconds("search.trials=10", "search.epochs=3", "data.folds=2")["search"] == 10 * (
        2 * 3 * 2.0 / 2 + 1.0
    )
    assert "compress" not in seconds("compress.enabled=false")
    more = seconds("compress.trials=4", "compress.epochs=5", "compress.pick=[1, 2, 3]")
    assert more["compress"] == 3 * usual["compress"]
    sparse = seconds("compress.trials=4", "compress.epochs=5", "compress.sparse.epochs=7")
    assert sparse["compress"] == usual["compress"] + 7 * 2.0
    steps = seconds("compress.trials=4", "compress.epochs=5", "compress.steps=6")  # of an epoch each
    assert steps["compress"] == 4 * (6 * 2.0 / 2 + 1.0)
    assert seconds("retrain.networks=3", "retrain.seeds=1", "retrain.epochs=10")["retrain"] == 2 * 10 * 2.0


def test_limits_that_refuse_networks_are_told_beforehand():
    assert len(planned().notes) == 1
    assert any(
        "None of 12 random networks keep the limits" in note for note in planned("limits.params=1").notes
    )


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.strategy={name: random, wat: 1}", "strategy 'random' takes no argument 'wat'"),
        ("space={name: mobile, widht: 3}", "space 'mobile' takes no argument 'widht': did you mean 'widths'"),
        ("devices=[raspberry-pi-4]", "raspberry-pi-4 .* is described but not connected"),
        (
            "devices=[raspberry]",
            "unknown device 'raspberry': did you mean 'raspberry-pi-5' or 'raspberry-pi-4'",
        ),
        ("data={name: folder, path: nowhere}", "nowhere"),
    ],
)
def test_what_the_run_could_not_do_the_plan_says(override, message):
    overrides = [*(o for o in TINY if not o.startswith("space=") or "space" not in override), override]
    with pytest.raises(NasflowError, match=message):
        plan(load("digits", overrides), Path("runs/digits"))
