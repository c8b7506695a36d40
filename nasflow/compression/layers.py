"""The layers of a network as plain numbers: what each costs, and what it will cost when channels are gone.

Searches over channels or bits ask thousands of times what a policy costs. Here a network is run once, and the cost of
every policy is arithmetic from then on, exact to the last multiply-add.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from nasflow.compression.groups import CONVOLUTION, PruneError, Traced, output, trace
from nasflow.compression.prune import CHANNELS
from nasflow.names import nearest
from nasflow.space import Scalar

BATCH = 2  # of groups.example

Kind = Literal["conv", "depthwise", "linear"]
Kept = Mapping[str, int]
"""Channels left of groups by their names; groups that are not named stay whole."""


@dataclass(frozen=True)
class Share:
    """So many (`count`) of a layer's inputs, of its outputs, or of the numbers beside its weights belong to the
    channels of one group, which has `of`."""

    group: str
    side: Literal["in", "out", "beside"]
    count: int
    of: int


@dataclass(frozen=True)
class Layer:
    """A convolution or linear layer that ran.

    `kernel`, `given` and `height` x `width` are (height, width) of its kernel, its input and its output; a linear
    layer has a kernel, an input and an output of 1 x 1, or as many rows as there are tokens. `positions` is how often
    its kernel is applied, over all of its runs. `slices` is what torch calls groups. `beside` counts the numbers
    that normalisations and the like hold that run after it and before the next.
    """

    name: str
    kind: Kind
    inputs: int
    outputs: int
    kernel: tuple[int, int]
    stride: int
    slices: int
    height: int
    width: int
    given: tuple[int, int]
    positions: int
    bias: bool
    beside: int
    shares: tuple[Share, ...]

    @property
    def weights(self) -> int:
        """How many weights its kernel has."""
        return self.outputs * self.inputs // self.slices * math.prod(self.kernel)

    @property
    def parameters(self) -> int:
        """Its weights and biases."""
        return self.weights + self.bias * self.outputs

    @property
    def macs(self) -> int:
        """Multiply-adds for one input of the network."""
        return self.positions * self.weights

    @property
    def reads(self) -> str | None:
        """The group that makes its inputs, most of them if there are several; None where nothing can leave."""
        return self._most("in")

    @property
    def makes(self) -> str | None:
        """The group that its outputs belong to, most of them if there are several; None where nothing can leave."""
        return self._most("out")

    def pruned(self, kept: Kept) -> Layer:
        """The layer as it is when so many channels are left."""
        if not any(share.group in kept for share in self.shares):
            return self
        inputs, outputs, beside = (
            whole - self._gone(side, kept)
            for whole, side in ((self.inputs, "in"), (self.outputs, "out"), (self.beside, "beside"))
        )
        shares = tuple(
            replace(share, count=_left(share, kept), of=kept.get(share.group, share.of))
            for share in self.shares
        )
        slices = outputs if self.kind == "depthwise" else self.slices
        return replace(self, inputs=inputs, outputs=outputs, slices=slices, beside=beside, shares=shares)

    def _gone(self, side: str, kept: Kept) -> int:
        return sum(share.count - _left(share, kept) for share in self.shares if share.side == side)

    def _most(self, side: str) -> str | None:
        found = [share for share in self.shares if share.side == side]
        return max(found, key=lambda share: share.count).group if found else None


def layers(model: nn.Module, shape: Sequence[int]) -> tuple[Layer, ...]:
    """The convolutions and linear layers that run for inputs of `shape` (channels, height, width), in the order of
    their first run, with the groups of groups.trace. The model is run and left as it was.

    >>> net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 10))
    >>> first, last = layers(net, (3, 8, 8))
    >>> first.macs, first.makes, last.reads, last.pruned({"0": 8}).inputs
    (15552, '0', '0', 288)
    """
    traced = trace(model, shape)
    shares = _shares(traced)
    found: list[Layer] = []
    early: list[nn.Module] = []  # normalisations before the first layer
    placed: set[nn.Parameter] = set()
    names = {module: name for name, module in model.named_modules()}
    for module, runs in _runs(model, shape).items():
        own = shares.get(names[module], ())
        if isinstance(module, (CONVOLUTION, nn.Linear)):
            found.append(_layer(names[module], module, runs, own))
        elif own and found:
            found[-1] = _beside(found[-1], _numbers(module), own)
        elif own:
            early.append(module)
            continue
        else:
            continue
        placed |= set(module.parameters(recurse=False))
    if not found:
        raise PruneError("expected a network with convolutions or linear layers, and none ran")
    for module in early:
        found[0] = _beside(found[0], _numbers(module), shares[names[module]])
        placed |= set(module.parameters(recurse=False))
    for name, parameter in model.named_parameters():
        if parameter not in placed:
            found[0] = _beside(found[0], parameter.numel(), shares.get(name, ()))
    return tuple(found)


def macs(found: Iterable[Layer], kept: Kept | None = None) -> int:
    """Multiply-adds of all layers for one input when so many channels are left; products of two results, as in
    attention, are no layer's and not in it."""
    return sum(layer.pruned(kept or {}).macs for layer in found)


