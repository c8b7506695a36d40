"""Structured pruning: networks with fewer channels and fewer blocks, physically, as points of a space.

A policy is a point: `channels.<layer>` is the share of channels kept in the group that this layer starts,
`block.<path>` whether a block stays. It alone determines the architecture; which channels stay depends on the
weights, so that a freshly built network pruned by the same policy takes the weights of the first.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nasflow import names
from nasflow.compression import blocks, criteria
from nasflow.compression.constants import fold
from nasflow.compression.criteria import Criterion
from nasflow.compression.groups import CONVOLUTION, Group, PruneError, Removed, Traced, remove, trace
from nasflow.space import Choice, Point, Scalar, Space

CHANNELS, BLOCK = "channels.", "block."

Compensate = Callable[[Traced, Sequence[int], Removed], None]
"""Changes weights in place before channels go."""


def space(
    model: nn.Module,
    shape: Sequence[int],
    *,
    round_to: int = 8,
    keep: Sequence[float] = (1.0, 0.75, 0.5, 0.25),
    protect: Collection[str] = (),
    only: Collection[str] = (),
) -> Space:
    """All that can be taken out of `model` and leave it a network that runs, for inputs of `shape`.

    Channels: for each group the shares in `keep` that give different multiples of `round_to`, and all of them.
    Blocks: see blocks.removable. `protect` names layers or modules that stay as they are; with `only`, all stay but
    the modules that it names and what lies within them. Layers elsewhere may still read or normalise fewer channels.

    Every group is tried before it is offered: see groups.remove. Choices that mean nothing once a block is
    gone are folded.

    >>> net = nn.Sequential(nn.Conv2d(1, 24, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 36, 10))
    >>> space(net, (1, 8, 8)).parameters
    (Choice(name='channels.0', options=(1.0, 0.666667, 0.333333), ordered=True),)
    """
    if round_to < 1 or not keep or not all(0 < share <= 1 for share in keep):
        raise PruneError(
            "expected round_to of at least 1 and shares to keep above 0, at most 1, "
            f"got round_to {round_to} and keep {tuple(keep)}"
        )
    protect, only = _names(protect), _names(only)
    check_modules(model, (*protect, *only))
    probe = _probe(model)
    whole = trace(probe, shape).groups
    choices = {
        group.name: options
        for group in whole
        if not any(_touches(layer, protect) for layer in group.layers)
        and (not only or all(_touches(layer, only) for layer in _makers(group)))
        and len(options := _options(group, keep, round_to)) > 1
    }
    least = _sound(probe, shape, whole, {name: min(options) for name, options in choices.items()})
    removable = [
        name
        for name in blocks.removable(probe, shape)
        if not any(_touches(name, [kept]) or _touches(kept, [name]) for kept in protect)
        and (not only or _touches(name, only))
    ]
    parameters = [Choice(CHANNELS + name, choices[name], ordered=True) for name in least]
    parameters += [Choice(BLOCK + name, (True, False)) for name in removable]
    return Space(
        tuple(parameters), (_gone(probe, shape, whole, tuple(least), removable),) if removable else ()
    )


def apply(
    policy: Mapping[str, Scalar],
    model: nn.Module,
    shape: Sequence[int],
    *,
    criterion: Criterion = criteria.l1,
    compensate: Compensate = fold,
    of: nn.Module | None = None,
) -> nn.Module:
    """A new network: `model` without what `policy` leaves out; `model` itself stays untouched.

    Within each group the channels with the lowest scores by `criterion` go, see criteria.py. Before they do,
    `compensate` prepares the layers that read them: what is constant of them stays as a bias, see constants.py; see
    reconstruct.py for more. What the policy does not name stays. With `of` the policy is one of that network, of which
    `model` is what an earlier policy left: then only what it leaves out beyond that one goes.

    Raises:
        PruneError: the policy names what is not in the network, or what cannot be pruned there.
    """
    gone = [name for name, kept in _entries(policy, BLOCK).items() if not _is_kept(name, kept)]
    shares = {name: _share(name, share) for name, share in _entries(policy, CHANNELS).items()}
    check_modules(of or model, gone)
    left = {name for name, _ in model.named_modules()}  # a block within one that is gone is gone
    reduced = blocks.without(model, [name for name in gone if name in left])
    original = copy.deepcopy(of or model) if gone or of is not None else reduced
    if gone and not blocks.fits(reduced, original, shape):
        raise PruneError(f"the network does not run without {', '.join(gone)}: these are not blocks of it")
    if all(share == 1 for share in shares.values()):
        return reduced
    traced = trace(reduced, shape)
    whole = traced.groups if original is reduced else trace(original, shape).groups
    known = {group.name: group for group in whole}
    for name in shares.keys() - known.keys():
        raise PruneError(f"{CHANNELS}{name}: no group of channels of that name; {names.nearest(name, known)}")
    removed = {}
    for group, name in _named(traced, whole):
        kept = _count(known[name], shares.get(name, 1.0))
        if kept < group.channels:
            removed[group.name] = _lowest(group, criterion(group.inside(model)), kept)
    compensate(traced, shape, removed)
    remove(traced, shape, removed)
    return reduced


def uniform(space: Space, share: float) -> Point:
    """The policy that keeps about the same share of every group and all blocks: what a search has to beat."""
    policy: Point = {}
    for choice in space.parameters:
        assert isinstance(choice, Choice)
        if choice.name.startswith(CHANNELS):
            policy[choice.name] = min(choice.options, key=lambda option: abs(float(option or 0) - share))
        else:
            policy[choice.name] = True
    return policy


def partway(policy: Mapping[str, Scalar], part: float) -> Point:
    """The policy that goes `part` of the way, 0 to 1, to `policy`: blocks go at once, channels little by little.

    >>> partway({"channels.0": 0.5, "block.1": False}, 0.5)
    {'channels.0': 0.75, 'block.1': False}
    """
    return {
        name: 1 - part * (1 - _share(name, value)) if name.startswith(CHANNELS) else value
        for name, value in policy.items()
    }


def check_modules(model: nn.Module, wanted: Iterable[str]) -> None:
    """Raise PruneError for the first name that is no module's in the network."""
    known = {path for path, _ in model.named_modules() if path}
    for name in wanted:
        if name not in known:
            raise PruneError(f"{name}: no module of that name in the network; {names.nearest(name, known)}")


