"""NASWOT: how differently an untrained network's activations respond to different images.

Mellor, Turner, Storkey and Crowley, "Neural Architecture Search without Training", ICML 2021
(arXiv:2006.04647v3). Version 1 of the paper scores something else, see jacov.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nasflow.errors import NasflowError
from nasflow.evaluators.zero_cost.scratch import WORST, has_say, scratch, watched

# The paper has ReLUs only. The others bend at (or near) zero too, so the sign of what enters them is taken alike.
ACTIVATIONS = (
    nn.ReLU, nn.ReLU6, nn.Hardswish, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.PReLU, nn.ELU,
)  # fmt: skip


def naswot(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """log |det K|, where K[i, j] counts the activation units at which images i and j are on the same side of zero.

    Only units count that the images reach and that have a say in the answer. Batch normalisation uses the batch's
    own statistics, as in the authors' code. Two images with equal codes make K singular: the score is then -inf.
    It grows with the number of units and of images: compare within one space, on one batch.
    """
    with scratch(model, seed) as network:
        found = codes(network, images)
        return log_determinant(agreement(found)) if found else WORST


def codes(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Of each activation layer that counts: (images, units), true where what enters it is above zero."""
    entering: list[Tensor] = []
    leaving: list[Tensor] = []

    def before(module: nn.Module, given: tuple[Any, ...]) -> None:
        entering.append(
            given[0].detach().flatten(1).clone()
        )  # an in-place activation is about to overwrite it

    def after(module: nn.Module, given: tuple[Any, ...], result: Tensor) -> None:
        leaving.append(result)

    activations = [module for module in network.modules() if isinstance(module, ACTIVATIONS)]
    if not activations:
        names = ", ".join(kind.__name__ for kind in ACTIVATIONS)
        raise NasflowError(
            f"naswot: expected activations that are modules ({names}), got a network with none;"
            " write torch.nn.ReLU() as a layer instead of calling a function"
        )
    for module in activations:
        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
    says = has_say(leaving, network(watched(images)))
    return [
        value > 0
        for value, say in zip(entering, says, strict=True)
        if say and bool((value != value[:1]).any())  # a layer that no image reaches sees the same of each
    ]


def agreement(layers: Sequence[Tensor]) -> Tensor:
    """K, (images, images): at how many units the codes of two images are equal, over all layers.

    >>> agreement([torch.tensor([[True, False, True], [True, True, True]])])
    tensor([[3., 2.],
            [2., 3.]], dtype=torch.float64)
    """
    return torch.stack([_agreement(layer) for layer in layers]).sum(0)


def _agreement(layer: Tensor) -> Tensor:
    sides = (
        layer.float() * 2 - 1
    )  # the products count agreements less disagreements, exactly up to 2**24 units
    return (sides @ sides.T + layer.shape[1]).double() / 2


def log_determinant(k: Tensor) -> float:
    """log |det K|; -inf where K is singular, whatever rounding would make of that."""
    if torch.linalg.matrix_rank(k, hermitian=True) < len(k):
        return WORST
    return float(torch.linalg.slogdet(k).logabsdet)
