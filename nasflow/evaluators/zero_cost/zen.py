"""The Zen-score: how strongly a network of random weights reacts to a small change of a random image.

Lin et al., "Zen-NAS: A Zero-Shot NAS for High-Performance Image Recognition", ICCV 2021 (arXiv:2102.01063).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nasflow.errors import NasflowError
from nasflow.evaluators.zero_cost.scratch import WORST, has_say, scratch, watched

CHANGE = 0.01  # alpha of the paper
IMAGES = 16
DRAWS = 8  # of weights and images, averaged


def zen(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """log(mean |f(x) - f(x + 0.01 e)|) + sum over batch normalisations of log(sqrt(mean variance)).

    f is the last map of features before it is pooled; |.| sums over it; x and e are normal. Weights are drawn anew
    from a normal distribution, biases are zero. The second term gives back the scale that batch normalisation takes
    away; normalisations that nothing reaches or that have no say in f are left out. -inf if f does not depend on x.
    The paper takes shortcuts out of residual blocks; here they stay, since a network does not say which they are.
    Of `images`, only shape and type are used.
    """
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        raise NasflowError(
            "zen: expected a network with 2D convolutions, whose maps of features it compares; got none"
        )
    with scratch(model, seed) as network:
        return sum(_once(network, images[:1]) for _ in range(DRAWS)) / DRAWS


def _once(network: nn.Module, like: Tensor) -> float:
    _draw(network)
    x = torch.randn(IMAGES, *like.shape[1:], dtype=like.dtype)
    features, normalised = _features(network, watched(x))
    with torch.no_grad():
        changed, _ = _features(network, x + CHANGE * torch.randn_like(x))
    difference = float((features - changed).detach().flatten(1).abs().sum(1).mean())
    if not difference:
        return WORST
    says = has_say([result for _, result in normalised], features)
    scales = [scale for (scale, _), say in zip(normalised, says, strict=True) if say and scale]
    return math.log(difference) + sum(math.log(scale) for scale in scales)


def _draw(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight)
        elif isinstance(module, (_BatchNorm, nn.GroupNorm)) and module.affine:
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _features(network: nn.Module, x: Tensor) -> tuple[Tensor, list[tuple[float, Tensor]]]:
    """The last map with more than one pixel that enters or leaves a layer, and of each batch normalisation the
    root of the mean variance of what enters it with what leaves it."""
    last = x
    normalised: list[tuple[float, Tensor]] = []

    def note(module: nn.Module, given: tuple[Any, ...], result: Any) -> None:
        nonlocal last
        for value in (*given, result):
            if isinstance(value, Tensor) and value.ndim == 4 and value[0, 0].numel() > 1:
                last = value
        if isinstance(module, _BatchNorm):
            variance = given[0].detach().transpose(0, 1).flatten(1).var(1, correction=0).mean()
            normalised.append((math.sqrt(float(variance)), result))

    leaves = [module for module in network.modules() if not list(module.children())]
    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    network(x)
    for hook in hooks:
        hook.remove()
    return last, normalised
