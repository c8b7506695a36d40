"""The error of a network that comes with trained weights: judged as it is, not trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from nasflow.data import Data
from nasflow.evaluators.accuracy import WEIGHTS
from nasflow.files import replacing
from nasflow.space import Scalar
from nasflow.study import Trial
from nasflow.training import error


class Architecture(Protocol):
    """How points become networks, weights included."""

    def build(self, point: Mapping[str, Scalar]) -> nn.Module: ...


@dataclass(frozen=True)
class GivenWeights:
    """Gives the `error` on the validation images of the network that a point builds, and keeps its weights in
    `folder`/NNNNN as training would have."""

    architecture: Architecture
    data: Data
    folder: Path

    def __call__(self, trial: Trial) -> dict[str, float]:
        network = self.architecture.build(trial.point)
        wrong = error(network, self.data.validation, self.data.preprocess)
        with replacing(self.folder / f"{trial.number:05d}" / WEIGHTS) as part:
            torch.save(network.state_dict(), part)
        return {"error": wrong}
