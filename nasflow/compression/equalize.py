"""Making trained networks easier to round, without training them: folded normalisation, balanced channels, corrected
means.

Nagel et al., 2019 ("Data-free quantization through weight equalization and bias correction", arXiv:1906.04721).
What a network's code does between its layers is not known here, so every change is tried on the network: one that
alters the answers is taken back.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import fusion, parametrize

from nasflow.compression.criteria import BATCH_NORM
from nasflow.compression.groups import CONVOLUTION, Group, example, ready, trace
from nasflow.compression.layers import layers
from nasflow.errors import NasflowError

BATCH = 64
ROUNDS = 20  # of equalisation over all pairs, at most
BALANCED = 1e-3  # a round that scales no channel by more than this share is the last
LOUD = 30.0  # images so many times as large show where a network is not linear beyond a bound


class EqualizeError(NasflowError):
    """Data or networks that cannot be corrected with."""


def fold(model: nn.Module, shape: Sequence[int]) -> nn.Module:
    """A copy of `model` with its batch normalisations, as they are in use, moved into the layers before them.

    An identity stays in their place. One stays as it is where the layer's output has other readers, or no layer is
    directly before it. `shape` is that of the inputs (channels, height, width).

    Raises:
        EqualizeError: layers are rounded already, to grids that their weights would leave.
    """
    if any(parametrize.is_parametrized(module) for module in model.modules()):
        raise EqualizeError(
            "expected a network in floats; fold its normalisations before its layers are rounded"
        )
    made = copy.deepcopy(model).eval()
    before = _answers(made, shape)
    for layer, norm in _normalised(made, shape):
        module, normalisation = made.get_submodule(layer), made.get_submodule(norm)
        kept = copy.deepcopy(module)
        _fold(module, normalisation)
        _replace(made, norm, nn.Identity())
        if not _agree(before, _answers(made, shape)):
            _replace(made, layer, kept)
            _replace(made, norm, normalisation)
    return made.train(model.training)


def recalibrate(model: nn.Module, images: Tensor) -> None:
    """Estimate the means and variances of all batch normalisations anew, in place, from images (n, c, h, w): what a
    network needs after its weights were rounded, pruned or replaced."""
    if not len(images):
        raise EqualizeError("expected images to estimate means and variances from, got none")
    norms = [
        module for module in model.modules() if isinstance(module, BATCH_NORM) and module.track_running_stats
    ]
    was = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over all batches
        norm.train()
    try:
        with torch.no_grad():
            for batch in torch.split(images.to(_device(model)), BATCH):
                model(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in was.items():
            module.training = training


def equalise(model: nn.Module, shape: Sequence[int], *, relu6: bool = False) -> nn.Module:
    """A copy of `model` that computes the same from weights and activations of like size in all channels.

    Where only ReLUs or nothing lie between two layers, a channel can be made smaller by s in the first and larger in
    the second. With s = sqrt(r1 / r2), r the largest magnitudes of its weights, both become sqrt(r1 r2) (equation
    11); pairs follow each other until nothing moves. Batch normalisations are folded first. With `relu6`, ReLU6
    layers become ReLU as in the paper, which changes the network a little; else they stand in the way.
    """
    made = fold(model, shape)
    if relu6:
        for name in [name for name, module in made.named_modules() if isinstance(module, nn.ReLU6)]:
            _replace(made, name, nn.ReLU())
    pairs = [pair for pair in _pairs(made, shape) if pair.holds(made, shape)]
    for _ in range(ROUNDS):
        moved = [pair.balance() for pair in pairs]
        if max(moved, default=0.0) < BALANCED:
            break
    return made


def correct_bias(rounded: nn.Module, original: nn.Module, images: Tensor) -> None:
    """Shift the biases of `rounded`, in place, so that every layer's mean output is that of `original`.

    Rounding weights and inputs moves means, and the next layers add that up (section 4.2; from images (n, c, h, w),
    as in appendix D). Layers are corrected in the order in which they run, each after those before it. Both networks
    have the same layers by the same names; one without a bias gets one.
    """
    if not len(images):
        raise EqualizeError("expected images to compare the networks on, got none")
    wanted = _means(original, images)
    names = list(_means(rounded, images))
    if missing := [name for name in names if name not in wanted]:
        raise EqualizeError(
            f"expected two forms of one network, got layers in one alone: {', '.join(missing)}"
        )
    for name in names:
        layer = rounded.get_submodule(name)
        off = _means(rounded, images)[name] - wanted[name]
        with torch.no_grad():
            if layer.bias is None:
                layer.bias = nn.Parameter(torch.zeros_like(off))
            layer.get_parameter("bias").sub_(off)


# ---- folding


def _normalised(model: nn.Module, shape: Sequence[int]) -> list[tuple[str, str]]:
    """Pairs of a layer and the batch normalisation that reads what it makes, both running once."""
    names = {module: name for name, module in model.named_modules()}
    made: dict[tuple[int, int], nn.Module] = {}
    alive: list[Tensor] = []
    runs: dict[nn.Module, int] = {}
    found: list[tuple[nn.Module, nn.Module]] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        runs[module] = runs.get(module, 0) + 1
        if isinstance(module, BATCH_NORM):
            maker = made.get((id(given[0]), given[0]._version))
            if maker is not None and module.running_mean is not None:
                found.append((maker, module))
        elif isinstance(output, Tensor):
            alive.append(output)
            made[id(output), output._version] = module

    kinds = (CONVOLUTION, nn.Linear, BATCH_NORM)
    _run_hooked(model, shape, kinds, note)
    return [
        (names[layer], names[norm])
        for layer, norm in found
        if runs[layer] == runs[norm] == 1 and not (_grouped_transposed(layer))
    ]


def _run_hooked(
    model: nn.Module, shape: Sequence[int], kinds: tuple[type, ...], note: Callable[..., None]
) -> None:
    hooks = [module.register_forward_hook(note) for module in model.modules() if isinstance(module, kinds)]
    try:
        with ready(model), torch.no_grad():
            model(example(model, shape))
    finally:
        for hook in hooks:
            hook.remove()


def _fold(layer: nn.Module, norm: nn.Module) -> None:
    assert isinstance(norm, BATCH_NORM)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight, bias = layer.get_parameter("weight"), getattr(layer, "bias", None)
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    if isinstance(layer, CONVOLUTION):
        weight, bias = fusion.fuse_conv_bn_weights(weight, bias, *statistics, layer.transposed)
    else:
        weight, bias = fusion.fuse_linear_bn_weights(weight, bias, *statistics)
    layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())


def _grouped_transposed(layer: nn.Module) -> bool:
    return isinstance(layer, CONVOLUTION) and layer.transposed and layer.groups > 1


# ---- equalising


@dataclass(frozen=True)
class _Side:
    """A layer's weights of the channels of a group: `index` are positions among its outputs, or inputs, `root` the
    channels they belong to."""

    layer: nn.Module
    index: Tensor
    root: Tensor
    dimension: int

    def largest(self, channels: int) -> Tensor:
        """The largest magnitude of each channel's weights, (channels,)."""
        weight = (
            self.layer.get_parameter("weight").detach().abs().transpose(0, self.dimension).flatten(1).amax(1)
        )
        return torch.zeros(channels).scatter_reduce_(0, self.root, weight[self.index], "amax")

    def multiply(self, factors: Tensor, *, bias: bool) -> None:
        """Multiply the channels' weights, and `bias`es, by factors (channels,)."""
        weight = self.layer.get_parameter("weight")
        each = torch.ones(weight.shape[self.dimension])
        each[self.index] = factors[self.root]
        with torch.no_grad():
            weight.mul_(each.view([-1 if at == self.dimension else 1 for at in range(weight.ndim)]))
            if bias and self.layer.bias is not None:
                self.layer.get_parameter("bias").mul_(each)


