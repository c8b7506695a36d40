"""Policies from one ranking of all channels of a network: the least important go first, wherever they are.

A ranking is a path of policies that starts with the whole network; how far to follow it is said in multiply-adds,
parameters or milliseconds, by whatever function tells what a policy costs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from nasflow.compression import criteria, prune
from nasflow.compression.criteria import Criterion
from nasflow.compression.groups import Group, PruneError, trace
from nasflow.compression.layers import Layer
from nasflow.compression.prune import CHANNELS
from nasflow.space import Choice, Point, Scalar, Space

Cost = Callable[[Point], float]
"""What a policy costs, in any unit, such as `layers.macs(found, layers.kept(found, policy))` of layers.py."""

Finetune = Callable[[nn.Module, int], None]
"""Network and number of the step, from 1: trains the network in place."""


def path(
    model: nn.Module,
    shape: Sequence[int],
    space: Space,
    *,
    criterion: Criterion = criteria.relative(criteria.group_magnitude),  # noqa: B008, a function
    start: Mapping[str, Scalar] | None = None,
) -> tuple[Point, ...]:
    """Policies of `space` from the whole network to the smallest, each a step of one group below the one before.

    The channels that a step takes score less, on average, than those of any step that is still to come. Scores are
    compared across groups as they are, so `criterion` has to make them comparable: see criteria.relative and
    criteria.lamp. All blocks stay. With `start`, `model` is what this policy made of the network that `space` is of,
    and the path goes on from there.
    """
    begin: Point = {**prune.uniform(space, 1.0), **(start or {})}
    steps: list[tuple[float, int, str, float]] = []
    groups = {group.name: group for group in trace(model, shape).groups}
    for name, options in _options(space).items():
        share = float(begin[CHANNELS + name] or 0)
        if name in groups:
            steps += _steps(groups[name], criterion(groups[name]), share, options)
    policies = [begin]
    for _, _, name, share in sorted(steps):
        policies.append({**policies[-1], CHANNELS + name: share})
    return tuple(policies)


def inside(space: Space, found: Sequence[Layer]) -> tuple[Point, ...]:
    """Policies of `space` from the whole network to the smallest, in which groups that a single layer makes keep the
    same share, and those that several layers make together, such as the stream beside residual blocks, stay whole.

    A stream's channel is missed by every block that reads it, one inside a block by that block alone. `found` is what
    layers.layers finds in the network. A space without groups of a single layer has the whole network only.
    """
    makers = Counter(layer.makes for layer in found)
    alone = {name: options for name, options in _options(space).items() if makers[name] == 1}
    whole = prune.uniform(space, 1.0)
    shares = sorted({share for options in alone.values() for share in options if share < 1}, reverse=True)
    narrower = (
        {
            CHANNELS + name: min((o for o in options if o >= share), default=1.0)
            for name, options in alone.items()
        }
        for share in shares
    )
    return (whole, *({**whole, **policy} for policy in narrower))


def within(policies: Sequence[Point], cost: Cost, target: float) -> Point:
    """The first policy of a `path` that costs at most `target`.

    Found by halving, so that each look may be a measurement: what is given back was looked at and costs at most that
    much, even where a measurement errs about another one.

    Raises:
        PruneError: the smallest policy costs more.
    """
    low, high = 0, len(policies) - 1
    least = cost(policies[high])
    if least > target:
        raise PruneError(
            f"expected to get down to a cost of {target:g}, but the smallest policy costs {least:g}; "
            "let smaller shares be kept, protect less or leave blocks out"
        )
    while low < high:
        middle = (low + high) // 2
        if cost(policies[middle]) <= target:
            high = middle
        else:
            low = middle + 1
    return policies[high]


def iterate(
    model: nn.Module,
    shape: Sequence[int],
    space: Space,
    *,
    cost: Cost,
    target: float,
    steps: int,
    finetune: Finetune,
    criterion: Callable[[nn.Module], Criterion] = lambda model: criteria.relative(criteria.group_magnitude),
) -> tuple[Point, nn.Module]:
    """Prune in several steps, each as large as the others by cost, and train after each; `model` stays untouched.

    `criterion` is asked for anew before each step, with the network as it is then, so that gradients are of that.
    Gives the policy that makes this architecture of `model`, and the trained network.
    """
    if steps < 1:
        raise PruneError(f"expected at least one step, got {steps}")
    policy = prune.uniform(space, 1.0)
    whole = cost(policy)
    current = model
    for step in range(1, steps + 1):
        wanted = whole - (whole - target) * step / steps
        scores = criterion(current)
        further = within(path(current, shape, space, criterion=scores, start=policy), cost, wanted)
        current = prune.apply(further, current, shape, criterion=scores, of=model)
        policy = further
        finetune(current, step)
    return policy, current


def _options(space: Space) -> dict[str, tuple[float, ...]]:
    """Of each group the shares that can be kept."""
    return {
        choice.name.removeprefix(CHANNELS): tuple(float(option or 0) for option in choice.options)
        for choice in space.parameters
        if isinstance(choice, Choice) and choice.name.startswith(CHANNELS)
    }


def _steps(
    group: Group, scores: torch.Tensor, share: float, options: Sequence[float]
) -> list[tuple[float, int, str, float]]:
    """(mean score of the channels that go, place in the order, group, share kept) of each step down from `share`."""
    whole = round(group.channels / share)
    each = prune.places(group, scores).sort().values / group.step
    steps: list[tuple[float, int, str, float]] = []
    kept = len(each)
    for option in sorted(options, reverse=True):
        left = round(option * whole / group.step)
        if option < share and left < kept:
            gone = each[len(each) - kept : len(each) - left]
            least = steps[-1][0] if steps else -math.inf  # equal scores may differ by a rounding
            steps.append((max(least, float(gone.mean())), len(steps), group.name, option))
            kept = left
    return steps
