"""What the scores share: a copy of the network to do anything to, and what in it has a say in the answer."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasflow.errors import NasflowError
from nasflow.training import seeded

WORST = float("-inf")  # of a network that a score cannot tell anything good about


@contextmanager
def scratch(model: nn.Module, seed: int) -> Iterator[nn.Module]:
    """A copy of `model` in training mode, whose every weight asks for its gradient.

    Within, torch's global generator starts from `seed`; the model itself and the generator are left alone.
    """
    network = copy.deepcopy(model).train().requires_grad_(True)
    with seeded(seed), torch.enable_grad():
        yield network


def layers(network: nn.Module) -> list[nn.Module]:
    """Convolutions and linear layers: what the pruning scores look at. Biases and normalisation are not asked."""
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    found: list[nn.Module] = [module for module in network.modules() if isinstance(module, kinds)]
    if not found:
        raise NasflowError(
            "expected a network with convolutions or linear layers, got one with neither; its score says nothing"
        )
    return found


def weights(network: nn.Module) -> list[Tensor]:
    """The weights of these layers; one that is shared comes once."""
    found = {id(weight): weight for layer in layers(network) if isinstance(weight := layer.weight, Tensor)}
    return list(found.values())


def gradients(value: Tensor, of: Sequence[Tensor], *, again: bool = False) -> Sequence[Tensor]:
    """The gradient of a scalar `value` for each tensor, zero for those without a say in it.

    `again`: gradients can themselves be differentiated.
    """
    return torch.autograd.grad(value, of, create_graph=again, retain_graph=True, materialize_grads=True)


def loss(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of the network's answers."""
    return functional.cross_entropy(network(images), labels)


def watched(images: Tensor) -> Tensor:
    """The same images, such that gradients reach everything that is computed from them."""
    return images * torch.ones((), requires_grad=True)


def has_say(tensors: Sequence[Tensor], answer: Tensor) -> list[bool]:
    """Whether each of `tensors` has a say in `answer`, which a network computed from `watched` images.

    Judged by the gradient of a random mixture of the answer's numbers: that of their plain sum can be zero by
    chance of design, as behind a batch normalisation.
    """
    if not tensors:
        return []
    mixture = (answer * torch.randn_like(answer)).sum()
    return [bool(gradient.any()) for gradient in gradients(mixture, tensors)]
