"""How much it hurts to round each layer to so many bits: what assign.policy shares bits out by.

Three answers, from the dearest to the cheapest: how much the loss grows when one layer alone is rounded, how much of
the output is noise then, and what the loss is expected to grow by from its curvature (HAWQ-V2), which needs no
evaluation for each number of bits. All of them treat layers as if they did not know of each other.

`simulate` makes the rounded network of a policy: fakequant.simulate with all but its policy given.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from nasflow.compression.assign import Sensitivity
from nasflow.compression.fakequant import INPUT
from nasflow.compression.precision import ACTIVATION, FLOAT, WEIGHT
from nasflow.errors import NasflowError
from nasflow.space import Choice, Point, Space

Simulate = Callable[[Point], nn.Module]

BATCH = 64


class SensitivityError(NasflowError):
    """Images, labels or probes that no sensitivity can be told from."""


def loss_increase(
    model: nn.Module, space: Space, simulate: Simulate, images: Tensor, labels: Tensor
) -> Sensitivity:
    """By how much the mean cross-entropy of `images` (n, channels, height, width) grows when one entry of the policy
    alone is at so many bits and all others are left alone. May be below zero, by chance."""
    _check_images(images, labels)
    whole = _loss(model, images, labels)
    return {
        (entry, bits): _loss(simulate({entry: bits}), images, labels) - whole
        for entry, bits in _rounded(space)
    }


def output_snr(model: nn.Module, space: Space, simulate: Simulate, images: Tensor) -> Sensitivity:
    """Decibels of the network's outputs over what rounding one entry alone to so many bits changes in them: the
    higher, the better. `noise` of it is what adds up."""
    expected = _answers(model, images)
    return {
        (entry, bits): _decibels(expected, _answers(simulate({entry: bits}), images))
        for entry, bits in _rounded(space)
    }


def noise(decibels: Sensitivity) -> Sensitivity:
    """Shares of noise in a signal, from the decibels of the signal over it; infinite decibels are none.

    >>> noise({("weight_bits.a", 8): 40.0, ("weight_bits.a", 32): math.inf})
    {('weight_bits.a', 8): 0.0001, ('weight_bits.a', 32): 0.0}
    """
    return {choice: 10 ** (-value / 10) for choice, value in decibels.items()}


def hawq(
    model: nn.Module,
    space: Space,
    simulate: Simulate,
    images: Tensor,
    labels: Tensor,
    *,
    probes: int = 50,
    seed: int = 0,
) -> Sensitivity:
    """Omega of HAWQ-V2 (Dong et al., NeurIPS 2020, arXiv:1911.03852): the trace of the loss's Hessian, averaged over
    the entry's numbers, times the squared length of what rounding changes in them.

    Of weights, and of inputs as there: their trace and their rounding error are means over images. A trace below
    zero, which cannot be at a minimum of the loss, counts as none. Without the half of Taylor's second term.
    """
    entries = sorted({entry for entry, _ in _rounded(space)})
    curvature = traces(model, entries, images, labels, probes=probes, seed=seed)
    errors = rounding_errors(model, space, simulate, images)
    return {
        (entry, bits): max(curvature[entry].average, 0.0) * error for (entry, bits), error in errors.items()
    }


@dataclass(frozen=True)
class Trace:
    """The estimated trace of the Hessian for one policy entry: its `mean` over the probes and the standard error of
    that. `count` is how many numbers the entry is about: the weights, or the inputs of the layer for one image."""

    mean: float
    error: float
    count: int

    @property
    def average(self) -> float:
        """For each number."""
        return self.mean / self.count


def traces(
    model: nn.Module,
    entries: Sequence[str],
    images: Tensor,
    labels: Tensor,
    *,
    probes: int = 50,
    seed: int = 0,
) -> dict[str, Trace]:
    """Traces of the Hessian of the mean cross-entropy, with normalisations frozen: of weights (`weight_bits.<layer>`)
    and of a layer's inputs (`activation_bits.<layer>`), of which they are the mean over images.

    All entries share a backward pass for each probe, so their estimates err together a little more than each alone
    would; `Trace.error` includes that.
    """
    _check_images(images, labels)
    if probes < 2:
        raise SensitivityError(f"expected at least 2 probes, to tell how far off they are, got {probes}")
    network = copy.deepcopy(model).eval().requires_grad_(False)
    # Weights come first, so that each gets the same signs for all batches however large these are.
    weights = [entry for entry in entries if entry.startswith(WEIGHT)]
    inputs = [entry for entry in entries if entry.startswith(ACTIVATION)]
    numbers = {entry: _weight(network, entry).requires_grad_(True) for entry in weights}
    found = torch.zeros(probes, len(weights) + len(inputs), dtype=torch.float64)
    counts = {entry: number.numel() for entry, number in numbers.items()}
    for batch, wanted in _batches(images, labels):
        shifts: dict[str, Tensor] = {}
        with _twice_differentiable(), ExitStack() as stack:
            for entry in inputs:
                stack.enter_context(_before(network, entry, _shift(shifts, entry)))
            loss = functional.cross_entropy(network(batch), wanted, reduction="sum") / len(images)
        counts |= {entry: shift[0].numel() for entry, shift in shifts.items()}
        variables = [*numbers.values(), *(shifts[entry] for entry in inputs)]
        found += hutchinson(loss, variables, probes=probes, seed=seed)
    deviation = found.std(0) / math.sqrt(probes)
    return {
        entry: Trace(float(found[:, i].mean()), float(deviation[i]), counts[entry])
        for i, entry in enumerate([*weights, *inputs])
    }


def hutchinson(loss: Tensor, variables: Sequence[Tensor], *, probes: int, seed: int = 0) -> Tensor:
    """Estimates v'Hv of the trace of each variable's block of the Hessian of `loss`, for random signs v:
    (probes, variables), in 64 bits.

    Hutchinson, 1989. Exact for a diagonal Hessian; else unbiased with the variance 2 (|H|^2 - sum of H_ii^2) of one
    variable, and with that of all blocks in the variable's rows for several. Each probe's signs follow from its
    number and `seed` alone.
    """
    gradients = torch.autograd.grad(loss, variables, create_graph=True, materialize_grads=True)
    able = [i for i, gradient in enumerate(gradients) if gradient.requires_grad]  # others have no curvature
    estimates = torch.zeros(probes, len(variables), dtype=torch.float64)
    for probe in range(probes if able else 0):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + probe)
        signs = [_signs(variable, generator) for variable in variables]
        products = torch.autograd.grad(
            [gradients[i] for i in able],
            variables,
            [signs[i] for i in able],
            retain_graph=True,
            materialize_grads=True,
        )
        for i, (sign, product) in enumerate(zip(signs, products, strict=True)):
            estimates[probe, i] = (sign.double() * product.double()).sum()
    return estimates


def rounding_errors(model: nn.Module, space: Space, simulate: Simulate, images: Tensor) -> Sensitivity:
    """Squared length of what rounding an entry changes: in its weights, or in its inputs for one image, on average.

    Inputs are those of the network in floats.
    """
    errors: dict[tuple[str, int], float] = {}
    of_inputs: dict[tuple[str, int], nn.Module] = {}
    choices = list(_rounded(space))
    for bits in sorted({bits for _, bits in choices}):
        entries = [entry for entry, among in choices if among == bits]
        rounded = simulate(dict.fromkeys(entries, bits)).eval()  # each is rounded as if it were alone
        for entry in entries:
            if entry.startswith(WEIGHT):
                errors[entry, bits] = _squared(_weight(rounded, entry), _weight(model, entry))
            else:
                of_inputs[entry, bits] = rounded.get_submodule(f"{_layer(entry)}.{INPUT}")
                errors[entry, bits] = 0.0
    network = copy.deepcopy(model).eval()
    for batch in torch.split(images, BATCH):
        seen: dict[str, Tensor] = {}
        with torch.no_grad(), ExitStack() as stack:
            for entry in {entry for entry, _ in of_inputs}:
                stack.enter_context(_before(network, entry, partial(seen.__setitem__, entry)))
            network(batch)
            for (entry, bits), rounding in of_inputs.items():
                errors[entry, bits] += _squared(rounding(seen[entry]), seen[entry]) / len(images)
    return errors


# ---- pieces


def _rounded(space: Space) -> Iterator[tuple[str, int]]:
    """The entries that a space of bits lets choose, with each number of bits that rounds them."""
    for choice in space.parameters:
        if isinstance(choice, Choice) and len(choice.options) > 1:
            for bits in choice.options:
                if isinstance(bits, int) and bits != FLOAT:
                    yield choice.name, bits


def _layer(entry: str) -> str:
    return entry.removeprefix(WEIGHT).removeprefix(ACTIVATION)


def _weight(model: nn.Module, entry: str) -> Tensor:
    """The weights that an entry is about, as the layer uses them: rounded in a rounded network."""
    weight = model.get_submodule(_layer(entry)).weight
    assert isinstance(weight, Tensor)
    return weight


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(0, 2, like.shape, generator=generator).mul_(2).sub_(1).to(like)


def _squared(a: Tensor, b: Tensor) -> float:
    return float((a.detach().double() - b.detach().double()).square().sum())


@contextmanager
def _before(model: nn.Module, entry: str, look: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Have `look` see what the layer is given, and give it what that returns instead, if anything."""

    def hook(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        instead = look(given[0])
        return None if instead is None else (instead, *given[1:])

    handle = model.get_submodule(_layer(entry)).register_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _shift(shifts: dict[str, Tensor], entry: str) -> Callable[[Tensor], Tensor]:
    """Adds zeros to a layer's inputs and keeps them, for derivatives by them."""

    def add(values: Tensor) -> Tensor:
        shifts[entry] = torch.zeros_like(values, requires_grad=True)
        return values + shifts[entry]

    return add


@contextmanager
def _twice_differentiable() -> Iterator[None]:
    """What PyTorch can differentiate only once, in operations that it can twice: the same numbers."""
    with sdpa_kernel(SDPBackend.MATH), _HardSigmoids():
        yield


class _HardSigmoids(TorchFunctionMode):
    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(function, "__name__", "") in ("hardsigmoid", "hardsigmoid_"):
            return (args[0] / 6 + 0.5).clamp(0, 1)
        return function(*args, **(kwargs or {}))


def _loss(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    return float(functional.cross_entropy(_answers(model, images), labels))


def _answers(model: nn.Module, images: Tensor) -> Tensor:
    """What the network gives in evaluation mode, in 64 bits; it stays in the mode that it was in."""
    was = model.training
    model.eval()
    with torch.no_grad():
        answers = torch.cat([model(batch) for batch in torch.split(images, BATCH)]).double()
    model.train(was)
    return answers


def _decibels(signal: Tensor, noisy: Tensor) -> float:
    changed = float((noisy - signal).square().sum())
    whole = float(signal.square().sum())
    if changed == 0.0:
        return math.inf
    return 10 * math.log10(whole / changed) if whole else -math.inf


def _batches(images: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    return zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True)


def _check_images(images: Tensor, labels: Tensor) -> None:
    if not len(images) or len(images) != len(labels):
        raise SensitivityError(
            f"expected some images with a label each, got {len(images)} images and {len(labels)} labels"
        )
