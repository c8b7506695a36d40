"""Which channels of a network must leave together: the groups that every pruning method stands on.

The channels of one layer cannot simply be removed: the layers that read them, the normalisation between, and
whatever is added to them lose the same ones. Fang et al., 2023 (DepGraph, arXiv:2301.12900) find these groups
by tracing; Torch-Pruning's DependencyGraph does it for us, this file turns its answer into plain values.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch_pruning
from torch import nn

from nasflow.errors import NasflowError

CONVOLUTION = nn.modules.conv._ConvNd

# What a network raises when its code does not fit its layers any more.
BROKEN = (RuntimeError, ValueError, IndexError, TypeError, AssertionError, AttributeError)


class PruneError(NasflowError):
    """A network that cannot be traced, or a policy that does not fit the network."""


@dataclass(frozen=True)
class Member:
    """A layer's part in a group: which of its outputs or inputs go when a channel goes.

    `index[i]` is a position among the layer's channels, `root[i]` the channel of the group that it belongs to.
    Layers that hand channels through (normalisation, depthwise convolutions) are on the side "out".
    """

    layer: str
    module: nn.Module | nn.Parameter
    side: Literal["out", "in"]
    index: torch.Tensor
    root: torch.Tensor


@dataclass(frozen=True)
class Group:
    """Channels that leave together, named by the layer that makes them first.

    `step`: only multiples of so many can leave, as many from each of `step` equal slices (grouped layers).
    """

    name: str
    channels: int
    step: int
    members: tuple[Member, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that make or hand through these channels."""
        return tuple(member.layer for member in self.members if member.side == "out")

    def inside(self, model: nn.Module) -> Group:
        """The same group with the layers of another copy of the network, which has the same module paths."""
        return replace(
            self, members=tuple(replace(m, module=_find(model, m.layer, m.module)) for m in self.members)
        )


@dataclass(frozen=True)
class Traced:
    """A network with its groups, in the order in which it makes their channels."""

    model: nn.Module
    groups: tuple[Group, ...]
    graph: Any


Removed = Mapping[str, torch.Tensor]
"""Which channels go: name of a group -> channel numbers."""


