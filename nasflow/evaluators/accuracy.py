"""The error of a point's network, found by training it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from nasflow.data import Data
from nasflow.errors import NasflowError
from nasflow.files import read_json, replacing, write_json
from nasflow.space import Point, Scalar, point_key
from nasflow.spaces import training as training_space
from nasflow.study import Trial
from nasflow.training import Epoch, Penalty, Recipe, seeded, train

WEIGHTS, CHECKPOINT, RESULT = "weights.pt", "checkpoint.pt", "training.json"


class Architecture(Protocol):
    """How points become networks."""

    def build(self, point: Mapping[str, Scalar]) -> nn.Module: ...


@dataclass(frozen=True)
class Accuracy:
    """Trains a trial's network and gives its `error` on the validation images (share of wrong answers after the
    last epoch) and its `train_loss`, each the mean over the folds in `data`.

    `recipe` holds where the point has no `train.` values of its own; the trial's fidelity scales its epochs. A
    `teacher` is the network that a point's network learns from, with `attention` also from where it looks; `penalty`
    makes what is added to the loss of a network. First weights and the order of images follow from `seed` and the
    point, not from the trial's number, so it does not matter when a point is tried.

    A trial's folder, `folder`/NNNNN, gets weights.pt (of the first fold) and training.json (metrics and epochs);
    until then it has a checkpoint, from which a killed training goes on. A trial that has them is not trained again.
    """

    architecture: Architecture
    data: Sequence[Data]
    recipe: Recipe
    folder: Path
    seed: int
    teacher: Callable[[Point], nn.Module] | None = None
    penalty: Callable[[nn.Module], Penalty] | None = None
    attention: float = 0.0

    def __call__(self, trial: Trial) -> dict[str, float]:
        place = self.folder / f"{trial.number:05d}"
        recipe = training_space.recipe(trial.point, self.recipe)
        recipe = replace(recipe, epochs=max(1, round(recipe.epochs * trial.fidelity)))
        identity = self._identity(trial, recipe)
        metrics = _recorded(place, identity)
        if metrics is not None:
            return metrics
        folds = [self._train(trial.point, recipe, place, fold) for fold in range(len(self.data))]
        metrics = {
            "error": float(np.mean([epochs[-1].error for epochs in folds])),
            "train_loss": float(np.mean([epochs[-1].train_loss for epochs in folds])),
        }
        # The checkpoints go last: until the result is there, they save a killed trial from training again.
        write_json(
            place / RESULT,
            {**identity, "metrics": metrics, "epochs": [[asdict(e) for e in epochs] for epochs in folds]},
        )
        for fold in range(len(self.data)):
            _checkpoint(place, fold).unlink(missing_ok=True)
        return metrics

    def _train(self, point: Point, recipe: Recipe, place: Path, fold: int) -> tuple[Epoch, ...]:
        weights_seed, order_seed = self._seeds(point, fold)
        with seeded(weights_seed):
            model = self.architecture.build(training_space.without(point))
            teacher = self.teacher(point) if self.teacher is not None else None
        epochs = train(
            model,
            self.data[fold],
            recipe,
            seed=order_seed,
            checkpoint=_checkpoint(place, fold),
            teacher=teacher,
            attention=self.attention,
            penalty=self.penalty(model) if self.penalty is not None else None,
        )
        if fold == 0:
            with replacing(place / WEIGHTS) as part:
                torch.save(model.state_dict(), part)
        return epochs

    def _seeds(self, point: Point, fold: int) -> tuple[int, int]:
        entropy = (self.seed, int(point_key(point), 16), fold)
        first, second = np.random.SeedSequence(entropy).generate_state(2, np.uint64)
        return int(first), int(second)

    def _identity(self, trial: Trial, recipe: Recipe) -> dict[str, Any]:
        """What must be equal for a result to be this trial's, as JSON gives it back."""
        data = self.data[0]
        identity = {
            "point": trial.point,
            "recipe": asdict(recipe),
            "seed": self.seed,
            "data": data.sha256,
            "augment": data.augment,
            "preprocess": asdict(data.preprocess),
            "folds": len(self.data),
            "teacher": self.teacher is not None,
            **({"attention": self.attention} if self.attention else {}),
            **({} if self.penalty is None else {"penalty": repr(self.penalty)}),
        }
        return dict(json.loads(json.dumps(identity)))


def _recorded(place: Path, identity: Mapping[str, Any]) -> dict[str, float] | None:
    """The metrics of a trial that was trained before; None if it was not."""
    file = place / RESULT
    if not file.exists():
        return None
    said = read_json(file)
    differing = [name for name, value in identity.items() if said.get(name) != value]
    if differing:
        raise NasflowError(
            f"{file} is of another training: it differs in {', '.join(differing)}. Delete the folder to train anew"
        )
    metrics: dict[str, float] = said["metrics"]
    return metrics


def _checkpoint(place: Path, fold: int) -> Path:
    return place / (CHECKPOINT if fold == 0 else f"checkpoint-{fold + 1}.pt")
