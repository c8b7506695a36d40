"""Which blocks a network can do without: fewer layers are what makes small networks faster."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import nn

from nasflow.compression.groups import BROKEN, CONVOLUTION, output


def removable(model: nn.Module, shape: Sequence[int]) -> tuple[str, ...]:
    """Paths of the blocks that can be left out, in the order of the network. `shape`: (channels, height, width).

    A block is a module of several that runs once, takes one tensor, gives one of the same shape and holds
    convolutions or linear layers. Left out are: of two with the same layers the inner one; a sequence whose
    layers all are in blocks of its own; a single layer that is depthwise or within another block; what the
    network's code does not run without.
    """
    layers = _keeping_shape(model, shape)
    blocks: list[str] = []
    for name, own in layers.items():  # outer ones come before inner ones
        around = [layers[other] for other in blocks if name.startswith(f"{other}.")]
        single = len(own) == 1 and (bool(around) or _depthwise(own))
        if own not in around and not single and not _only_blocks(model, name, layers):
            blocks.append(name)
    probe = copy.deepcopy(model)
    expected = output(probe, shape).shape

    def goes(name: str) -> bool:
        with absent(probe, name):
            return _gives(probe, shape, expected)

    return tuple(name for name in blocks if goes(name))


def without(model: nn.Module, blocks: Collection[str]) -> nn.Module:
    """A copy of `model` with identities in place of the blocks, so that all other layers keep their names."""
    reduced = copy.deepcopy(model)
    for name in blocks:
        if any(name.startswith(f"{outer}.") for outer in blocks):
            continue  # gone with the block around it
        was = reduced.get_submodule(name)
        reduced.set_submodule(name, nn.Identity().train(was.training))
    return reduced


@contextlib.contextmanager
def absent(model: nn.Module, block: str) -> Iterator[None]:
    """`model` itself with an identity in place of one block, as long as this lasts: for a look, without a copy."""
    was = model.get_submodule(block)
    model.set_submodule(block, nn.Identity().train(was.training))
    try:
        yield
    finally:
        model.set_submodule(block, was)


def fits(reduced: nn.Module, model: nn.Module, shape: Sequence[int]) -> bool:
    """Whether `reduced` runs and gives an output of the same shape as `model`; both are run."""
    return _gives(reduced, shape, output(model, shape).shape)


def _gives(model: nn.Module, shape: Sequence[int], expected: torch.Size) -> bool:
    try:
        return output(model, shape).shape == expected
    except BROKEN:
        return False


Layers = frozenset[nn.Module]


def _keeping_shape(model: nn.Module, shape: Sequence[int]) -> dict[str, Layers]:
    """Modules that run once and keep the shape of their one input, each with the layers in it."""
    calls: dict[nn.Module, list[bool]] = {}

    def note(module: nn.Module, given: tuple[object, ...], named: dict[str, object], made: object) -> None:
        keeps = (
            len(given) == 1
            and not named
            and isinstance(given[0], torch.Tensor)
            and isinstance(made, torch.Tensor)
            and given[0].shape == made.shape
        )
        calls.setdefault(module, []).append(keeps)

    inner = {name: module for name, module in model.named_modules() if name and any(module.children())}
    hooks = [module.register_forward_hook(note, with_kwargs=True) for module in inner.values()]
    try:
        output(model, shape)
    finally:
        for hook in hooks:
            hook.remove()
    layers = {
        name: frozenset(layer for layer in module.modules() if isinstance(layer, (CONVOLUTION, nn.Linear)))
        for name, module in inner.items()
        if calls.get(module) == [True]
    }
    return {name: own for name, own in layers.items() if own}


def _depthwise(layers: Layers) -> bool:
    return all(isinstance(layer, CONVOLUTION) and layer.groups > 1 for layer in layers)


def _only_blocks(model: nn.Module, name: str, layers: Mapping[str, Layers]) -> bool:
    """Whether `name` is a sequence that is gone when the blocks within it are."""
    inside = [
        own
        for other, own in layers.items()
        if other.startswith(f"{name}.") and own != layers[name] and not (len(own) == 1 and _depthwise(own))
    ]
    return isinstance(model.get_submodule(name), nn.Sequential) and layers[name] == frozenset().union(*inside)
