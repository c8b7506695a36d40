"""What training images say about each weight: gradients of the loss and its curvature, for criteria that ask them.

The network is in evaluation mode and left as it was, its own gradients included; images come without augmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from nasflow.compression.groups import PruneError, ready
from nasflow.data import Data

Gradients = Mapping[str, Tensor]
"""Name of a parameter -> one number for each of its weights."""

Loss = Callable[[Tensor, Tensor], Tensor]
"""Answers of the network (batch, classes) and labels (batch,) -> their mean loss."""


def gather(
    model: nn.Module,
    data: Data,
    *,
    images: int = 512,
    batch: int = 64,
    seed: int = 0,
    loss: Loss = functional.cross_entropy,
) -> tuple[Gradients, ...]:
    """The gradient of the mean loss of each of some batches of training images.

    Several, because at the end of a training the gradients of all images together are nearly zero. So many images
    as there are of each class are drawn; all gradients are kept, four bytes for each weight and batch.
    """
    with ready(model):
        return tuple(_gradients(model, x, y, loss) for x, y in _batches(model, data, images, batch, seed))


def fisher(
    model: nn.Module,
    data: Data,
    *,
    images: int = 256,
    seed: int = 0,
    loss: Loss = functional.cross_entropy,
) -> Gradients:
    """The mean square of single images' gradients: the diagonal of the empirical Fisher information, which stands in
    for the Hessian's and is never negative."""
    total: dict[str, Tensor] = {}
    with ready(model):
        for x, y in _batches(model, data, images, 1, seed):
            for name, gradient in _gradients(model, x, y, loss).items():
                total[name] = total.get(name, torch.zeros_like(gradient)) + gradient.square()
    return {name: squares / min(images, len(data.train)) for name, squares in total.items()}


def hutchinson(
    model: nn.Module,
    data: Data,
    *,
    images: int = 256,
    batch: int = 64,
    probes: int = 8,
    seed: int = 0,
    loss: Loss = functional.cross_entropy,
) -> Gradients:
    """The diagonal of the Hessian of the loss, estimated: the mean of z x (Hessian z) over random vectors z of ones
    and minus ones (Bekas et al., 2007). Exact where no weight's gradient depends on another weight."""
    generator = torch.Generator().manual_seed(seed)
    count = 0
    # The fast kernels of attention cannot be derived twice.
    with ready(model), sdpa_kernel(SDPBackend.MATH):
        parameters = dict(model.named_parameters())
        total = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
        for x, y in _batches(model, data, images, batch, seed):
            gradients = _derived(loss(model(x), y), list(parameters.values()), keep=True)
            for _ in range(probes):
                signs = [
                    torch.randint(0, 2, p.shape, generator=generator).to(p) * 2 - 1
                    for p in parameters.values()
                ]
                along = sum((g * z).sum() for g, z in zip(gradients, signs, strict=True))
                assert isinstance(along, Tensor)
                turned = _derived(along, list(parameters.values()), retain=True)
                for name, z, curved in zip(parameters, signs, turned, strict=True):
                    total[name] += z * curved.detach() * len(y)
            count += len(y)
    return {name: values.detach() / (count * probes) for name, values in total.items()}


def _batches(
    model: nn.Module, data: Data, images: int, batch: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Training images, a random choice, and their labels, where the network is."""
    if images < 1 or batch < 1:
        raise PruneError(f"expected at least one image in batches of at least one, got {images} and {batch}")
    first = next(model.parameters(), None)
    if first is None:
        raise PruneError(f"expected a network with parameters, {type(model).__name__} has none")
    chosen = np.random.default_rng(seed).permutation(len(data.train))[:images]
    for start in range(0, len(chosen), batch):
        picked = chosen[start : start + batch]
        x = torch.from_numpy(data.preprocess(data.train.x[picked])).to(first)
        yield x, torch.from_numpy(data.train.y[picked]).to(first.device)


def _gradients(model: nn.Module, x: Tensor, y: Tensor, loss: Loss) -> dict[str, Tensor]:
    parameters = dict(model.named_parameters())
    derived = _derived(loss(model(x), y), list(parameters.values()))
    return dict(zip(parameters, derived, strict=True))


def _derived(
    value: Tensor, by: Sequence[Tensor], *, keep: bool = False, retain: bool = False
) -> tuple[Tensor, ...]:
    """Derivatives, zero for what has no say; `keep` makes them such that they can be derived again."""
    return torch.autograd.grad(
        value, by, create_graph=keep, retain_graph=keep or retain, allow_unused=True, materialize_grads=True
    )