@dataclass(frozen=True)
class Gone:
    """Fold: what lies in a block that is left out, or is tied to its input without it, has no say.

    `under`: choice of a block -> choices that mean nothing without it.
    """

    under: tuple[tuple[str, tuple[str, ...]], ...]

    def __call__(self, point: Point) -> Point:
        folded = dict(point)
        for block, silent in self.under:
            if not point[block]:
                folded |= {name: True if name.startswith(BLOCK) else 1.0 for name in silent}
        return folded


# ---- what a policy says


def _entries(policy: Mapping[str, Scalar], kind: str) -> dict[str, Scalar]:
    strange = [name for name in policy if not name.startswith((CHANNELS, BLOCK))]
    if strange:
        raise PruneError(f"{strange[0]}: a policy has entries channels.<layer> and block.<path> only")
    return {name.removeprefix(kind): value for name, value in policy.items() if name.startswith(kind)}


def _is_kept(name: str, value: Scalar) -> bool:
    if not isinstance(value, bool):
        raise PruneError(f"{BLOCK}{name}: expected true (stays) or false (goes), got {value!r}")
    return value


def _share(name: str, value: Scalar) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise PruneError(f"{CHANNELS}{name}: expected a share to keep above 0 and at most 1, got {value!r}")
    return float(value)


def _names(given: Collection[str]) -> tuple[str, ...]:
    """Several names, or a single one that came without a list."""
    return (given,) if isinstance(given, str) else tuple(given)


