"""The retrain stage: the networks that are worth shipping trained in full, once for each seed.

It is a search whose strategy asks for every (network, seed) once: same loop, same record, same pool, so an
interrupted retraining goes on from its last epoch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from nasflow import pareto
from nasflow.errors import NasflowError
from nasflow.evaluators.accuracy import Accuracy
from nasflow.evaluators.given import GivenWeights
from nasflow.loop import Evaluate, SearchError
from nasflow.loop import run as search_loop
from nasflow.network import Architecture, Network
from nasflow.pool import Processes, Train
from nasflow.record import open_record
from nasflow.space import Choice, Point, Scalar, Space
from nasflow.spaces import training as training_space
from nasflow.stages import finalists
from nasflow.stages.compress import network_of, picked
from nasflow.stages.run import Run
from nasflow.stages.search import recipe
from nasflow.stages.steps import taught_attention
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
    """The networks of the front that are trained in full, and the pruned ones that are fine-tuned in full.

    A network that came with weights keeps them: it is finished already.
    """
    study = finalists.found(run)
    chosen = spread(study, picked(run, study), run.experiment.retrain.networks)
    whole = [network_of(run, trial) for trial in chosen]
    if run.architecture.weights is None:
        whole = [replace(network, weights=None) for network in whole]
    kept = [Network.from_dict(said, run.folder) for said in run.result("compress")["networks"]]
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
    parents, lost = _train(run, folder / "whole", whole)
    networks = {result["name"]: Network.from_dict(result["network"], run.folder) for result in parents}
    taught = [network for network in pruned if network.parent in networks]
    children, more = _train(run, folder / "pruned", taught, networks) if taught else ([], [])
    results, failures = parents + children, lost + more
    if not results:
        raise NasflowError(
            f"nothing could be trained in full: {'; '.join(failures)}. Change the settings of retrain; "
            f"if the cause lay elsewhere and is gone, delete {folder} and run again"
        )
    return {"message": "; ".join([_words(results), *failures]), "networks": results}


def _train(
    run: Run, folder: Path, networks: Sequence[Network], parents: Mapping[str, Network] | None = None
) -> tuple[list[dict[str, Any]], list[str]]:
    """Train networks with every seed, the pruned ones taught by their retrained `parents`. Returns a result for
    each, and in words why others have none."""
    meaning = Retraining(run.architecture, tuple(networks))
    given = run.architecture.weights is not None and parents is None
    seeds = 1 if given else run.experiment.retrain.seeds
    train: Train = GivenWeights(meaning, run.data, folder)
    if not given:
        train = InFull.of(run, meaning, folder, Teachers(meaning, parents) if parents else None)
    space, objectives = meaning.space(seeds), (Objective("error"),)
    study = Study(space, objectives, open_record(folder / "study.journal", "retrain", space, objectives))
    points: list[Point] = [{"network": n.name, "seed": seed} for n in networks for seed in range(seeds)]

    def show(trial: Trial) -> None:
        run.notify(
            "retrain", min(int(study.spent), len(points) - 1), len(points), str(trial.point["network"])
        )

    pool = Processes(run.workers, memory_mb=run.memory_mb)
    try:
        with contextlib.suppress(SearchError):  # no training of these worked: the reasons are returned
            search_loop(
                study,
                Listed(points),
                Evaluate(train),
                pool,
                trials=len(points),
                batch=len(points),
                observers=(show,),
            )
    finally:
        pool.close()
    results = {network.name: _result(run, study, folder, network) for network in networks}
    lost = {str(t.point["network"]): t.error for t in study.trials if t.state == "failed"}
    return (
        [result for result in results.values() if result is not None],
        [f"{name} is left out: {error}" for name, error in lost.items() if results[name] is None],
    )


@dataclass(frozen=True)
class InFull:
    """Trains each network by the retraining recipe, but for what its own point says about training."""

    accuracy: Accuracy
    meaning: Retraining

    @classmethod
    def of(cls, run: Run, meaning: Retraining, folder: Path, teacher: Teachers | None) -> InFull:
        settings = recipe(run, "retrain")
        looks = taught_attention(run) if teacher else 0.0
        seed = run.experiment.seed
        return cls(Accuracy(meaning, (run.data,), settings, folder, seed, teacher, attention=looks), meaning)

    def __call__(self, trial: Trial) -> dict[str, float]:
        point = self.meaning.network(trial.point).point
        return replace(self.accuracy, recipe=training_space.recipe(point, self.accuracy.recipe))(trial)


@dataclass(frozen=True)
class Teachers:
    """Whom the network of a point learns from: its parent, as retrained."""

    meaning: Retraining
    parents: Mapping[str, Network]

    def __call__(self, point: Mapping[str, Scalar]) -> nn.Module:
        parent = self.meaning.network(point).parent
        assert parent is not None
        return self.parents[parent].build(self.meaning.architecture)


def _result(run: Run, study: Study, folder: Path, network: Network) -> dict[str, Any] | None:
    """Errors of all seeds and the network with the weights of the best one; None if no training got to its end."""
    trials = [trial for trial in study.trials if trial.point["network"] == network.name]
    done = [trial for trial in trials if trial.state == "done"]
    if not done:
        return None
    best = min(done, key=lambda trial: trial.metrics["error"])
    place = folder / f"{best.number:05d}"
    errors = [trial.metrics["error"] for trial in done]
    return {
        "name": network.name,
        "error": float(np.mean(errors)),
        "errors": errors,
        "folder": str(place.relative_to(run.folder)),
        "trials": [trial.number for trial in done],
        "network": replace(network, weights=place / "weights.pt").to_dict(run.folder),
    }


def _words(results: Sequence[Mapping[str, Any]]) -> str:
    best = min(results, key=lambda result: result["error"])
    return f"{len(results)} networks, validation error from {best['error']:.2%} ({best['name']})"
