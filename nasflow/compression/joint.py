"""The `compression` space: how much of a network is pruned and whether it runs in integers, to be searched beside what
it looks like.

`architecture * compression` searches both together, on one front, as APQ does (Wang et al., 2020, arXiv:2006.08509).
So that the choices exist for every architecture, they speak of the quarters of a network: of its groups of channels,
in the order in which it makes them. APQ prunes trained networks of a supernet; here the narrower network is trained
from its own first weights, which needs no supernet and does as well where the target is known (Liu et al., 2019,
arXiv:1810.05270), and its error is that of its int8 file where it runs in integers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from nasflow.compression import prune
from nasflow.compression.groups import Group, PruneError, trace
from nasflow.space import Choice, Point, Scalar, Space, SpaceError

PREFIX = "compression."
KEEP, INT8 = f"{PREFIX}keep.", f"{PREFIX}int8"
QUARTERS = 4
ROUND_TO = 8


def space(*, keep: Sequence[float] = (0.5, 0.75, 1.0), int8: Sequence[bool] = (False, True)) -> Space:
    """The share of channels kept in each quarter of a network, one of `keep`, and whether it runs in integers.

    >>> space(keep=[0.5, 1.0], int8=[True]).parameters[3:]  # doctest: +NORMALIZE_WHITESPACE
    (Choice(name='compression.keep.4', options=(0.5, 1.0), ordered=True),
     Choice(name='compression.int8', options=(True,), ordered=False))
    """
    shares = [
        float(share) for share in keep if not isinstance(share, bool) and isinstance(share, int | float)
    ]
    if not keep or len(shares) < len(keep) or not all(0 < share <= 1 for share in shares):
        raise SpaceError(f"compression space: expected shares to keep above 0, at most 1, got {list(keep)}")
    if not int8 or not all(isinstance(one, bool) for one in int8):
        raise SpaceError(f"compression space: expected int8 as a list of true and false, got {list(int8)}")
    quarters = [Choice(f"{KEEP}{n + 1}", tuple(sorted(set(shares))), ordered=True) for n in range(QUARTERS)]
    return Space((*quarters, Choice(INT8, tuple(dict.fromkeys(int8)))))


def in_integers(point: Mapping[str, Scalar]) -> bool:
    """Whether the network of a point is quantised; one that does not say so is not."""
    return bool(point.get(INT8, False))


def without(point: Mapping[str, Scalar]) -> Point:
    """What `point` says about anything but compression.

    >>> without({"compression.int8": True, "stage1.depth": 2})
    {'stage1.depth': 2}
    """
    return {name: value for name, value in point.items() if not name.startswith(PREFIX)}


def apply(point: Mapping[str, Scalar], model: nn.Module, shape: Sequence[int]) -> nn.Module:
    """`model` without the channels that `point` does not keep; itself, where all are kept.

    Counts of channels are rounded to multiples of eight. A group that cannot be pruned safely stays whole.
    """
    shares = [float(point.get(f"{KEEP}{n + 1}", 1.0) or 1.0) for n in range(QUARTERS)]
    if all(share == 1.0 for share in shares):
        return model
    groups = trace(model, shape).groups
    policy: Point = {
        f"{prune.CHANNELS}{group.name}": _share(group, shares[at * QUARTERS // len(groups)])
        for at, group in enumerate(groups)
    }
    try:
        return prune.apply(policy, model, shape)
    except PruneError:
        sound = {choice.name for choice in prune.space(model, shape, round_to=1, keep=(0.5, 1.0)).parameters}
        return prune.apply({name: share for name, share in policy.items() if name in sound}, model, shape)


def _share(group: Group, share: float) -> float:
    """The share that leaves a multiple of eight channels, at least one multiple; all where there are fewer."""
    kept = max(1, round(share * group.channels / ROUND_TO)) * ROUND_TO
    return min(1.0, kept / group.channels)
