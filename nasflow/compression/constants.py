"""What a channel that never changes leaves behind when it goes: its readers get it as a bias.

A channel whose normalisation has a scale of zero looks superfluous, and yet it gives its shift to every layer that
reads it. The same is true of weights that are all zero beside a bias.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nasflow.compression.groups import CONVOLUTION, Removed, Traced, deafen, output, readers

BATCH_NORM = nn.modules.batchnorm._BatchNorm


def fold(traced: Traced, shape: Sequence[int], removed: Removed) -> None:
    """Add to the layers that read them, in place, what the channels to be removed always give.

    Where a layer has no bias, the batch normalisation right behind it gets it in its mean; where there is none either,
    it is lost. Exact but for the borders of padded images, where a constant is no constant: there the mean over all
    positions is taken. Constant is what does not differ between two random images. Layers that run several times are
    left alone.
    """
    hears = readers(traced, removed)
    runs = _watched(traced.model, shape, list(hears))
    with torch.no_grad():
        for module, channels in hears.items():
            run = runs[module]
            if run.times != 1:
                continue
            constant = _constant(module, run.given, channels)
            if len(constant):
                _tell(module, run, _left(module, run.given, constant))


@dataclass
class _Run:
    """What a layer was given and which normalisation took what it made."""

    given: Tensor = field(default_factory=lambda: torch.zeros(0))
    made: Tensor | None = None
    norm: nn.Module | None = None
    times: int = 0


def _watched(model: nn.Module, shape: Sequence[int], layers: Sequence[nn.Module]) -> dict[nn.Module, _Run]:
    runs = {layer: _Run() for layer in layers}

    def note(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        run = runs[module]
        run.given, run.made, run.times = given[0], made, run.times + 1

    def behind(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        for run in runs.values():
            if run.made is given[0]:
                run.norm = module

    hooks = [layer.register_forward_hook(note) for layer in layers]
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORM)]
    hooks += [norm.register_forward_pre_hook(behind) for norm in norms]
    try:
        output(model, shape)
    finally:
        for hook in hooks:
            hook.remove()
    return runs


def _constant(module: nn.Module, given: Tensor, channels: Tensor) -> Tensor:
    """Those of the `channels` of a layer's input that are the same for all images, and not nothing."""
    side = 1 if isinstance(module, CONVOLUTION) else given.dim() - 1
    values = given.movedim(side, 0).flatten(2) if given.dim() > 2 else given.movedim(side, 0).unsqueeze(2)
    values = values[channels.to(given.device)]
    same = (values == values[:, :1]).all(2).all(1) & (values != 0).any(2).any(1)
    return channels[same.cpu()]


def _left(module: nn.Module, given: Tensor, constant: Tensor) -> Tensor:
    """What the constant channels alone make of the layer's outputs, (outputs,), the mean over positions."""
    alone = copy.deepcopy(module)
    side = 1 if isinstance(module, CONVOLUTION) else given.dim() - 1
    others = torch.ones(given.shape[side], dtype=torch.bool)
    others[constant] = False
    deafen(alone, others.nonzero().flatten())
    if isinstance(alone.bias, Tensor):
        alone.bias.zero_()
    made: Tensor = alone(given)
    return made.movedim(side, 0).flatten(1).mean(1)


def _tell(module: nn.Module, run: _Run, left: Tensor) -> None:
    if isinstance(module.bias, Tensor):
        module.bias += left
    elif run.norm is not None and isinstance(run.norm.running_mean, Tensor):
        run.norm.running_mean -= left
