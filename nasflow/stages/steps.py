"""How a pruning is reached: from weights that were trained to do without channels, and in several steps with training
between them.
"""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasflow import attention, names
from nasflow.compression import gradients
from nasflow.compression.prune import partway
from nasflow.compression.reconstruct import reconstruction
from nasflow.data import Data
from nasflow.evaluators.accuracy import WEIGHTS, Accuracy
from nasflow.files import replacing
from nasflow.loop import Evaluate, SearchError
from nasflow.loop import run as search_loop
from nasflow.network import BATCHES, CURVATURE, Pruning, asks
from nasflow.pool import Processes
from nasflow.record import open_record
from nasflow.space import Space
from nasflow.spaces import training as training_space
from nasflow.stages.integers import CALIBRATION_IMAGES, calibration
from nasflow.stages.policies import whole_policy
from nasflow.stages.run import Run
from nasflow.stages.search import recipe
from nasflow.strategies.listed import Listed
from nasflow.study import Metrics, Objective, Study, Trial
from nasflow.training import Penalty


@dataclass(frozen=True)
class Images:
    """Tells a pruning what its criterion, and with `reconstruct` what is left of the network, ask training images about
    the network that is pruned; the answers are kept in a folder."""

    data: Data
    seed: int
    reconstruct: bool = False

    def __call__(self, pruning: Pruning, folder: Path) -> Pruning:
        return replace(pruning, known=self._known(pruning, folder), moments=self._moments(pruning, folder))

    def _known(self, pruning: Pruning, folder: Path) -> Path | None:
        asked = asks(pruning.criterion)
        if asked not in (BATCHES, CURVATURE):
            return None
        file = folder / f"{asked}.pt"
        if not file.exists():
            model = pruning.begin.build(pruning.architecture)
            found: Any = (
                list(gradients.gather(model, self.data, seed=self.seed))
                if asked == BATCHES
                else gradients.fisher(model, self.data, seed=self.seed)
            )
            with replacing(file) as part:
                torch.save(found, part)
        return file

    def _moments(self, pruning: Pruning, folder: Path) -> Path | None:
        if not self.reconstruct:
            return None
        file = folder / "moments.pt"
        if not file.exists():
            images = torch.from_numpy(calibration(self.data, self.seed, CALIBRATION_IMAGES))
            model = pruning.begin.build(pruning.architecture)
            found = reconstruction(model, images, seed=self.seed)
            with replacing(file) as part:
                torch.save({"moments": dict(found.moments), "norms": dict(found.norms)}, part)
        return file


@dataclass(frozen=True)
class InSteps:
    """Reaches the policy of a trial in so many `steps`, each an equal share of what goes, and trains after each: the
    epochs of `accuracy` are shared among them, at least one each. What goes next is chosen by the weights of then.

    `pruning` begins it; `images` are asked again after each step.
    """

    accuracy: Accuracy
    pruning: Pruning
    steps: int
    images: Images

    def __call__(self, trial: Trial) -> Metrics:
        folder = self.accuracy.folder / f"{trial.number:05d}" / "steps"
        epochs = max(1, round(self.accuracy.recipe.epochs / self.steps))
        accuracy = replace(self.accuracy, recipe=replace(self.accuracy.recipe, epochs=epochs))
        pruning = self.pruning
        with tempfile.TemporaryDirectory(
            prefix="nasflow-steps-"
        ) as answers:  # too large to keep for every trial
            for step in range(1, self.steps):
                policy = partway(trial.point, step / self.steps)
                part = replace(trial, number=step, point=policy)
                replace(accuracy, architecture=pruning, folder=folder)(part)
                left = replace(pruning.parent, policy=policy, weights=folder / f"{step:05d}" / WEIGHTS)
                place = Path(answers) / str(step)
                place.mkdir()
                pruning = self.images(replace(pruning, start=left), place)
            return replace(accuracy, architecture=pruning)(trial)


@dataclass(frozen=True)
class Penalised:
    """Makes the penalty of that name for a network."""

    name: str
    shape: tuple[int, int, int]
    arguments: dict[str, Any] = field(default_factory=dict)

    def __call__(self, model: nn.Module) -> Penalty:
        make = names.resolve("penalty", self.name)
        penalty: Penalty = names.call("penalty", self.name, make, model, self.shape, **self.arguments)
        return penalty


def taught_attention(run: Run) -> float:
    """How strongly pruned networks learn where the whole one looks, beside what it answers."""
    return attention.STRENGTH if run.experiment.compress.distill == "features" else 0.0


def sparse(run: Run, pruning: Pruning, space: Space, folder: Path) -> tuple[Pruning, str]:
    """The pruning of a network that was trained with the experiment's penalty first; if that failed, the pruning as it
    was, and why."""
    settings = run.experiment.compress.sparse
    if settings is None:
        return pruning, ""
    run.notify("compress", 0, 1, f"{pruning.parent.name} with a penalty on its channels")
    penalty = Penalised(settings.penalty.name, pruning.shape, dict(settings.penalty.arguments))
    how = training_space.recipe(pruning.parent.point, recipe(run, "compress"))
    how = replace(how, epochs=settings.epochs)
    place = folder / "sparse"
    whole = replace(pruning, criterion="l1")  # nothing goes yet, so no training images are asked what may
    train = Accuracy(
        whole, run.folds, how, place, run.experiment.seed, teacher=pruning.teacher, penalty=penalty
    )
    objectives = (Objective("error"),)
    study = Study(space, objectives, open_record(place / "study.journal", "sparse", space, objectives))
    pool = Processes(run.workers, memory_mb=run.memory_mb)
    try:
        with contextlib.suppress(SearchError):  # that it failed is told
            search_loop(study, Listed([whole_policy(space)]), Evaluate(train), pool, trials=1, batch=1)
    finally:
        pool.close()
    (trial,) = study.trials
    if trial.state != "done":
        return pruning, f"{pruning.parent.name} is pruned without sparse training: {trial.error}"
    weights = place / f"{trial.number:05d}" / WEIGHTS
    return replace(pruning, start=replace(pruning.parent, weights=weights)), ""
