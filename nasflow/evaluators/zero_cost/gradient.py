"""Scores from the gradient of one batch's loss, first made for pruning at initialisation and summed over a network
to rank architectures by Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021 (arXiv:2101.08134).

All but `fisher` look at the weights of convolutions and linear layers and at the mean cross-entropy of the batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from nasflow.evaluators.zero_cost.scratch import gradients, layers, loss, scratch, weights


def grad_norm(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """The sum over the layers of the Euclidean norm of the loss's gradient for the layer's weights."""
    with scratch(model, seed) as network:
        slopes = gradients(loss(network, images, labels), weights(network))
        return float(sum(slope.norm() for slope in slopes))


def snip(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """The sum of |w * dL/dw|: how much the loss feels the removal of each connection.

    Lee, Ajanthan and Torr, "SNIP", ICLR 2019 (arXiv:1810.02340), who divide by this sum to rank connections.
    """
    with scratch(model, seed) as network:
        kernels = weights(network)
        slopes = gradients(loss(network, images, labels), kernels)
        return float(sum((w.detach() * slope).abs().sum() for w, slope in zip(kernels, slopes, strict=True)))


def grasp(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """The sum of -w * Hg, with the gradient g of the loss and its Hessian H: by how much removing the connections
    raises the flow of gradients, to first order and up to a factor of two.

    Wang, Zhang and Grosse, "Picking Winning Tickets Before Training by Preserving Gradient Flow", ICLR 2020
    (arXiv:2002.07376), who soften the answers by a temperature; that is 1 here, as in the paper on architectures,
    from which the sign is taken too.
    """
    with scratch(model, seed) as network, _TwiceDifferentiable():
        kernels = weights(network)
        slopes = gradients(loss(network, images, labels), kernels, again=True)
        product = sum(((g * g.detach()).sum() for g in slopes), torch.zeros(()))
        curved = gradients(product, kernels)  # Hg
        return -float(sum((w.detach() * hg).sum() for w, hg in zip(kernels, curved, strict=True)))


class _TwiceDifferentiable(TorchFunctionMode):
    """Writes the hard sigmoid in steps that torch can differentiate twice, which it cannot with the whole."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is functional.hardsigmoid:
            return functional.relu6(args[0] + 3) / 6
        return function(*args, **(kwargs or {}))


def fisher(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """The sum over the channels of all layers' results a of mean((sum over the image of a * dL/da)**2) / 2, where the
    mean is over images and L is the loss of the image: by how much the loss would rise without the channel.

    Theis, Korshunova, Tejani and Huszar, "Faster gaze prediction with dense networks and Fisher pruning", 2018
    (arXiv:1801.05787); over whole networks: Turner et al., "BlockSwap", ICLR 2020 (arXiv:1906.04113).
    """
    results: list[Tensor] = []
    axes: list[int] = []  # where the channels of each are

    def keep(layer: nn.Module, given: tuple[Any, ...], result: Tensor) -> Tensor:
        results.append(result)
        axes.append(-1 if isinstance(layer, nn.Linear) else 1)
        return result.clone()  # what follows may overwrite it

    with scratch(model, seed) as network:
        for layer in layers(network):
            layer.register_forward_hook(keep)
        total = functional.cross_entropy(network(images), labels, reduction="sum")
        slopes = gradients(total, results)
    parts = zip(results, slopes, axes, strict=True)
    return float(sum(_fisher((result.detach() * slope).movedim(axis, -1)) for result, slope, axis in parts))


def _fisher(products: Tensor) -> Tensor:
    """For a * dL/da, (images, ..., channels)."""
    of_channels = products.flatten(1, -2).sum(1) if products.ndim > 2 else products
    return of_channels.square().mean(0).sum() / 2
