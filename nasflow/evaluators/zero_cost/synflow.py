"""SynFlow: how much the paths through a network carry, whatever the data.

Tanaka, Kunin, Yamins and Ganguli, "Pruning neural networks without any data by iteratively conserving synaptic flow",
NeurIPS 2020 (arXiv:2006.05467); as a score of architectures: Abdelfattah et al., "Zero-Cost Proxies for Lightweight
NAS", ICLR 2021 (arXiv:2101.08134).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from nasflow.evaluators.zero_cost.scratch import WORST, gradients, scratch, weights


def synflow(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """The natural logarithm of the sum of all saliencies |w * dR/dw| of convolutions and linear layers.

    The papers score by the sum itself, which ranks alike but leaves the range of smaller floats. -inf if nothing
    gets through. Of `images`, only the shape is used.
    """
    with scratch(model, seed) as network:
        total = sum(float(values.sum()) for values in saliencies(network, images.shape[1:]))
    return math.log(total) if total > 0 else WORST


def saliencies(network: nn.Module, shape: Sequence[int]) -> list[Tensor]:
    """|w * dR/dw| of each layer's weights, where R is the sum of the answer to an input of ones with every weight
    made positive. Changes `network`: its normalisation is taken out, as in the second paper, because it would undo
    the scale of the weights; it counts in double precision.
    """
    network = _without_normalisation(network).double().eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    total = network(torch.ones(1, *shape, dtype=torch.float64)).sum()
    kernels = weights(network)
    return [(w * slope).detach().abs() for w, slope in zip(kernels, gradients(total, kernels), strict=True)]


def _without_normalisation(module: nn.Module) -> nn.Module:
    if isinstance(module, _NormBase):  # batch and instance normalisation
        return nn.Identity()
    for name, child in module.named_children():
        setattr(module, name, _without_normalisation(child))
    return module