def _touches(name: str, modules: Iterable[str]) -> bool:
    """Whether the module `name` is one of `modules` or within one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


# ---- how many channels, and which


def _makers(group: Group) -> list[str]:
    """The layers that make or hand through its channels, but for those that only normalise them."""
    made = (CONVOLUTION, nn.Linear, nn.Parameter)
    return [
        member.layer for member in group.members if member.side == "out" and isinstance(member.module, made)
    ]


def _options(group: Group, keep: Sequence[float], round_to: int) -> tuple[float, ...]:
    """The shares that give different counts: multiples of `round_to`, or all channels, always among them."""
    multiple = math.lcm(group.step, round_to)
    counts = {group.channels: None}
    for share in sorted(keep, reverse=True):
        rounded = max(1, math.floor(share * group.channels / multiple + 0.5)) * multiple
        counts[min(group.channels, rounded)] = None
    # Six digits are exact for up to 500,000 channels and fit a report.
    return tuple(1.0 if count == group.channels else round(count / group.channels, 6) for count in counts)


def _count(group: Group, share: float) -> int:
    return min(group.channels, max(1, round(share * group.channels / group.step)) * group.step)


def places(group: Group, scores: torch.Tensor) -> torch.Tensor:
    """Scores of what can leave on its own: of one channel, or of one from each of the group's slices together."""
    if scores.shape != (group.channels,) or not bool(torch.isfinite(scores).all()):
        raise PruneError(
            f"{CHANNELS}{group.name}: expected {group.channels} finite scores from the criterion, got "
            f"{tuple(scores.shape)}{'' if torch.isfinite(scores).all() else ', not all finite'}"
        )
    return scores.reshape(group.step, -1).sum(0)


def _lowest(group: Group, scores: torch.Tensor, kept: int) -> torch.Tensor:
    """The channels to remove: as many from each of the group's slices, those at the places that score lowest."""
    order = places(group, scores).argsort(stable=True)
    gone = order[: len(order) - kept // group.step].sort().values.cpu()
    return (gone + len(order) * torch.arange(group.step).unsqueeze(1)).flatten()


# ---- what is safe to offer


def _probe(model: nn.Module) -> nn.Module:
    """A copy with lively random weights: in a fresh or a badly trained network signals may die on the way, and
    a check of its outputs would see nothing."""
    probe = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in probe.modules():
            if isinstance(module, (CONVOLUTION, nn.Linear)):
                drawn = torch.randn(module.weight.shape, generator=generator)
                module.weight.copy_(drawn * math.sqrt(2 / module.weight[0].numel()))
    return probe


def _named(traced: Traced, whole: Sequence[Group]) -> Iterable[tuple[Group, str]]:
    """Each group of a network that lost blocks with the name that it had in the `whole` one: that of its first
    layer there. Groups become one where the block between them is gone."""
    first: dict[str, str] = {}
    for group in whole:
        for layer in group.layers:
            first.setdefault(layer, group.name)
    return [(group, first[group.name]) for group in traced.groups if group.name in first]


def _works(
    model: nn.Module, shape: Sequence[int], whole: Sequence[Group], shares: Mapping[str, float]
) -> bool:
    """Whether all these groups can be pruned at once: their first channels, and others spread at random."""
    for criterion in (_last, criteria.random(0)):
        traced = trace(copy.deepcopy(model), shape)
        removed = {
            group.name: _lowest(group, criterion(group), _count(group, shares[name]))
            for group, name in _named(traced, whole)
            if name in shares
        }
        try:
            remove(traced, shape, removed)
        except PruneError:
            return False
    return True


def _last(group: Group) -> torch.Tensor:
    """Scores that make a group's first channels go: uneven for whatever cuts the channels into pieces."""
    return torch.arange(group.channels)


def _sound(
    model: nn.Module, shape: Sequence[int], whole: Sequence[Group], shares: Mapping[str, float]
) -> dict[str, float]:
    """The groups that can be pruned together: all, or else those of each half that go with what is found so far."""

    def add(good: dict[str, float], more: Sequence[str]) -> dict[str, float]:
        together = {**good, **{name: shares[name] for name in more}}
        if not more or _works(model, shape, whole, together):
            return together
        if len(more) == 1:
            return good
        middle = len(more) // 2
        return add(add(good, more[:middle]), more[middle:])

    return add({}, list(shares))


def _gone(
    model: nn.Module,
    shape: Sequence[int],
    whole: Sequence[Group],
    offered: Sequence[str],
    removable: Sequence[str],
) -> Gone:
    """The fold: without a block, groups in it are gone, and its input and output are one group of the first name,
    or none where that is the input of the network."""
    under = []
    for block in removable:
        with blocks.absent(model, block):
            left = {name for _, name in _named(trace(model, shape), whole)}
        silent = [CHANNELS + name for name in offered if name not in left]
        silent += [BLOCK + name for name in removable if name.startswith(f"{block}.")]
        under.append((BLOCK + block, tuple(silent)))
    return Gone(tuple(under))