@dataclass(frozen=True)
class _Pair:
    """Layers that make channels, and those that read them."""

    channels: int
    makers: tuple[_Side, ...]
    readers: tuple[_Side, ...]

    def scale(self, factors: Tensor) -> None:
        """Make the channels smaller by factors (channels,) where they are made, larger where they are read."""
        for side in self.makers:
            side.multiply(1 / factors, bias=True)
        for side in self.readers:
            side.multiply(factors, bias=False)

    def holds(self, model: nn.Module, shape: Sequence[int]) -> bool:
        """Whether scaling leaves the answers as they are. Tried with powers of two, which no rounding blurs."""
        before = _answers(model, shape)
        factors = torch.tensor([0.25, 4.0]).repeat(self.channels)[: self.channels]
        self.scale(factors)
        unchanged = _agree(before, _answers(model, shape))
        self.scale(1 / factors)
        return unchanged

    def balance(self) -> float:
        """Scale so that both sides' weights are equally large; returns by what share a channel moved at most."""
        first, second = (
            torch.stack([side.largest(self.channels) for side in sides]).amax(0)
            for sides in (self.makers, self.readers)
        )
        alive = (first > 0) & (second > 0)
        factors = torch.where(alive, (first / second.clamp_min(1e-30)).sqrt(), 1.0)
        self.scale(factors)
        return float((factors.log().abs()).max().expm1())


