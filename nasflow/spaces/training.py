"""The `training` space: how a network is trained, to be searched alone or beside what it looks like.

`architecture * training` searches both together. Every name begins with `train.` and goes on with the field of
Recipe (nasflow/training.py) that it sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from nasflow.space import Choice, Parameter, Point, Real, Scalar, Space, SpaceError
from nasflow.training import RATES, Recipe

PREFIX = "train."


def space(
    *,
    learning_rate: Sequence[float] = (1e-3, 1e-1),
    weight_decay: Sequence[float] = (1e-4, 1e-1),
    batch_size: Sequence[int] = (32, 64, 128),
    label_smoothing: Sequence[float] = (0.0, 0.05, 0.1),
    optimizer: Sequence[str] = ("adamw", "sgd"),
) -> Space:
    """Ways to train. `learning_rate` and `weight_decay` are [lowest, highest], spread over their logarithm, or one
    fixed value in a list; the others list their options.

    >>> space(weight_decay=[0.02]).parameters[:2]  # doctest: +NORMALIZE_WHITESPACE
    (Real(name='train.learning_rate', low=0.001, high=0.1, log=True),
     Choice(name='train.weight_decay', options=(0.02,), ordered=False))
    """
    made = Space(
        (
            _range("learning_rate", learning_rate),
            _range("weight_decay", weight_decay),
            _options("batch_size", batch_size, ordered=True),
            _options("label_smoothing", [_float(value) for value in label_smoothing], ordered=True),
            _options("optimizer", optimizer, ordered=False),
        )
    )
    for parameter in made.parameters:
        ends = parameter.options if isinstance(parameter, Choice) else (parameter.low, parameter.high)
        for value in ends:
            recipe({parameter.name: value}, Recipe())
    return made


def recipe(point: Mapping[str, Scalar], base: Recipe) -> Recipe:
    """`base` with what `point` says about training; names without the prefix say nothing about it.

    >>> recipe({"train.batch_size": 32, "stage1.depth": 2}, Recipe()).batch_size
    32
    """
    said: dict[str, Any] = {
        name.removeprefix(PREFIX): value for name, value in point.items() if name.startswith(PREFIX)
    }
    known = {field.name for field in fields(Recipe)}
    if not said.keys() <= known:
        raise SpaceError(
            f"training space: recipes have no {sorted(said.keys() - known)}; they have {sorted(known)}"
        )
    wrong = [name for name, value in said.items() if isinstance(value, str) is (name != "optimizer")]
    if wrong or None in said.values():
        raise SpaceError(
            f"training space: expected numbers, and the optimizer as one of {list(RATES)}, got {said}"
        )
    return replace(base, **said)


def without(point: Mapping[str, Scalar]) -> Point:
    """What `point` says about anything but training, so what the network is built from.

    >>> without({"train.batch_size": 32, "stage1.depth": 2})
    {'stage1.depth': 2}
    """
    return {name: value for name, value in point.items() if not name.startswith(PREFIX)}


def _range(name: str, ends: Sequence[float]) -> Parameter:
    if not isinstance(ends, Sequence) or isinstance(ends, str) or len(ends) not in (1, 2):
        raise SpaceError(f"training space: {name} is [lowest, highest] or [value], got {ends!r}")
    values = [_float(end) for end in ends]
    if len(values) == 1:
        return Choice(PREFIX + name, (values[0],))
    return Real(PREFIX + name, values[0], values[1], log=True)


def _options(name: str, options: Sequence[Scalar], *, ordered: bool) -> Choice:
    if not isinstance(options, Sequence) or isinstance(options, str):
        raise SpaceError(f"training space: {name} is a list of options, got {options!r}")
    return Choice(PREFIX + name, tuple(options), ordered=ordered)


def _float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise SpaceError(f"training space: expected a number, got {value!r}")
    return float(value)
