"""Zero-cost scores: what an untrained network tells about how good it will be, in seconds or less.

Every score is a function `score(model, images, labels, seed) -> float` in a file of this package: images
(n, channels, height, width) as the network eats them, labels (n,) of int64. It works on a copy, so the model is left
as it is, and is a function of its arguments alone. Higher is better in all of them; -inf is the worst, for a network
that the score cannot tell apart from a broken one. Most grow with a network's size: compare within one space, on one
batch.

>>> from torch import nn
>>> score("params", nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.zeros(1, 1, 2, 2), torch.zeros(1).long())
10.0
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from nasflow.data import Data
from nasflow.errors import NasflowError
from nasflow.evaluators import counts
from nasflow.evaluators.zero_cost.gradient import fisher, grad_norm, grasp, snip
from nasflow.evaluators.zero_cost.jacov import jacov
from nasflow.evaluators.zero_cost.naswot import naswot
from nasflow.evaluators.zero_cost.synflow import synflow
from nasflow.evaluators.zero_cost.zen import zen
from nasflow.names import nearest
from nasflow.space import Point, Scalar, point_key
from nasflow.spaces import training as training_space
from nasflow.training import seeded

Score = Callable[[nn.Module, Tensor, Tensor, int], float]

BATCH = 128  # images, as in the NASWOT paper


def params(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """Number of weights: the more, the better, as a first guess."""
    return counts.params(model)


def flops(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """Multiply-adds for one image: the more, the better, as a first guess."""
    return counts.flops(model, images.shape[1:])


SCORES: Mapping[str, Score] = {
    "fisher": fisher,
    "flops": flops,
    "grad-norm": grad_norm,
    "grasp": grasp,
    "jacov": jacov,
    "naswot": naswot,
    "naswot-v1": jacov,  # the same score by the name of its first paper
    "params": params,
    "snip": snip,
    "synflow": synflow,
    "zen": zen,
}


def score(name: str, model: nn.Module, images: Tensor, labels: Tensor, seed: int = 0) -> float:
    """The score called `name` of a model; -inf if it is unusable. Raises NasflowError for an unknown name."""
    if len(images) != len(labels) or not len(images):
        raise NasflowError(
            f"expected images with a label each, got {len(images)} images and {len(labels)} labels"
        )
    value = _named(name)(model, images, labels, seed)
    return value if math.isfinite(value) else -math.inf


class Architecture(Protocol):
    """How points become networks."""

    def build(self, point: Mapping[str, Scalar]) -> nn.Module: ...


@dataclass(frozen=True)
class ZeroCost:
    """Gives the `scores` of a point's network before training, each as a metric of its name.

    A score of -inf is the worst; the search loop records finite metrics only, and fails a trial whose objective is
    none. All networks see the same first `batch` training images that differ from each other, without augmentation
    (fewer if there are fewer). Weights follow from `seed` and the point; what is known is not computed again.
    """

    architecture: Architecture
    data: Data
    scores: Sequence[str] = ("naswot",)
    batch: int = BATCH
    seed: int = 0
    _known: dict[str, dict[str, float]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in self.scores:
            _named(name)
        if self.batch < 2:
            raise NasflowError(
                f"zero-cost scores compare images: expected a batch of at least 2, got {self.batch}"
            )

    def __call__(self, point: Point) -> dict[str, float]:
        key = point_key(point)
        if key not in self._known:
            weights_seed, score_seed = self._seeds(key)
            with seeded(weights_seed):
                model = self.architecture.build(training_space.without(point))
            images, labels = batch(self.data, self.batch)
            self._known[key] = {name: score(name, model, images, labels, score_seed) for name in self.scores}
        return dict(self._known[key])

    def _seeds(self, key: str) -> tuple[int, int]:
        first, second = np.random.SeedSequence((self.seed, int(key, 16))).generate_state(2, np.uint64)
        return int(first), int(second)


def batch(data: Data, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` training images that differ from each other, as a network eats them, and their labels.

    Equal images would make NASWOT's matrix singular for every network.
    """
    seen: dict[bytes, int] = {}
    for number, image in enumerate(data.train.x):
        seen.setdefault(image.tobytes(), number)
        if len(seen) == count:
            break
    chosen = list(seen.values())
    return torch.from_numpy(data.preprocess(data.train.x[chosen])), torch.from_numpy(data.train.y[chosen])


def _named(name: str) -> Score:
    if name not in SCORES:
        raise NasflowError(f"unknown zero-cost score {name!r}: {nearest(name, SCORES)}")
    return SCORES[name]
