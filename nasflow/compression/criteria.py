"""How much a channel matters: functions from a group to one score per channel, the least important lowest.

Scores are only compared within their group, so their scale means nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from nasflow.compression.groups import CONVOLUTION, Group, Member

Criterion = Callable[[Group], torch.Tensor]
"""Group -> scores (channels,)."""

BATCH_NORM = nn.modules.batchnorm._BatchNorm


def l1(group: Group) -> torch.Tensor:
    """Sum of the absolute weights that make the channel, in the layer that makes it first.

    Li et al., 2017 (arXiv:1608.08710).
    """
    return _total(group, group.members[:1], lambda weights: weights.abs().sum(1))


def l2(group: Group) -> torch.Tensor:
    """Euclidean length of the weights that make the channel, in the layer that makes it first."""
    return _total(group, group.members[:1], lambda weights: weights.square().sum(1).sqrt())


def bn_scale(group: Group) -> torch.Tensor:
    """Mean absolute scale of the channel in the group's batch normalisations; `l1` where it has none.

    Liu et al., 2017 (Network Slimming, arXiv:1708.06519), for networks trained with a penalty on the scales.
    """
    scaled = [m for m in group.members if isinstance(m.module, BATCH_NORM) and m.module.affine]
    return _total(group, scaled, lambda weights: weights.abs().sum(1)) / len(scaled) if scaled else l1(group)


def group_magnitude(group: Group) -> torch.Tensor:
    """Sum of the squared weights of the channel over all layers that make it, hand it through or read it.

    Fang et al., 2023 (DepGraph, arXiv:2301.12900). They divide by the number of layers and by the mean of the
    group, which does not change the order within a group; their code leaves out depthwise layers, the paper and
    this do not.
    """
    return _total(group, group.members, lambda weights: weights.square().sum(1))


def random(seed: int) -> Criterion:
    """The criterion that knows nothing: what every other one has to beat."""

    def drawn(group: Group) -> torch.Tensor:
        rng = np.random.default_rng([seed, zlib.crc32(group.name.encode())])
        return torch.from_numpy(rng.random(group.channels))

    return drawn


def _total(
    group: Group, members: Sequence[Member], score: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Scores of the members' weights, added up by channel of the group."""
    scores = torch.zeros(group.channels, dtype=torch.float64)
    for member in members:
        weights = filters(member)
        if weights is not None:
            scores.index_add_(0, member.root, score(weights.detach().double().cpu()))
    return scores


def filters(member: Member) -> torch.Tensor | None:
    """The member's weights by position, (len(member.index), weights per position); None where it has none that
    belong to single channels."""
    weight = getattr(member.module, "weight", None)
    if not isinstance(weight, torch.Tensor):
        return None
    if not isinstance(member.module, (CONVOLUTION, nn.Linear)):
        per_channel = weight.dim() == 1 and len(weight) > int(member.index.max())
        return weight[member.index].unsqueeze(1) if per_channel else None
    slices = 1
    if isinstance(member.module, CONVOLUTION):
        slices = member.module.groups
        if member.module.transposed:
            weight = weight.transpose(0, 1) if slices == 1 else weight
    if member.side == "in":  # (outputs, inputs of a slice, ...) -> (inputs, outputs of a slice, ...)
        weight = weight.reshape(slices, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    return weight[member.index].flatten(1)
