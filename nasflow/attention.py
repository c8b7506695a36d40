"""Where a network looks, taught to another: a pruned network learns from the maps inside the whole one, not only from
its answers.

Zagoruyko & Komodakis, 2017 (Attention Transfer, arXiv:1612.03928): activation-based, with squared sums over channels.
Maps have no channels, so the two may differ in theirs, and nothing between them has to be learnt.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasflow.errors import NasflowError

STRENGTH = 1000.0  # of the loss, beside that of the answers: the paper's


class AttentionError(NasflowError):
    """Two networks without maps to compare."""


def attention(features: Tensor) -> Tensor:
    """The map of `features`, (batch, channels, height, width): the mean of their squares, as a vector of length 1 for
    each image, (batch, height x width)."""
    return functional.normalize(features.square().mean(1).flatten(1), dim=1)


@contextlib.contextmanager
def transfer(
    student: nn.Module, teacher: nn.Module, shape: Sequence[int], strength: float = STRENGTH
) -> Iterator[Callable[[], Tensor]]:
    """Within, what is given back tells how far the maps of the two networks are from each other for the images that
    both saw last: `strength` times the mean squared difference, added up over the `places`. Images have `shape`
    (channels, height, width).

    Raises:
        AttentionError: there are no places.
    """
    compared = places(student, teacher, shape)
    with _watched(student, compared) as ours, _watched(teacher, compared) as theirs:

        def loss() -> Tensor:
            apart = [(attention(ours[at]) - attention(theirs[at])).square().mean() for at in compared]
            return strength * torch.stack(apart).sum()

        yield loss


def places(student: nn.Module, teacher: nn.Module, shape: Sequence[int]) -> tuple[str, ...]:
    """Modules of both networks, by name, whose outputs are compared: of each size of maps, the last that has one of it
    in both.

    Raises:
        AttentionError: there is none of more than one pixel.
    """
    ours, theirs = _sizes(student, shape), _sizes(teacher, shape)
    last = {size: name for name, size in ours.items() if theirs.get(name) == size and size != (1, 1)}
    if not last:
        raise AttentionError(
            "expected feature maps of more than one pixel in modules of the same name in both networks, and found "
            "none; let it learn from the answers alone (distill: logits)"
        )
    return tuple(last.values())


def _sizes(model: nn.Module, shape: Sequence[int]) -> dict[str, tuple[int, int]]:
    """Height and width of what each module gives, in the order in which they end; for those that run once and give
    maps."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    was = model.training
    names = [name for name, _ in model.named_modules() if name]
    found: dict[str, tuple[int, int]] = {}
    runs: dict[str, int] = {}

    def note(name: str, made: object) -> None:
        runs[name] = runs.get(name, 0) + 1
        if isinstance(made, Tensor) and made.dim() == 4:
            found[name] = (made.shape[2], made.shape[3])

    model.eval()
    try:
        with _hooked(model, names, note), torch.no_grad():
            model(torch.zeros(2, *shape, device=device))
    finally:
        model.train(was)
    return {name: size for name, size in found.items() if runs[name] == 1}


@contextlib.contextmanager
def _watched(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """What these modules gave last."""
    given: dict[str, Tensor] = {}

    def note(name: str, made: object) -> None:
        assert isinstance(made, Tensor)
        given[name] = made

    with _hooked(model, names, note):
        yield given


@contextlib.contextmanager
def _hooked(model: nn.Module, names: Sequence[str], note: Callable[[str, object], None]) -> Iterator[None]:
    def hook(name: str) -> Callable[[nn.Module, object, object], None]:
        return lambda module, given, made: note(name, made)

    hooks = [model.get_submodule(name).register_forward_hook(hook(name)) for name in names]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()
