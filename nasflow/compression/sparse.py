"""Training that makes channels superfluous before they are removed: penalties for training.train.

What is pulled down costs little to remove. Adaptive optimizers divide by the size of gradients and so weaken a pull
beside a strong one; SGD, which both papers use, does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nasflow.compression.criteria import BATCH_NORM, filters
from nasflow.compression.groups import Group, PruneError, trace


@dataclass(frozen=True)
class BatchNormScales:
    """`strength` times the sum of the absolute scales of all batch normalisations.

    Liu et al., 2017 (Network Slimming, arXiv:1708.06519), equation 1, with the absolute value as sparsity; goes with
    criteria.bn_scale.
    """

    strength: float = 1e-4

    def __post_init__(self) -> None:
        _check(self.strength)

    def __call__(self, model: nn.Module) -> Tensor:
        scales = [m.weight for m in model.modules() if isinstance(m, BATCH_NORM) and m.affine]
        if not scales:
            raise PruneError("expected a network with batch normalisations, whose scales are to be penalised")
        return self.strength * torch.stack([scale.abs().sum() for scale in scales]).sum()


def bn_scales(model: nn.Module, shape: Sequence[int], *, strength: float = 1e-4) -> BatchNormScales:
    """The penalty on the scales of `model`, which has to have batch normalisations; its inputs may have any `shape`."""
    penalty = BatchNormScales(strength)
    penalty(model)
    return penalty


@dataclass(frozen=True, eq=False)
class GroupNorms:
    """`strength` times the squared weights of every channel, over all layers of its group, each channel by its
    own factor: 2 ** (alpha x (largest - own) / (largest - smallest importance)). So the most important channel of a
    group is pulled least, the least important 2 ** `alpha` times as much.

    Fang et al., 2023 (DepGraph, arXiv:2301.12900), section 3.3; importance is the Euclidean length of the channel's
    weights, as in their code, and no gradient flows through it. Made by `group_norms` for one architecture.
    """

    groups: tuple[Group, ...] = field(repr=False)
    strength: float = 1e-4
    alpha: float = 4.0

    def __post_init__(self) -> None:
        _check(self.strength)

    def __call__(self, model: nn.Module) -> Tensor:
        total = torch.zeros((), device=next(model.parameters()).device)
        for group in self.groups:
            squares = _squares(group.inside(model))
            total = total + (self.factors(squares.detach().sqrt()) * squares).sum()
        return self.strength * total

    def factors(self, importance: Tensor) -> Tensor:
        """How strongly each channel of a group is pulled, from their importance, (channels,) both."""
        most, least = importance.max(), importance.min()
        if most == least:
            return torch.ones_like(importance)
        return torch.exp2(self.alpha * (most - importance) / (most - least))


def group_norms(
    model: nn.Module, shape: Sequence[int], *, strength: float = 1e-4, alpha: float = 4.0
) -> GroupNorms:
    """The penalty for the groups of `model` for inputs of `shape` (channels, height, width)."""
    groups = trace(model, shape).groups
    if not groups:
        raise PruneError("expected a network with groups of channels that can leave together, and found none")
    return GroupNorms(groups, strength, alpha)


def _squares(group: Group) -> Tensor:
    """Of each channel, the sum of its squared weights in all layers of the group, with gradients."""

    def parts() -> Iterator[Tensor]:
        for member in group.members:
            weights = filters(member)
            if weights is not None:
                squares = weights.square().sum(1)
                root = member.root.to(squares.device)
                yield squares.new_zeros(group.channels).index_add(0, root, squares)

    return torch.stack(list(parts())).sum(0)


def _check(strength: float) -> None:
    if not 0 <= strength < float("inf"):
        raise PruneError(f"expected the strength of a penalty to be 0 or more, got {strength}")
