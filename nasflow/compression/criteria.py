"""How much a channel matters: functions from a group to one score per channel, the least important lowest.

A policy that says how many channels of each group stay only compares scores within a group, so their scale means
nothing there. A ranking of all channels of a network compares them across groups, see `relative` and ranking.py.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from nasflow.compression.gradients import Gradients
from nasflow.compression.groups import CONVOLUTION, Group, Member, PruneError

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

    Liu et al., 2017 (Network Slimming, arXiv:1708.06519), for networks trained with a penalty on the scales: see
    sparse.py.
    """
    scaled = [m for m in group.members if isinstance(m.module, BATCH_NORM) and m.module.affine]
    return _total(group, scaled, lambda weights: weights.abs().sum(1)) / len(scaled) if scaled else l1(group)


def fpgm(group: Group) -> torch.Tensor:
    """Sum of the distances from the weights that make the channel to those that make each other one, in the layer
    that makes it first: what lies in the middle of the others can be replaced by them.

    He et al., 2019 (FPGM, arXiv:1811.00250), equation 6. Torch-Pruning squares the weights first, which they do not.
    """
    return _total(group, group.members[:1], lambda weights: torch.cdist(weights, weights).sum(1))


def group_magnitude(group: Group) -> torch.Tensor:
    """Sum of the squared weights of the channel over all layers that make it, hand it through or read it.

    Fang et al., 2023 (DepGraph, arXiv:2301.12900). They divide by the number of layers and by the mean of the
    group, which does not change the order within a group; their code leaves out depthwise layers, the paper and
    this do not.
    """
    return _total(group, group.members, lambda weights: weights.square().sum(1))


def lamp(group: Group) -> torch.Tensor:
    """`group_magnitude` over that of all channels of the group that have no less: 1 for the largest of each group,
    so that no group is ever emptied before another.

    Lee et al., 2021 (LAMP, arXiv:2010.07611), who score single weights of a layer so; the order within a group is
    that of `group_magnitude`.
    """
    squares = group_magnitude(group)
    order = squares.argsort(stable=True)
    ascending = squares[order]
    left = ascending.flip(0).cumsum(0).flip(0)
    scores = torch.zeros_like(squares)
    scores[order] = ascending / left.clamp_min(torch.finfo(left.dtype).tiny)
    return scores


def taylor(batches: Sequence[Gradients], *, multivariable: bool = False) -> Criterion:
    """By how much the loss would change, to first order, without the weights that make the channel, in the layer
    that makes it first: |weight x gradient|, added up; with `multivariable` the absolute value of the sum. The mean
    over the `batches`, from gradients.gather.

    Molchanov et al., 2017 (arXiv:1611.06440) and 2019 (arXiv:1906.10771).
    """

    def change(weights: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        product = weights * gradients
        return product.sum(1).abs() if multivariable else product.abs().sum(1)

    def scored(group: Group) -> torch.Tensor:
        return _mean([_beside(group, group.members[:1], gradients, change) for gradients in batches])

    return scored


def group_taylor(batches: Sequence[Gradients]) -> Criterion:
    """The square of what the loss would change by, to first order, without any weight or bias of the channel in all
    layers that make it, hand it through or read it. The mean over the `batches`, from gradients.gather.

    Molchanov et al., 2019 (arXiv:1906.10771), equation 8, with the group of Fang et al., 2023 (arXiv:2301.12900) as
    the set of weights that go together.
    """

    def change(weights: torch.Tensor, gradients: torch.Tensor) -> torch.Tensor:
        return (weights * gradients).sum(1)

    def scored(group: Group) -> torch.Tensor:
        return _mean(
            [_beside(group, group.members, gradients, change, biases=True).square() for gradients in batches]
        )

    return scored


def hessian(curvature: Gradients) -> Criterion:
    """Half the curvature of the loss times the squared weight, over all weights of the channel in all layers that
    make it, hand it through or read it: what the loss rises by without them where its gradient is zero.

    Optimal brain damage (LeCun et al., 1989). `curvature`: the diagonal of the Hessian, from gradients.hutchinson,
    or its usual stand-in from gradients.fisher.
    """

    def rise(weights: torch.Tensor, curvatures: torch.Tensor) -> torch.Tensor:
        return 0.5 * (weights.square() * curvatures).sum(1)

    def scored(group: Group) -> torch.Tensor:
        return _beside(group, group.members, curvature, rise)

    return scored


def random(seed: int) -> Criterion:
    """The criterion that knows nothing: what every other one has to beat."""

    def drawn(group: Group) -> torch.Tensor:
        rng = np.random.default_rng([seed, zlib.crc32(group.name.encode())])
        return torch.from_numpy(rng.random(group.channels))

    return drawn


def relative(criterion: Criterion) -> Criterion:
    """The scores of `criterion` over the mean of their absolute values in the group: comparable across groups whose
    layers have more or larger weights than others. As Torch-Pruning does unless told otherwise."""

    def scored(group: Group) -> torch.Tensor:
        scores = criterion(group)
        return scores / scores.abs().mean().clamp_min(torch.finfo(scores.dtype).tiny)

    return scored


# ---- weights by channel


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


def _beside(
    group: Group,
    members: Sequence[Member],
    known: Gradients,
    score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    biases: bool = False,
) -> torch.Tensor:
    """The same of weights and of what is `known` of each, with `biases` also of the biases that make the channel."""
    scores = torch.zeros(group.channels, dtype=torch.float64)
    for member in members:
        weights = filters(member)
        if weights is not None:
            values = filters(member, _of(known, f"{member.layer}.weight", weights))
            assert values is not None
            scores.index_add_(0, member.root, score(_plain(weights), _plain(values)))
        bias = getattr(member.module, "bias", None)
        if biases and member.side == "out" and isinstance(bias, torch.Tensor) and weights is not None:
            values = _of(known, f"{member.layer}.bias", bias)
            pair = (_plain(kept[member.index].unsqueeze(1)) for kept in (bias, values))
            scores.index_add_(0, member.root, score(*pair))
    return scores


def _of(known: Gradients, name: str, weights: torch.Tensor) -> torch.Tensor:
    if name not in known:
        raise PruneError(f"{name}: no gradient of it; gather the gradients of the network that is pruned")
    return known[name]


def _plain(values: torch.Tensor) -> torch.Tensor:
    return values.detach().double().cpu()


def _mean(scores: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(scores)).mean(0)


def filters(member: Member, values: torch.Tensor | None = None) -> torch.Tensor | None:
    """The member's weights by position, (len(member.index), weights per position); None where it has none that
    belong to single channels. With `values`, one for each weight, those in the weights' place."""
    own = getattr(member.module, "weight", None)
    if not isinstance(own, torch.Tensor):
        return None
    weight = own if values is None else values
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
