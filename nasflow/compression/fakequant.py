"""Networks that compute as if in few bits: weights and inputs rounded to a grid, everything else in floats.

No processor runs these faster. They tell what error a network would have at 2 to 8 bits, before and after training it
so: gradients pass the rounding as if it were not there (straight-through; Bengio et al., 2013, arXiv:1308.3432). At
8 bits qdq.py makes a file of them that ONNX Runtime really computes in integers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from nasflow.compression.calibrate import TINY, Grid, Method, Seen, check, limits, weight_shares
from nasflow.compression.groups import CONVOLUTION, ready
from nasflow.compression.lsq import LSQ, along, first_step, rounded
from nasflow.compression.pact import PACT
from nasflow.compression.precision import ACTIVATION, FLOAT, WEIGHT, bits_of
from nasflow.errors import NasflowError
from nasflow.names import nearest
from nasflow.space import Scalar

Training = Literal["lsq", "pact"]
Share = Literal["channel", "layer"]

BATCH = 32
FOLLOWED = 0.01  # by how much a batch in training moves the range of inputs towards its own
INPUT = "input_rounding"
LAYERS = (CONVOLUTION, nn.Linear)


class SimulateError(NasflowError):
    """A policy of bits that does not fit the network, or data that cannot calibrate it."""


def simulate(
    policy: Mapping[str, Scalar],
    model: nn.Module,
    shape: Sequence[int],
    calibration: Tensor,
    *,
    method: Method | None = None,
    qat: Training | None = None,
    step_per: Share = "channel",
) -> nn.Module:
    """A copy of `model` in which the layers that `policy` names round their weights (symmetric; a step for each output
    channel, or one for each layer as in most papers) and their inputs (one step, unsigned where never negative) to so
    many bits.

    `policy`: weight_bits.<layer> and activation_bits.<layer>, 2 to 8, or 32, which leaves alone; as precision.space
    offers them. `calibration`: some preprocessed inputs (n, *shape), which tell the ranges. Layers that read the
    same tensor in the same bits round it once, with one step.

    Without `qat`, steps follow from ranges: those of weights from the weights as they are, those of inputs from
    calibration, in training (minmax) also from what comes by, as a moving average (Jacob et al., 2018,
    arXiv:1712.05877). "lsq" learns all steps, "pact" where inputs are cut off, while weights are rounded with the
    least squared error. `method` is how ranges are found (calibrate.limits): minmax by default; lsq starts as in its
    paper by default, from the mean magnitude, and from the method's ranges where one is given.

    Raises:
        SimulateError: a layer that there is not or that never runs, or calibration data of another shape.
    """
    if method is not None:
        check(method)
    if qat is not None and qat not in get_args(Training):
        raise SimulateError(f"expected qat to be None, {' or '.join(get_args(Training))}, got {qat!r}")
    if step_per not in get_args(Share):
        raise SimulateError(f"expected step_per to be {' or '.join(get_args(Share))}, got {step_per!r}")
    made = copy.deepcopy(model)
    bits = {name: bits_of(name, policy) for name in _named(made, policy)}
    reading = {name: activation for name, (_, activation) in bits.items() if activation != FLOAT}
    for tensor in _read(made, shape, calibration, reading) if reading else ():
        rounding = _for_inputs(tensor.seen, tensor.bits, method, qat)
        for name in tensor.readers:
            layer = made.get_submodule(name)
            layer.add_module(INPUT, rounding)
            layer.register_forward_pre_hook(_round_input)
    for name, (weight, _) in bits.items():
        if weight != FLOAT:
            layer = made.get_submodule(name)
            rounds = _for_weights(layer, weight, method, qat, step_per)
            parametrize.register_parametrization(layer, "weight", rounds)
    return made


@dataclass(frozen=True)
class Rounded:
    """How a layer rounds: its weights to `steps` (channels,) and grid, its inputs to `step` (1,) and grid. None where
    they are left alone."""

    steps: Tensor | None
    weight_grid: Grid | None
    step: Tensor | None
    input_grid: Grid | None


def roundings(model: nn.Module) -> dict[str, Rounded]:
    """How the layers of a network made by `simulate` round now, by their names."""
    found = {}
    for name, layer in model.named_modules():
        weights = _of_weights(layer)
        inputs = layer.get_submodule(INPUT) if isinstance(layer, LAYERS) and hasattr(layer, INPUT) else None
        assert inputs is None or isinstance(inputs, (Inputs, LSQ, PACT))
        if weights is None and inputs is None:
            continue
        steps = None
        if isinstance(weights, Weights):
            steps = weights.steps(layer.get_parameter("parametrizations.weight.original"))
        elif weights is not None:
            steps = weights.step.detach()
        if steps is not None:
            steps = steps.expand(layer.weight.shape[channel_axis(layer)])
        found[name] = Rounded(
            steps,
            weights.grid if weights is not None else None,
            inputs.step.detach() if inputs is not None else None,
            inputs.grid if inputs is not None else None,
        )
    return found


def plain(model: nn.Module) -> nn.Module:
    """A copy of a network made by `simulate` as an ordinary one: the weights rounded for good, the inputs not."""
    made = copy.deepcopy(model)
    for layer in made.modules():
        if (
            _of_weights(layer) is not None
        ):  # parametrize.remove_parametrizations would take it from all copies
            assert isinstance(layer.weight, Tensor)
            weight = nn.Parameter(layer.weight.detach())
            layer.__class__ = type(layer).__bases__[0]
            del layer.parametrizations
            layer.register_parameter("weight", weight)
        if isinstance(layer, LAYERS) and hasattr(layer, INPUT):
            delattr(layer, INPUT)
            hooks = layer._forward_pre_hooks
            for key in [key for key, hook in hooks.items() if hook is _round_input]:
                del hooks[key]
    return made


def channel_axis(layer: nn.Module) -> int:
    """The dimension of a layer's weights along which its output channels are; of a slice's, where it is grouped and
    transposed."""
    return 1 if isinstance(layer, CONVOLUTION) and layer.transposed else 0


# ---- rounding without learning


class Weights(nn.Module):
    """Rounds weights with a step for each channel along `axis`, or with one where that is None. A step's range is a
    fixed `share` (channels,) or (1,) of the largest magnitude there, whatever that is at the time."""

    share: Tensor

    def __init__(self, share: Tensor, grid: Grid, axis: int | None) -> None:
        super().__init__()
        self.grid, self.axis = grid, axis
        self.register_buffer("share", share)

    def steps(self, weights: Tensor) -> Tensor:
        """The steps for these weights, (channels,) or (1,)."""
        top = _rows(weights.detach(), self.axis).abs().amax(1)
        return (self.share * top / self.grid.high).clamp_min(TINY)

    def forward(self, weights: Tensor) -> Tensor:
        return rounded(weights, along(self.steps(weights), weights, self.axis), self.grid)


class Inputs(nn.Module):
    """Rounds inputs with one step (1,). If it `follows`, a batch in training moves it a little towards what would
    cover the batch."""

    step: Tensor

    def __init__(self, step: float, grid: Grid, *, follows: bool) -> None:
        super().__init__()
        self.grid, self.follows = grid, follows
        self.register_buffer("step", torch.tensor([step]))

    def forward(self, values: Tensor) -> Tensor:
        if self.training and self.follows:
            self._follow(values.detach())
        return rounded(
            values, self.step.clone(), self.grid
        )  # another reader may move it before gradients flow

    def _follow(self, values: Tensor) -> None:
        low, high = values.aminmax()
        covering = high / self.grid.high
        if self.grid.low < 0:
            covering = torch.maximum(covering, low / self.grid.low)
        self.step.lerp_(covering.to(self.step).clamp_min(TINY).reshape(1), FOLLOWED)


def _rows(weights: Tensor, axis: int | None) -> Tensor:
    """Those weights that share a step in a row: (channels, weights), or (1, weights) where all of them do."""
    return weights.reshape(1, -1) if axis is None else weights.transpose(0, axis).flatten(1)


def _for_weights(
    layer: nn.Module, bits: int, method: Method | None, qat: Training | None, step_per: Share
) -> nn.Module:
    axis = channel_axis(layer) if step_per == "channel" else None
    rows = _rows(layer.get_parameter("weight").detach(), axis)
    if qat == "lsq":
        grid = Grid.signed(bits)
        if method is None:
            start = first_step(rows.abs().mean(1), grid)
        else:
            start = (rows.abs().amax(1) * weight_shares(rows, method, grid) / grid.high).clamp_min(TINY)
        return LSQ(start, grid, axis, samples=False)
    grid = Grid.symmetric(bits)
    found = weight_shares(rows, "mse" if qat == "pact" else method or "minmax", grid)
    return Weights(found, grid, axis)


def _for_inputs(seen: Seen, bits: int, method: Method | None, qat: Training | None) -> nn.Module:
    low, high = limits(seen, method or "minmax", bits)
    grid, step = Grid.covering(low, high, bits)
    if qat == "pact":
        return PACT(step * grid.top, grid)
    if qat == "lsq":
        start = torch.tensor([step])
        if method is None:
            start = first_step(torch.tensor([np.abs(seen.sample).mean()], dtype=torch.float32), grid)
        return LSQ(start, grid)
    return Inputs(step, grid, follows=method in (None, "minmax"))


def _round_input(layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a rounding layer does before it runs."""
    return (layer.get_submodule(INPUT)(given[0]), *given[1:])