def trace(model: nn.Module, shape: Sequence[int]) -> Traced:
    """Find the groups of `model` for inputs of `shape` (channels, height, width).

    Groups that reach the input or the output of the network are left out. The model is run once, in evaluation
    mode, and left as it was. Where Torch-Pruning cannot follow it at all, it has no groups. What no layer of
    PyTorch's own makes (a bare parameter, say) is followed as far as
    Torch-Pruning can; `remove` checks whether that was far enough.
    """
    order: dict[nn.Module, None] = {}
    made: dict[nn.Module, torch.Tensor] = {}
    x = example(model, shape)
    # Torch-Pruning only knows channels that a layer makes: this one makes those of the input, unchanged.
    entry: nn.Module = nn.Identity()
    if len(shape) == 3:
        with torch.random.fork_rng(devices=[]):  # the first weights, drawn for nothing, cost no randomness
            entry = nn.Conv2d(shape[0], shape[0], 1, bias=False, dtype=x.dtype).to(x.device)
        nn.init.dirac_(entry.get_parameter("weight"))
    ends = [entry]

    def note(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, torch.Tensor):
            made[module] = output
        if isinstance(module, (CONVOLUTION, nn.Linear)):
            order[module] = None

    def run(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
        output = net(x)
        if not isinstance(output, torch.Tensor):
            raise PruneError(f"expected a network that returns one tensor, got {type(output).__name__}")
        ends.extend(module for module, tensor in made.items() if tensor is output)
        return output

    with ready(model):
        leaves = [module for module in model.modules() if not any(module.children())]
        hooks = [leaf.register_forward_hook(note) for leaf in leaves]
        graph = torch_pruning.DependencyGraph()
        try:
            graph.build_dependency(nn.Sequential(entry, model), x, forward_fn=run, verbose=False)
        except ZeroDivisionError:  # Torch-Pruning's own, over a reshape that it cannot follow
            return Traced(model, (), graph)
        except (RuntimeError, ValueError, TypeError) as error:
            raise PruneError(
                f"cannot run the network on an input of shape {tuple(shape)}: {error}"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()
        made.clear()
        names: dict[object, str] = {module: name for name, module in model.named_modules()}
        names |= {parameter: name for name, parameter in model.named_parameters()}
        return Traced(model, tuple(_groups(graph, list(order), set(ends), names)), graph)


def example(model: nn.Module, shape: Sequence[int]) -> torch.Tensor:
    """Two random images for `model`, (2, *shape), the same ones every time."""
    drawn = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    first = next(model.parameters(), torch.zeros(()))
    return drawn.to(first)


def output(model: nn.Module, shape: Sequence[int]) -> torch.Tensor:
    """What `model` gives for the `example` images in evaluation mode, without gradients."""
    with ready(model), torch.no_grad():
        given: torch.Tensor = model(example(model, shape))
        return given


def remove(traced: Traced, shape: Sequence[int], removed: Removed) -> None:
    """Take channels out of the traced network, in place: smaller weights, no masks. Check that the network then
    computes exactly what it did with every reader of those channels deaf to them.

    Groups that tracing understood only in part fail this check: shuffled channels, sizes written into the
    code. Both sides of the comparison do without the means of layers that normalise over channels, which
    change by design.

    Raises:
        PruneError: the check failed; the network is then of no use.
    """
    try:
        with _deafened(traced, removed), _unmixed(traced.model):
            before = output(traced.model, shape)
        with ready(traced.model):
            for name, channels in removed.items():
                root = traced.model.get_submodule(name)
                pruner = traced.graph.get_pruner_of_module(root)
                together = traced.graph.get_pruning_group(root, pruner.prune_out_channels, channels.tolist())
                together.prune(record_history=False)
        with _unmixed(traced.model):
            after = output(traced.model, shape)
    except BROKEN as error:
        raise PruneError(f"{_listed(removed)} cannot be pruned in this network: {error}") from error
    if after.shape != before.shape or not _agree(before, after):
        raise PruneError(
            f"{_listed(removed)} cannot be pruned in this network: it would no longer compute the same from "
            "what is left; choose among the groups that prune.space offers"
        )


def readers(traced: Traced, removed: Removed) -> dict[Any, torch.Tensor]:
    """The convolutions and linear layers that read channels which are to go, each with the places of these among its
    inputs."""
    found: dict[Any, list[torch.Tensor]] = {}
    for group in traced.groups:
        for member in group.members if group.name in removed else ():
            if member.side == "in" and isinstance(member.module, (CONVOLUTION, nn.Linear)):
                gone = member.index[torch.isin(member.root, removed[group.name])]
                found.setdefault(member.module, []).append(gone)
    return {module: torch.cat(gone) for module, gone in found.items()}


# ---- one group from Torch-Pruning's


def _groups(
    graph: Any, order: Sequence[nn.Module], ends: set[nn.Module], names: Mapping[object, str]
) -> Iterator[Group]:
    """A group for each layer in `order` whose channels no group before it covers."""
    covered: set[nn.Module] = set()
    for root in order:
        if root in covered or root not in graph.module2node or _depthwise(root):
            continue
        pruner = graph.get_pruner_of_module(root)
        channels = pruner.get_out_channels(root)
        items = graph.get_pruning_group(root, pruner.prune_out_channels, list(range(channels)))
        members = []
        prunable = True
        step = 1
        for i in range(len(items)):
            dependency, index = items[i]
            module, roots = dependency.target.module, items[i].root_idxs
            side: Literal["out", "in"] = (
                "out" if graph.is_out_channel_pruning_fn(dependency.handler) else "in"
            )
            if side == "out":
                covered.add(module)
            at_end = isinstance(module, torch_pruning.ops._OutputOp) or (side == "out" and module in ends)
            prunable &= not (at_end or None in roots or _sliced_transposed(module))
            layer = names.get(module)
            if layer is not None and prunable:  # the others are operations without weights
                step = math.lcm(step, _slices(module))
                members.append(Member(layer, module, side, torch.tensor(index), torch.tensor(roots)))
        if prunable and channels % step == 0:
            yield Group(names[root], channels, step, tuple(members))


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, CONVOLUTION) and module.groups == module.out_channels > 1


def _sliced_transposed(module: nn.Module | nn.Parameter) -> bool:
    """Grouped transposed convolutions, which Torch-Pruning would cut along the wrong side."""
    return (
        isinstance(module, CONVOLUTION) and module.transposed and module.groups > 1 and not _depthwise(module)
    )


def _slices(module: nn.Module | nn.Parameter) -> int:
    """Into how many equal slices the layer cuts its channels."""
    if isinstance(module, CONVOLUTION) and not _depthwise(module):
        return module.groups
    return module.num_groups if isinstance(module, nn.GroupNorm) else 1


def _find(model: nn.Module, layer: str, like: nn.Module | nn.Parameter) -> nn.Module | nn.Parameter:
    return model.get_parameter(layer) if isinstance(like, nn.Parameter) else model.get_submodule(layer)


# ---- the check


@contextlib.contextmanager
def _deafened(traced: Traced, removed: Removed) -> Iterator[None]:
    """The network with zero weights, for as long as this lasts, where layers read the removed channels."""
    hears = readers(traced, removed)
    weights = {module: module.weight.detach().clone() for module in hears}
    with torch.no_grad():
        for module, channels in hears.items():
            deafen(module, channels)
    try:
        yield
    finally:
        with torch.no_grad():
            for module, weight in weights.items():
                module.weight.copy_(weight)


def deafen(module: nn.Module, channels: torch.Tensor) -> None:
    """Set the weights to zero, in place, with which a convolution or linear layer reads these of its inputs."""
    if isinstance(module, nn.Linear):
        module.weight[:, channels] = 0
    elif isinstance(module, CONVOLUTION) and module.transposed:
        module.weight[channels] = 0
    elif isinstance(module, CONVOLUTION):
        inputs, outputs = module.in_channels // module.groups, module.out_channels // module.groups
        for channel in channels.tolist():  # a grouped layer knows its inputs by their place within a slice
            piece = channel // inputs
            module.weight[piece * outputs : (piece + 1) * outputs, channel % inputs] = 0


@contextlib.contextmanager
def _unmixed(model: nn.Module) -> Iterator[None]:
    """The model with nothing left of its layer and group normalisations but their weights, so that no channel
    hears of another there."""

    def weights_only(module: nn.Module, given: tuple[torch.Tensor, ...], _: object) -> torch.Tensor:
        x = given[0]
        for weight, combine in ((module.weight, torch.mul), (module.bias, torch.add)):
            if isinstance(weight, torch.Tensor):
                first = isinstance(module, nn.GroupNorm)  # channels come second there, last elsewhere
                x = combine(x, weight.view(-1, *[1] * (x.dim() - 2)) if first else weight)
        return x

    mixing = [m for m in model.modules() if isinstance(m, (nn.LayerNorm, nn.GroupNorm))]
    hooks = [module.register_forward_hook(weights_only) for module in mixing]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _agree(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal but for rounding, seen beside how much the output depends on the input at all."""
    spread = float((a[0] - a[-1]).abs().max())
    return torch.allclose(a, b, rtol=1e-4, atol=1e-6 + 0.01 * spread, equal_nan=True)


@contextlib.contextmanager
def ready(model: nn.Module) -> Iterator[None]:
    """The model as tracing needs it, then as it was: evaluation mode, gradients wanted for all weights."""
    training = {module: module.training for module in model.modules()}
    wanted = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    model.eval().requires_grad_(True)
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, was in training.items():
            module.training = was
        for name, parameter in model.named_parameters():  # pruned ones are new objects of the same names
            parameter.requires_grad_(wanted[name])


def _listed(names: Mapping[str, object]) -> str:
    listed = list(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
