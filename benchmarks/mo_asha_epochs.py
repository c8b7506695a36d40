"""Bar of multi-objective ASHA: the hypervolume of NSGA-II with at most a third of its training epochs.

    python benchmarks/mo_asha_epochs.py --data FOLDER_OR_ARCHIVE [--format folder] [--out FOLDER]

The space, limit and augmentation of experiments/mnist.yaml on 1,600 of its images, in batches of 16 so that one epoch
is training enough to say something; error and multiply-adds as objectives, so that nothing depends on how busy the
machine is. NSGA-II trains every network for 18 epochs; MO-ASHA, with the same seed, gets two fifths of these epochs
in all, for trainings of two epochs and of eighteen, and is judged by the latter alone. (In an earlier form of this
the trainings were of one epoch and of nine, and 40 of them: there, one seed in three got as far in a third of the
epochs.) What is reported is at which share of NSGA-II's epochs its hypervolume is that of NSGA-II at the end; one
that never is counts as 1. Hypervolume: objectives scaled by ideal and nadir of the front of everything fully trained
here whose error is within 10 points of the best, reference 1.1. Stopped, it goes on from what is in --out. Takes an
hour of one core.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _results import write

from nasflow import pareto, stages
from nasflow.evaluators.accuracy import Accuracy
from nasflow.evaluators.counts import Counts
from nasflow.experiment import load
from nasflow.loop import Evaluate, Strategy
from nasflow.loop import run as search
from nasflow.record import open_record
from nasflow.stages import Run
from nasflow.stages.search import fidelities, recipe
from nasflow.strategies.asha import mo_asha
from nasflow.strategies.nsga2 import nsga2
from nasflow.study import Objective, Study, Trial

SEEDS, TRIALS, BATCH, POPULATION, EPOCHS = 3, 60, 4, 10, 18
MOST, USEFUL = 1 / 3, 0.10
SETTINGS = ["data.train_limit=1600", f"search.epochs={EPOCHS}", "search.recipe.batch_size=16"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--format", default="folder")
    parser.add_argument("--out", type=Path, default=None)
    given = parser.parse_args()
    out = given.out or Path(tempfile.mkdtemp())
    out.mkdir(parents=True, exist_ok=True)
    experiment = load("mnist", [f"data.path={given.data}", f"data.name={given.format}", *SETTINGS])
    with stages.open_run(experiment, out / "run") as run:
        pairs, shares = [], fidelities(run, mo_asha, recipe(run, "search"))
        for seed in range(SEEDS):
            usual = searched(run, out / f"nsga2-{seed}", seed, TRIALS, nsga2, population=POPULATION)
            ours = searched(run, out / f"mo-asha-{seed}", seed, int(0.4 * TRIALS), mo_asha, rungs=2, **shares)
            pairs.append((usual, ours))
    volume = hypervolume(pairs)
    found = [compared(usual, ours, volume) for usual, ours in pairs]
    value = statistics.median(one["share"] for one in found)
    write(
        "search-mo_asha_epochs",
        goal=f"MO-ASHA reaches the hypervolume of NSGA-II after {TRIALS} full trainings with at most 1/3 of the"
        f" epochs (median of {SEEDS} seeds)",
        value=value,
        holds=value <= MOST,
        seeds=found,
        population=POPULATION,
        settings=SETTINGS,
        **shares,
    )


def searched(
    run: Run, folder: Path, seed: int, trials: int, make: Callable[..., Strategy], **settings: Any
) -> Study:
    """One search, trained in this process; what is in `folder` is not done again."""
    space, objectives = run.architecture.space(), (Objective("error"), limited(run))
    folder.mkdir(parents=True, exist_ok=True)
    study = Study(space, objectives, open_record(folder / "study.journal", folder.name, space, objectives))
    trained = Accuracy(run.architecture, run.folds, recipe(run, "search"), folder / "trials", seed)
    evaluate = Evaluate(trained, Counts(run.architecture))

    def show(trial: Trial) -> None:
        print(f"{folder.name}: {study.spent:.2f} of {trials}", end="\r", flush=True)

    search(
        study,
        make(space, objectives, seed=seed, **settings),
        evaluate,
        trials=trials,
        batch=BATCH,
        observers=[show],
    )
    return study


def limited(run: Run) -> Objective:
    """Multiply-adds, with the experiment's limit on them."""
    return next(objective for objective in run.objectives if objective.metric == "flops")


def hypervolume(pairs: list[tuple[Study, Study]]) -> Callable[[pareto.Losses], float]:
    """The measure that all searches are judged by."""
    losses = np.vstack([study.losses(study.finalists) for pair in pairs for study in pair])
    useful = losses[losses[:, 0] <= losses[:, 0].min() + USEFUL]
    front = useful[pareto.non_dominated(useful)]
    low, span = front.min(axis=0), np.ptp(front, axis=0)
    return lambda found: pareto.hypervolume((found - low) / span, np.full(2, 1.1))


def compared(usual: Study, ours: Study, volume: Callable[[pareto.Losses], float]) -> dict[str, Any]:
    """When MO-ASHA had what NSGA-II ended with, as a share of NSGA-II's epochs."""
    goal = volume(usual.losses(usual.finalists))
    spent, reached, full, curve = 0.0, None, [], []
    for trial in ours.trials:
        if trial.state in ("done", "failed"):
            spent += trial.fidelity
        if trial.state == "done" and trial.fidelity >= 1.0:
            full.append(trial)
            curve.append([EPOCHS * spent, volume(ours.losses(full))])
            if reached is None and curve[-1][1] >= goal:
                reached = spent
    return {
        "share": 1.0 if reached is None else reached / usual.spent,
        "nsga2": {"epochs": EPOCHS * usual.spent, "hypervolume": goal},
        "mo_asha": {
            "epochs": None if reached is None else EPOCHS * reached,
            "full_trainings": len(full),
            "trainings": ours.counts["done"],
            "curve": curve,
        },
    }


if __name__ == "__main__":
    main()
