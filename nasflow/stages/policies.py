"""Which prunings of a network are worth trying first, and the limits that a search for others keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from nasflow.compression import prune, ranking
from nasflow.compression.groups import PruneError
from nasflow.evaluators.counts import Counts
from nasflow.files import read_json, write_json
from nasflow.network import Pruning
from nasflow.space import Choice, Point, Space
from nasflow.study import Metrics, Objective, Trial

Measure = Callable[[Sequence[Trial]], Sequence[Metrics | Exception]]


def first_policies(space: Space) -> list[Point]:
    """What a person would try first: all blocks away, every group a step narrower, both; then each block alone.

    Fewer layers and fewer channels save differently from device to device, so both come early.
    """
    whole = whole_policy(space)
    blocks = [p.name for p in space.parameters if p.name.startswith(prune.BLOCK)]
    options = [o for p in space.parameters if isinstance(p, Choice) for o in p.options]
    shares = sorted({o for o in options if isinstance(o, float) and o < 1.0}, reverse=True)
    narrower = [prune.uniform(space, share) for share in shares]
    shallow: Point = dict.fromkeys(blocks, False)
    tried = [{**whole, **shallow}, *narrower[:1], *({**policy, **shallow} for policy in narrower[:1])]
    tried += [{**whole, name: False} for name in blocks] + narrower[1:]
    first: dict[str, Point] = {}
    for policy in tried:
        first.setdefault(space.key(policy), policy)
    first.pop(space.key(whole), None)
    return list(first.values())


def whole_policy(space: Space) -> Point:
    """The policy that removes nothing."""
    return prune.uniform(space, 1.0)


def ranked(
    pruning: Pruning, space: Space, limits: Sequence[Objective], measure: Measure, file: Path
) -> list[Point]:
    """The policy by one ranking of all channels that just keeps the limits, found by measuring, and the same without
    every other one of the blocks that can go, and without all of them; what was found is kept in `file`. A ranking that
    never gets there gives nothing."""
    if not file.exists():
        whole = whole_policy(space)
        blocks = [name for name in whole if name.startswith(prune.BLOCK)]
        absent = [blocks[::2], blocks] if blocks else []
        starts = [whole, *({**whole, **dict.fromkeys(gone, False)} for gone in absent)]
        found = [one for start in starts for one in _along(pruning, space, limits, measure, start)]
        write_json(file, [one for one in found if space.key(one) != space.key(whole)])
    return [dict(policy) for policy in read_json(file)]


def _along(
    pruning: Pruning, space: Space, limits: Sequence[Objective], measure: Measure, start: Point
) -> list[Point]:
    model = pruning.build(start)
    policies = ranking.path(model, pruning.shape, space, start=start)
    counted = Counts(pruning)

    def cost(policy: Point) -> float:
        """How much of what is allowed is spent, by the limit nearest to being broken."""
        (answer,) = measure([Trial(policies.index(policy), policy)])
        if isinstance(answer, Exception):
            return math.inf
        metrics = {**counted(policy), **answer}
        return max(metrics[one.metric] / one.limit for one in limits if one.limit is not None)

    try:
        return [space.canonical(ranking.within(policies, cost, 1.0))]
    except PruneError:
        return []


def limited(objectives: Sequence[Objective], limits: Sequence[Objective], *, int8: bool) -> list[Objective]:
    """The objectives with these limits, other limits after them. Sizes are counted in 32-bit floats meanwhile, of which
    an int8 file is a quarter at best."""
    bounds = {
        one.metric: 4 * one.limit if one.metric == "size_kb" and int8 else one.limit
        for one in limits
        if one.limit is not None
    }
    inside = [replace(o, limit=bounds.get(o.metric, o.limit)) for o in objectives]
    known = {o.metric for o in objectives}
    return inside + [replace(one, limit=bounds[one.metric]) for one in limits if one.metric not in known]