def parameters(found: Iterable[Layer], kept: Kept | None = None) -> int:
    """Numbers that training sets, those of normalisations included, when so many channels are left."""
    left = [layer.pruned(kept or {}) for layer in found]
    return sum(layer.parameters + layer.beside for layer in left)


def channels(found: Iterable[Layer]) -> dict[str, int]:
    """The groups of these layers, each with all its channels, in the order in which they are made."""
    made = [share for layer in found for share in layer.shares if share.side == "out"]
    return {share.group: share.of for share in made}


def kept(found: Iterable[Layer], policy: Mapping[str, Scalar]) -> dict[str, int]:
    """How many channels a policy of prune.space leaves of each group that it names.

    Raises:
        PruneError: the policy names a group that there is not.
    """
    whole, left = channels(found), {}
    for name, share in policy.items():
        if not name.startswith(CHANNELS):
            continue
        group = name.removeprefix(CHANNELS)
        if group not in whole:
            raise PruneError(f"{name}: no group of channels of that name; {nearest(group, whole)}")
        left[group] = max(1, round(float(share or 0) * whole[group]))
    return left


# ---- reading a network


def _runs(model: nn.Module, shape: Sequence[int]) -> dict[nn.Module, list[tuple[torch.Size, torch.Size]]]:
    """Leaves of the network in the order of their first run, each with the shapes of what it was given and made."""
    ran: dict[nn.Module, list[tuple[torch.Size, torch.Size]]] = {}

    def note(module: nn.Module, given: tuple[object, ...], made: object) -> None:
        if given and isinstance(given[0], torch.Tensor) and isinstance(made, torch.Tensor):
            ran.setdefault(module, []).append((given[0].shape, made.shape))

    leaves = [module for module in model.modules() if not any(module.children())]
    hooks = [leaf.register_forward_hook(note) for leaf in leaves]
    try:
        output(model, shape)
    finally:
        for hook in hooks:
            hook.remove()
    return ran


def _layer(
    name: str, module: nn.Module, runs: Sequence[tuple[torch.Size, torch.Size]], shares: tuple[Share, ...]
) -> Layer:
    given, made = runs[0]
    if isinstance(module, nn.Linear):
        rows = given.numel() // given[-1] // given[0]
        positions = sum(given.numel() // given[-1] for given, _ in runs) // BATCH
        return Layer(
            name, "linear", module.in_features, module.out_features, (1, 1), 1, 1, rows, 1, (rows, 1), positions,
            module.bias is not None, 0, shares,
        )  # fmt: skip
    assert isinstance(module, CONVOLUTION)
    depthwise = module.groups == module.out_channels > 1
    if depthwise:  # it hands its inputs through: what leaves there leaves here
        each = module.in_channels // module.out_channels
        shares += tuple(replace(share, side="in", count=share.count * each) for share in shares)
    side = 0 if module.transposed else 1  # a transposed kernel is applied at each place of the input
    return Layer(
        name,
        "depthwise" if depthwise else "conv",
        module.in_channels,
        module.out_channels,
        _plane(module.kernel_size),
        max(module.stride),
        module.groups,
        *_plane(made[2:]),
        _plane(given[2:]),
        sum(run[side][2:].numel() * run[side][0] for run in runs) // BATCH,
        module.bias is not None,
        0,
        shares,
    )


def _plane(sizes: Sequence[int]) -> tuple[int, int]:
    """Sizes of one or three dimensions as a height and a width of the same product."""
    return math.prod(sizes[:-1]), sizes[-1]


def _shares(traced: Traced) -> dict[str, tuple[Share, ...]]:
    """Of each layer, normalisation or bare parameter: what belongs to which group."""
    shares: dict[str, list[Share]] = {}
    for group in traced.groups:
        for member in group.members:
            count = len(member.index)
            side: Literal["in", "out", "beside"] = member.side
            if not isinstance(member.module, (CONVOLUTION, nn.Linear)):
                side = "beside"
                size = traced.graph.get_pruner_of_module(member.module).get_out_channels(member.module)
                count = count * _numbers(member.module) // size if size else 0
            shares.setdefault(member.layer, []).append(Share(group.name, side, count, group.channels))
    return {name: tuple(found) for name, found in shares.items()}


def _numbers(module: nn.Module | nn.Parameter) -> int:
    own = [module] if isinstance(module, nn.Parameter) else module.parameters(recurse=False)
    return sum(parameter.numel() for parameter in own)


def _beside(layer: Layer, numbers: int, shares: tuple[Share, ...]) -> Layer:
    return replace(layer, beside=layer.beside + numbers, shares=layer.shares + shares)


def _left(share: Share, kept: Kept) -> int:
    return round(share.count * kept.get(share.group, share.of) / share.of)
