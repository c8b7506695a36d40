"""The retrain stage: the networks that are worth shipping trained in full, once for each seed.

It is a search whose strategy asks for every (network, seed) once: same loop, same record, same pool, so an
interrupted retraining goes on from its last epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from nasflow import pareto
from nasflow.errors import NasflowError
from nasflow.evaluators.accuracy import Accuracy
from nasflow.loop import Evaluate
from nasflow.loop import run as search_loop
from nasflow.network import Architecture, Network
from nasflow.pool import Processes
from nasflow.record import open_record
from nasflow.space import Choice, Point, Scalar, Space
from nasflow.spaces import training as training_space
from nasflow.stages.compress import network_of, picked
from nasflow.stages.run import Run
from nasflow.stages.search import recipe
from nasflow.strategies.listed import Listed
from nasflow.study import Objective, Study, Trial


@dataclass(frozen=True)
class Retraining:
    """What `{"network": name, "seed": n}` means: that network, as it starts its full training."""

    architecture: Architecture
    networks: tuple[Network, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the inputs: (channels, height, width)."""
        return self.architecture.shape

    def space(self, seeds: int) -> Space:
        return Space(
            (
                Choice("network", tuple(network.name for network in self.networks)),
                Choice("seed", tuple(range(seeds))),
            )
        )

    def build(self, point: Mapping[str, Scalar]) -> nn.Module:
        return self.network(point).build(self.architecture)

    def network(self, point: Mapping[str, Scalar]) -> Network:
        return next(network for network in self.networks if network.name == point["network"])


def retrain(run: Run) -> dict[str, Any]:
    """Train in full the picked networks, more of the front beside them, and what compression kept of them."""
    return run.carry_out("retrain", lambda: _retrain(run))


def survivors(run: Run) -> tuple[list[Network], list[Network]]:
    """The networks of the front that are trained in full, and the pruned ones that are fine-tuned in full."""
    study = run.study()
    chosen = spread(study, picked(run, study), run.experiment.retrain.networks)
    whole = [replace(network_of(run, trial), weights=None) for trial in chosen]
    kept = [Network.from_dict(said) for said in run.result("compress")["networks"]]
    return whole, [network for network in kept if not network.int8]


def spread(study: Study, first: Sequence[Trial], count: int) -> list[Trial]:
    """`first` and then, up to `count` in all, the members of the front farthest from those already chosen,
    beginning with the one of least error."""
    chosen, front = list(first), study.front
    if not front:
        return chosen
    everything = [*front, *(trial for trial in chosen if trial not in front)]
    at = dict(zip((t.number for t in everything), pareto.normalised(study.losses(everything)), strict=True))
    best = min(front, key=lambda trial: trial.metrics["error"])
    if len(chosen) < count and best not in chosen:
        chosen.append(best)
    while len(chosen) < count:
        others = [trial for trial in front if trial not in chosen]
        if not others:
            break
        chosen.append(
            max(others, key=lambda t: min(float(np.linalg.norm(at[t.number] - at[c.number])) for c in chosen))
        )
    return chosen


def _retrain(run: Run) -> dict[str, Any]:
    whole, pruned = survivors(run)
    folder = run.folder / "retrain" / run.key("retrain")
    parents = _train(run, folder / "whole", whole, {})
    results = parents + _train(run, folder / "pruned", pruned, {r["name"]: r for r in parents})
    return {"message": _words(results), "networks": results}


def _train(
    run: Run, folder: Path, networks: Sequence[Network], teachers: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Train networks with every seed; a pruned one learns from its retrained parent if that is there."""
    if not networks:
        return []
    seeds = run.experiment.retrain.seeds
    meaning = Retraining(run.architecture, tuple(networks))
    space, objectives = meaning.space(seeds), (Objective("error"),)
    study = Study(space, objectives, open_record(folder / "study.journal", "retrain", space, objectives))
    teacher = None
    if teachers:
        teacher = Teachers(
            meaning, {name: Network.from_dict(said["network"]) for name, said in teachers.items()}
        )
    accuracy = Accuracy(meaning, (run.data,), recipe(run, "retrain"), folder, run.experiment.seed, teacher)
    points: list[Point] = [{"network": n.name, "seed": seed} for n in networks for seed in range(seeds)]

    def show(trial: Trial) -> None:
        run.notify("retrain", min(study.spent, len(points) - 1), len(points), str(trial.point["network"]))

    pool = Processes(run.workers, memory_mb=run.memory_mb)
    try:
        search_loop(
            study,
            Listed(points),
            Evaluate(InFull(accuracy, meaning)),
            pool,
            trials=len(points),
            batch=len(points),
            observers=(show,),
        )
    finally:
        pool.close()
    return [_result(study, folder, network) for network in networks]


@dataclass(frozen=True)
class InFull:
    """Trains each network by the retraining recipe, but for what its own point says about training."""

    accuracy: Accuracy
    meaning: Retraining

    def __call__(self, trial: Trial) -> dict[str, float]:
        point = self.meaning.network(trial.point).point
        return replace(self.accuracy, recipe=training_space.recipe(point, self.accuracy.recipe))(trial)


@dataclass(frozen=True)
class Teachers:
    """Whom the network of a point learns from: its parent, as retrained."""

    meaning: Retraining
    by_name: Mapping[str, Network]

    def __call__(self, point: Mapping[str, Scalar]) -> nn.Module:
        parent = self.meaning.network(point).parent
        assert parent is not None
        return self.by_name[parent].build(self.meaning.architecture)


def _result(study: Study, folder: Path, network: Network) -> dict[str, Any]:
    """Errors of all seeds and the network with the weights of the best one."""
    trials = [trial for trial in study.trials if trial.point["network"] == network.name]
    done = [trial for trial in trials if trial.state == "done"]
    if not done:
        raise NasflowError(f"{network.name} could not be trained in full: {trials[0].error}")
    best = min(done, key=lambda trial: trial.metrics["error"])
    place = folder / f"{best.number:05d}"
    errors = [trial.metrics["error"] for trial in done]
    return {
        "name": network.name,
        "error": float(np.mean(errors)),
        "errors": errors,
        "folder": str(place),
        "trials": [trial.number for trial in done],
        "network": replace(network, weights=place / "weights.pt").to_dict(),
    }


def _words(results: Sequence[Mapping[str, Any]]) -> str:
    best = min(results, key=lambda result: result["error"])
    return f"{len(results)} networks, validation error from {best['error']:.2%} ({best['name']})"