def _pairs(model: nn.Module, shape: Sequence[int]) -> Iterator[_Pair]:
    """Pairs that may do: of each group its maker, the depthwise layers its channels run through, its readers."""
    order = {layer.name: at for at, layer in enumerate(layers(model, shape))}
    for group in trace(model, shape).groups:
        makers = [
            (m.layer, _Side(m.module, m.index, m.root, 0))
            for m in group.members
            if m.side == "out" and m.layer in order and isinstance(m.module, nn.Module)
        ]
        through = [
            side for _, side in sorted(makers, key=lambda maker: order[maker[0]]) if _depthwise(side.layer)
        ]
        first = [side for _, side in makers if not _depthwise(side.layer)]
        last = _readers(group, order)
        if len(first) != 1 or not last or any(_strange(side) for side in [*first, *last]):
            continue
        stages = [tuple(first), *((side,) for side in through), tuple(last)]
        for at in range(len(stages) - 1):
            yield _Pair(group.channels, stages[at], stages[at + 1])


def _readers(group: Group, order: dict[str, int]) -> list[_Side]:
    return [
        _Side(m.module, m.index, m.root, 1)
        for m in group.members
        if m.side == "in" and isinstance(m.module, nn.Module) and m.layer in order
    ]


def _depthwise(module: object) -> bool:
    return isinstance(module, CONVOLUTION) and module.groups == module.in_channels == module.out_channels > 1


def _strange(side: _Side) -> bool:
    """Grouped layers, whose inputs are counted within a slice, and transposed ones."""
    return isinstance(side.layer, CONVOLUTION) and (side.layer.groups > 1 or side.layer.transposed)


# ---- what all of them need


def _answers(model: nn.Module, shape: Sequence[int]) -> Tensor:
    """What the network makes of ordinary images, and of very bright ones."""
    with ready(model), torch.no_grad():
        images = example(model, shape)
        answers: Tensor = torch.cat([model(images), model(LOUD * images)])
        return answers


def _agree(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(a.abs().max()))


def _means(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Mean output of each channel of each layer, (channels,), in the order in which layers run first."""
    names: dict[nn.Module, str] = {
        module: name for name, module in model.named_modules() if isinstance(module, (CONVOLUTION, nn.Linear))
    }
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def note(module: nn.Module, _: object, output: Tensor) -> None:
        name = names[module]
        flat = (
            (output.transpose(1, -1) if isinstance(module, CONVOLUTION) else output).flatten(0, -2).double()
        )
        sums[name] = sums.get(name, torch.zeros(())) + flat.sum(0)
        counts[name] = counts.get(name, 0) + len(flat)

    hooks = [module.register_forward_hook(note) for module in names]
    try:
        with ready(model), torch.no_grad():
            for batch in torch.split(images.to(_device(model)), BATCH):
                model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: (sums[name] / counts[name]).float() for name in sums}


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters(), torch.zeros(())).device