def _of_weights(layer: nn.Module) -> Weights | LSQ | None:
    if not (isinstance(layer, LAYERS) and parametrize.is_parametrized(layer, "weight")):
        return None
    first = layer.get_submodule("parametrizations.weight.0")
    return first if isinstance(first, (Weights, LSQ)) else None


# ---- which layers, and what they read


def _named(model: nn.Module, policy: Mapping[str, Scalar]) -> list[str]:
    """The layers of `model` that the policy is about."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, LAYERS)}
    names: dict[str, None] = {}
    for entry in policy:
        start = next((start for start in (WEIGHT, ACTIVATION) if entry.startswith(start)), None)
        if start is None:
            raise SimulateError(
                f"expected simulated bits, {WEIGHT}<layer> and {ACTIVATION}<layer>, got an entry {entry!r}"
            )
        name = entry.removeprefix(start)
        if name not in found:
            raise SimulateError(
                f"{entry}: the network has no convolution or linear layer of that name; {nearest(name, found)}"
            )
        if parametrize.is_parametrized(found[name]) or hasattr(found[name], INPUT):
            raise SimulateError(f"{entry}: the layer is rounded already; start from the network in floats")
        names[name] = None
    return list(names)


@dataclass
class _Tensor:
    """A tensor inside a network: the layers that read it in so many bits, and the values seen of it."""

    bits: int
    readers: dict[str, None]
    seen: Seen


def _read(
    model: nn.Module, shape: Sequence[int], calibration: Tensor, bits: Mapping[str, int]
) -> list[_Tensor]:
    """Run the network on the calibration data and see what the layers in `bits` read."""
    if tuple(calibration.shape[1:]) != tuple(shape) or not len(calibration):
        raise SimulateError(
            f"expected calibration data of some images {tuple(shape)}, got {tuple(calibration.shape)}"
        )
    batches = torch.split(calibration, BATCH)
    tensors: dict[tuple[int, int, int], _Tensor] = {}
    of: dict[str, _Tensor] = {}
    alive: list[Tensor] = []  # so that no two tensors of a batch have the same id

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            values = given[0]
            alive.append(values)
            key = (id(values), values._version, bits[name])  # what is changed in place is another tensor
            first = key not in tensors
            tensor = of.get(name) or tensors.get(key) or _Tensor(bits[name], {}, Seen(len(batches)))
            tensors[key] = of[name] = tensor
            tensor.readers[name] = None
            if first:
                tensor.seen.add(values)

        return hook

    hooks = [model.get_submodule(name).register_forward_pre_hook(note(name)) for name in bits]
    where = next(model.parameters(), torch.zeros(())).device
    try:
        with ready(model), torch.no_grad():
            for batch in batches:
                model(batch.to(where))
                tensors.clear()
                alive.clear()
    finally:
        for hook in hooks:
            hook.remove()
    idle = [name for name in bits if name not in of]
    if idle:
        raise SimulateError(
            f"{ACTIVATION}{idle[0]}: the layer never runs by itself, so its inputs cannot be rounded; give it {FLOAT}"
        )
    return list({id(tensor): tensor for tensor in of.values()}.values())
