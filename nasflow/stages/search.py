"""The search stage: networks proposed, counted, measured and trained until the budget is spent."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

from nasflow import experiment as experiments
from nasflow import names
from nasflow.compression import joint
from nasflow.evaluators.accuracy import Accuracy
from nasflow.evaluators.counts import Counts
from nasflow.evaluators.given import GivenWeights
from nasflow.evaluators.latency import MeasuredLatency
from nasflow.evaluators.zero_cost import ZeroCost
from nasflow.loop import Evaluate, Observer, Strategy
from nasflow.loop import run as search_loop
from nasflow.pool import Processes, Train
from nasflow.space import Point, Space
from nasflow.stages import finalists, predictors
from nasflow.stages.integers import AsAsked, Integers, Quantised, stored
from nasflow.stages.run import Infeasible, Run
from nasflow.study import Metrics, Objective, Study, Trial
from nasflow.training import Recipe

FEWEST_STEPS = 50  # of a training by which networks are compared; after fewer they are near guessing
BATCH_PER_WORKER = 4  # enough to even out long and short trainings, and to share a device's start-up


def search(run: Run, *, observers: Sequence[Observer] = ()) -> dict[str, Any]:
    """Spend the trials of the experiment; every finished one is shown to the observers.

    Raises Infeasible if no network keeps all limits.
    """
    return run.carry_out("search", lambda: _search(run, observers))


def strategy(run: Run, space: Space, objectives: Sequence[Objective]) -> Strategy:
    """The experiment's strategy for a space, seeded by the experiment."""
    chosen = run.experiment.search.strategy
    make = names.resolve("strategy", chosen.name)
    training = recipe(run, "search")
    if space.size == 1:  # nothing to choose, so nothing to shorten
        training = replace(training, epochs=1)
    told = {**fidelities(run, make, training), **_knowledge(run, chosen, make)}
    settings = {**told, **chosen.arguments}
    made: Strategy = names.call(
        "strategy", chosen.name, make, space, objectives, seed=run.experiment.seed, **settings
    )
    return made


def fidelities(run: Run, make: Callable[..., Any], training: Recipe) -> dict[str, tuple[float, ...]]:
    """For a strategy that takes `fidelities`: a ninth, a third and all of a training, as the shares that whole epochs
    make, so 1, 3 and 8 of 8; but no training so short that it says nothing."""
    if "fidelities" not in inspect.signature(make).parameters:
        return {}
    steps = math.ceil(len(run.data.train) / training.batch_size)
    least = min(training.epochs, math.ceil(FEWEST_STEPS / steps))
    whole = sorted({max(least, round(training.epochs / part)) for part in (1, 3, 9)})
    return {"fidelities": tuple(count / training.epochs for count in whole)}


def _knowledge(run: Run, chosen: experiments.Named, make: Callable[..., Any]) -> dict[str, Any]:
    """What a strategy is told beside its settings, if it takes it: `cheap`, the metrics of any point by arithmetic,
    with the zero-cost score that its setting `score` names if it has that."""
    takes = inspect.signature(make).parameters
    if "cheap" not in takes:
        return {}
    counted = cheap(run)
    if "score" not in takes:
        return {"cheap": counted}
    name = chosen.arguments.get("score", takes["score"].default)
    scored = ZeroCost(run.architecture, run.data, (str(name),), seed=run.experiment.seed)
    return {"cheap": lambda point: {**counted(point), **scored(point)}}


def recipe(run: Run, stage: Literal["search", "compress", "retrain"]) -> Recipe:
    """How networks are trained in a stage."""
    return Recipe(**experiments.recipe_settings(run.experiment, stage))


def evaluation(run: Run) -> Evaluate:
    """Counted by arithmetic, then measured (or predicted, where that is sure enough) on every device, then trained."""
    trials, settings = run.folder / "trials", recipe(run, "search")
    train: Train = Accuracy(run.architecture, run.folds, settings, trials, run.experiment.seed)
    if run.architecture.weights is not None:
        train = GivenWeights(run.architecture, run.data, trials)
    if not compresses(run):
        return Evaluate(train=train, cheap=cheap(run), measure=latency(run))
    write = Integers.of(run)
    return Evaluate(
        train=Quantised(train, run.architecture, run.folds[0], trials, write),
        cheap=cheap(run),
        measure=AsAsked(latency(run), replace(latency(run), write=write, foresight={})),
    )


def cheap(run: Run) -> Callable[[Point], Metrics]:
    """What arithmetic tells of any point."""
    whole = (lambda point: run.architecture.build(joint.without(point))) if compresses(run) else None
    counted = Counts(run.architecture, recipe(run, "search").batch_size, original=whole)
    return lambda point: stored(point, counted(point))


def compresses(run: Run) -> bool:
    """Whether compression is searched together with the architecture."""
    return any(part.name == "compression" for part in run.experiment.space)


def latency(run: Run) -> MeasuredLatency:
    """How the latency of a trial is found out."""
    return MeasuredLatency(
        run.devices,
        run.architecture,
        run.folder / "trials",
        predictors.foresight(run, predictors.predictors(run)),
        asked=[objective.metric for objective in run.objectives],
    )


def _search(run: Run, observers: Sequence[Observer]) -> dict[str, Any]:
    study, settings = run.study(), run.experiment.search
    total = 1 if study.space.size == 1 else settings.trials
    predictors.warn_of_stale(run, predictors.keep(run))

    def show(trial: Trial) -> None:
        run.notify("search", min(int(study.spent), total - 1), total, _words(study, trial))

    pool = Processes(run.workers, deadline_s=settings.deadline_s, memory_mb=run.memory_mb)
    try:
        outcome = search_loop(
            study,
            strategy(run, study.space, study.objectives),
            evaluation(run),
            pool,
            trials=total,
            batch=BATCH_PER_WORKER * run.workers if settings.batch == "auto" else settings.batch,
            observers=(show, *observers),
        )
    finally:
        pool.close()
    known = finalists.settle(run, study, latency(run)) if predictors.predicts(run) else {}
    study = finalists.corrected(study, known)
    if not study.front:
        why = study.obstacles() or outcome.message
        raise Infeasible(f"no network keeps every limit: {why}. Loosen a limit or widen the space")
    said = [f"{len(study.front)} network{'s' if len(study.front) > 1 else ''} on the front"]
    said += [outcome.message] if not outcome.complete else []
    said += [
        f"{len(numbers)} of them not measured on {device}"
        for device, numbers in finalists.unmeasured(known, study.front).items()
    ]
    return {"message": "; ".join(said), "trials": study.counts, "latency": known}


def _words(study: Study, trial: Trial) -> str:
    if trial.state != "done":
        return f"trial {trial.number} {trial.state}: {trial.error}"
    if not study.finalists:
        return f"trial {trial.number} done: error {trial.metrics['error']:.2%}"
    best = min(t.metrics["error"] for t in study.finalists)
    return f"best error {best:.2%}, {len(study.front)} on the front"
