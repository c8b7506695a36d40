"""Forests of regression trees that are fitted with scikit-learn, kept as plain numbers and asked with NumPy alone.

A random forest (Breiman, Machine Learning 45, 2001) says by the spread of its trees where it is unsure; that spread is
scaled so that it fits the errors on the samples that each tree was not shown (out of bag).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TREES = 64
LEAST_DEVIATION = 1e-9  # of a forest whose trees all agree, so that it can be divided by


@dataclass(frozen=True)
class Tree:
    """One tree, node by node from its root: at an inner node go `left` if the number in column `feature` is at most
    `threshold`, else `right`; at a leaf, whose `left` is -1, the answer is `value`."""

    feature: Ints
    threshold: Floats
    left: Ints
    right: Ints
    value: Floats

    def __call__(self, x: Floats) -> Floats:
        """The answer for each row of x (samples, columns)."""
        node = np.zeros(len(x), dtype=np.int64)
        while True:
            inner = np.flatnonzero(self.left[node] >= 0)
            if not len(inner):
                return self.value[node]
            at = node[inner]
            low = x[inner, self.feature[at]] <= self.threshold[at]
            node[inner] = np.where(low, self.left[at], self.right[at])

    def to_json(self) -> dict[str, list[float]]:
        return {
            name: getattr(self, name).tolist() for name in ("feature", "threshold", "left", "right", "value")
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], columns: int) -> Tree:
        """The opposite of `to_json`. ValueError unless every way from the root ends at a finite leaf."""
        feature, left, right = (_whole(value[name]) for name in ("feature", "left", "right"))
        threshold, answer = (np.asarray(value[name], dtype=np.float64) for name in ("threshold", "value"))
        tree = cls(feature, threshold, left, right, answer)
        count = len(left)
        if count == 0 or any(one.shape != (count,) for one in (feature, threshold, left, right, answer)):
            raise ValueError("expected a tree: lists of the same length, one entry for each node")
        inner = np.flatnonzero(left >= 0)
        children = np.concatenate([left[inner], right[inner]])
        # Children come after their parents, so no way goes in circles.
        if (children <= np.tile(inner, 2)).any() or (children >= count).any():
            raise ValueError("expected a tree: children that come after their parents")
        if ((feature[inner] < 0) | (feature[inner] >= columns)).any():
            raise ValueError(f"expected a tree that asks about columns 0 to {columns - 1}")
        if not (np.isfinite(threshold).all() and np.isfinite(answer).all()):
            raise ValueError("expected a tree of finite numbers")
        return tree


@dataclass(frozen=True)
class Forest:
    """The mean of its trees' answers for named `columns`. `scale` times their spread is the deviation of a new
    sample, at least `least`, which is the smallest that out-of-bag errors bear out."""

    columns: tuple[str, ...]
    trees: tuple[Tree, ...]
    scale: float
    least: float

    def __call__(self, x: Floats) -> tuple[Floats, Floats]:
        """The answer for each row of x (samples, columns), and the standard deviation of its error."""
        if x.ndim != 2 or x.shape[1] != len(self.columns):
            raise ValueError(f"expected rows of {len(self.columns)} columns, got an array of shape {x.shape}")
        answers = np.array([tree(_rounded(x)) for tree in self.trees])
        return answers.mean(axis=0), np.maximum(self.scale * answers.std(axis=0), self.least)

    def to_json(self) -> dict[str, Any]:
        trees = [tree.to_json() for tree in self.trees]
        return {"columns": list(self.columns), "scale": self.scale, "least": self.least, "trees": trees}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Forest:
        """The opposite of `to_json`. ValueError, KeyError or TypeError where `value` is not that."""
        columns = tuple(map(str, value["columns"]))
        trees = tuple(Tree.from_json(tree, len(columns)) for tree in value["trees"])
        scale, least = float(value["scale"]), float(value["least"])
        if not trees or not (0 <= scale < math.inf and 0 < least < math.inf):
            raise ValueError("expected a forest: at least one tree, and a finite scale and least deviation")
        return cls(columns, trees, scale, least)


def fit(
    x: Floats, y: Floats, columns: Sequence[str], *, trees: int = TREES, features: float = 1.0, seed: int = 0
) -> Forest:
    """A random forest of y (samples) over x (samples, columns); every split looks at this share of the columns."""
    from sklearn.ensemble import RandomForestRegressor

    if len(x) != len(y) or not len(x):
        raise ValueError(f"expected as many rows as answers, got {len(x)} and {len(y)}")
    learner = RandomForestRegressor(trees, max_features=features, random_state=seed, n_jobs=1)
    learner.fit(x, y)
    members = tuple(_plain(one.tree_) for one in learner.estimators_)
    answers = np.array([tree(_rounded(x)) for tree in members])
    return Forest(tuple(columns), members, *calibrated(answers, _unseen(learner, len(x)), y))


def calibrated(answers: Floats, unseen: NDArray[np.bool_], y: Floats) -> tuple[float, float]:
    """How much larger errors are than the spread of answers, and the least error to reckon with.

    `answers` are those of each member (members, samples), and only those of members that have not seen a sample
    count; y is the truth. The least error is the smallest quarter's largest.
    """
    count = unseen.sum(axis=0)
    told = count >= 2
    if not told.any():
        return 1.0, LEAST_DEVIATION
    mean = np.where(unseen, answers, 0.0).sum(axis=0)[told] / count[told]
    away = np.where(unseen[:, told], answers[:, told] - mean, 0.0)
    spread = np.sqrt((away**2).sum(axis=0) / count[told])
    error = np.abs(y[told] - mean)
    squares = float((spread**2).mean())
    scale = math.sqrt(float((error**2).mean()) / squares) if squares > 0 else 1.0
    return scale, max(float(np.percentile(error, 25)), LEAST_DEVIATION)


def _unseen(learner: Any, count: int) -> NDArray[np.bool_]:
    """Which of `count` samples each tree was not shown."""
    unseen = np.ones((len(learner.estimators_), count), dtype=bool)
    for i, drawn in enumerate(learner.estimators_samples_):
        unseen[i, drawn] = False
    return unseen


def _rounded(x: Floats) -> Floats:
    """As scikit-learn sees numbers when it chooses thresholds."""
    return x.astype(np.float32).astype(np.float64)


def _plain(tree: Any) -> Tree:
    """scikit-learn's tree as arrays of our own. Its nodes come parents first; leaves ask about no column."""
    leaf = tree.children_left < 0
    return Tree(
        feature=np.where(leaf, -1, tree.feature).astype(np.int64),
        threshold=np.where(leaf, 0.0, tree.threshold).astype(np.float64),
        left=tree.children_left.astype(np.int64),
        right=tree.children_right.astype(np.int64),
        value=tree.value[:, 0, 0].astype(np.float64),
    )


def _whole(value: Any) -> Ints:
    array = np.asarray(value, dtype=np.float64)
    if not np.isfinite(array).all() or (array != np.round(array)).any():
        raise ValueError("expected whole numbers")
    return array.astype(np.int64)
