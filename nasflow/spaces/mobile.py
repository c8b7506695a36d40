"""The `mobile` space: small image networks made of stages of inverted residuals, for inputs of any size.

A network is: an optional shrinking of the input, a stem convolution, stages of like blocks, an optional
1x1 convolution (the head), the mean over the image and one linear layer. The blocks are those of MobileNetV2
and V3 (Sandler et al., 2018, arXiv:1801.04381; Howard et al., 2019, arXiv:1905.02244), the choices those of
once-for-all (Cai et al., 2020, arXiv:1908.09791), but one per stage where that has one per block.

Names of the choices, `K` counting from 1:

    resolution          share of the input's height and width that the network sees, so that a point means
                        the same network whatever data it is later trained on
    stem.width          channels after the stem          stem.stride        1, or 2 to halve the image at once
    stageK.depth        blocks; 0: the stage is left out
    stageK.width        channels that leave the stage    stageK.stride      of its first block
    stageK.expansion    channels inside a block, as a multiple of those that enter it
    stageK.kernel       side of the depthwise kernel
    stageK.activation   relu or hardswish; the stem takes that of the first stage, the head of the last
    stageK.squeeze      whether blocks weigh their channels by the whole image (squeeze-excite)
    head.width          channels before the linear layer; 0: no head

A point is complete: what a setting fixes is a choice with one option.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional

from nasflow.space import Choice, Point, Scalar, Space, SpaceError

Entry = TypeVar("Entry")

SQUEEZE = 4  # squeeze-excite keeps one channel in four, as in MobileNetV3
MULTIPLE = 8  # channel counts that are made here are multiples of this: vector units are at least that wide


@dataclass(frozen=True)
class Layout:
    """What the space offers by default to inputs whose shorter side is at least `side` pixels."""

    side: int
    stem_strides: tuple[int, ...]
    stems: tuple[int, ...]
    strides: tuple[int, ...]
    widths: tuple[tuple[int, ...], ...]
    expansions: tuple[int, ...]
    heads: tuple[int, ...]


# Strides leave a last map of 2x2 (8x8 inputs) to 7x7 (224x224): less is no image, more costs time.
LAYOUTS = (
    Layout(112, (2,), (16, 24), (1, 2, 2, 2, 1, 2),
           ((16, 24), (24, 32), (32, 48), (64, 80, 96), (96, 112), (160, 192)), (3, 4, 6), (320, 640, 960)),
    Layout(48, (2,), (16, 24), (1, 2, 2, 2, 1),
           ((16, 24), (24, 32), (32, 48, 64), (64, 96), (96, 128)), (2, 4, 6), (0, 160, 320)),
    Layout(24, (1, 2), (16,), (1, 2, 2, 2),
           ((16, 24), (24, 32), (32, 48, 64), (48, 64, 96)), (1, 2, 4), (0, 128)),
    Layout(12, (1,), (16,), (1, 2, 2), ((16, 24), (24, 32), (32, 48, 64)), (1, 2, 4), (0, 96)),
    Layout(1, (1,), (8, 16), (1, 2, 2), ((8, 16), (16, 24), (24, 32)), (1, 2, 3), (0, 64)),
)  # fmt: skip

ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "hardswish": nn.Hardswish}


def space(
    shape: Sequence[int],
    classes: int,
    *,
    stages: int | None = None,
    resolutions: Sequence[float] = (0.75, 1.0),
    stems: Sequence[int] | None = None,
    stem_strides: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    widths: Sequence[Sequence[int]] | None = None,
    depths: Sequence[int] = (0, 1, 2, 3),
    expansions: Sequence[int] | None = None,
    kernels: Sequence[int] = (3, 5),
    activations: Sequence[str] = ("relu", "hardswish"),
    squeezes: Sequence[bool] = (False, True),
    heads: Sequence[int] | None = None,
) -> Space:
    """The networks for images of `shape` (channels, height, width); what is not set follows the shorter side.

    Settings list the options of a choice, for all stages alike, except `strides`, which has one number per
    stage, and `widths`, which has one list of options per stage. More `stages` than the default repeat its
    last one, without stride. Depth 0 is offered to the stages that may vanish: the last one, and those that
    keep the size of the image, the first excepted.

    >>> small = space((1, 8, 8), 10, kernels=[3])
    >>> small["stage1.depth"].options, small["stage3.depth"].options, small["stage2.kernel"].options
    ((1, 2, 3), (0, 1, 2, 3), (3,))
    """
    _check_task(shape, classes)
    layout = next(layout for layout in LAYOUTS if min(shape[1:]) >= layout.side)
    if stages is None:
        stages = len(widths or strides or layout.strides)
    if stages < 1 or any(given is not None and len(given) != stages for given in (strides, widths)):
        raise SpaceError(
            "mobile space: strides and widths have one entry for each of 1 or more stages, "
            f"got {stages} stages, strides {strides} and widths {widths}"
        )
    strides = _repeated(layout.strides, stages, 1) if strides is None else strides
    widths = _repeated(layout.widths, stages, layout.widths[-1]) if widths is None else widths
    for stride in strides:
        _numbers("strides", [stride], 1)
    depths = _numbers("depths", depths, 0)
    if depths == (0,):
        raise SpaceError("mobile space: depths need a number above 0, got only 0")
    if any(side % 2 == 0 for side in _numbers("kernels", kernels, 1)):
        raise SpaceError(f"mobile space: kernels have odd sides, got {list(kernels)}")
    shared = (  # what every stage chooses from
        ("expansion", _numbers("expansions", expansions or layout.expansions, 1), True),
        ("kernel", _numbers("kernels", kernels, 1), True),
        ("activation", _among("activations", activations, tuple(ACTIVATIONS)), False),
        ("squeeze", _among("squeezes", squeezes, (False, True)), False),
    )
    choices = [
        Choice("resolution", _shares(resolutions), ordered=True),
        Choice("stem.width", _numbers("stems", stems or layout.stems, 1), ordered=True),
        Choice("stem.stride", _numbers("stem_strides", stem_strides or layout.stem_strides, 1), ordered=True),
    ]
    folds = []
    for k, (stride, options) in enumerate(zip(strides, widths, strict=True), start=1):
        stage = f"stage{k}"
        may_vanish = k > 1 and (stride == 1 or k == stages)
        depth = Choice(f"{stage}.depth", tuple(d for d in depths if d or may_vanish), ordered=True)
        rest = (
            Choice(f"{stage}.width", _numbers(f"widths of stage {k}", options, 1), ordered=True),
            Choice(f"{stage}.stride", (stride,)),
            *(Choice(f"{stage}.{name}", values, ordered) for name, values, ordered in shared),
        )
        choices += [depth, *rest]
        if 0 in depth.options:
            folds.append(Vanished(stage, tuple((choice.name, choice.options[0]) for choice in rest)))
    choices.append(Choice("head.width", _numbers("heads", heads or layout.heads, 0), ordered=True))
    return Space(tuple(choices), tuple(folds))


@dataclass(frozen=True)
class Vanished:
    """Fold: where `stage` has no blocks its other choices mean nothing, so they get the values in `rest`."""

    stage: str
    rest: tuple[tuple[str, Scalar], ...]

    def __call__(self, point: Point) -> Point:
        return {**point, **dict(self.rest)} if point[f"{self.stage}.depth"] == 0 else point


def build(point: Mapping[str, Scalar], shape: Sequence[int], classes: int) -> nn.Module:
    """The network of `point`: images (batch, *shape) in, logits (batch, classes) out.

    Weights are drawn from torch's global generator. Keys that are not of this space are ignored; values need
    not be among a space's options: `larger` makes points beyond every space.
    """
    _check_task(shape, classes)
    stages = [f"stage{k}" for k in range(1, 1 + sum(name.endswith(".depth") for name in point))]
    present = [stage for stage in stages if _count(point, f"{stage}.depth")]
    if not present:
        raise SpaceError(f"point of the mobile space: expected a stage of depth 1 or more, got {dict(point)}")
    stem = _count(point, "stem.width")
    width = stem
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    for stage in present:
        for i in range(_count(point, f"{stage}.depth")):
            outputs = _count(point, f"{stage}.width")
            blocks[f"{stage}_{i + 1}"] = InvertedResidual(
                width,
                outputs,
                stride=_count(point, f"{stage}.stride") if i == 0 else 1,
                expansion=_count(point, f"{stage}.expansion"),
                kernel=_count(point, f"{stage}.kernel"),
                activation=_activation(point, f"{stage}.activation"),
                squeeze=bool(_value(point, f"{stage}.squeeze")),
            )
            width = outputs
    first, last = (_activation(point, f"{stage}.activation") for stage in (present[0], present[-1]))
    head = _count(point, "head.width")

    layers: OrderedDict[str, nn.Module] = OrderedDict()
    size = _size(point, shape)
    if size != tuple(shape[1:]):
        layers["resize"] = Resize(size)
    layers["stem"] = _convolution(shape[0], stem, 3, stride=_count(point, "stem.stride"), activation=first)
    layers["blocks"] = nn.Sequential(blocks)
    if head:
        layers["head"] = _convolution(width, head, 1, activation=last)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(head or width, classes)
    return nn.Sequential(layers)


def larger(point: Mapping[str, Scalar], *, width: float = 1.0, depth: int = 0) -> Point:
    """The point of a network `width` times as wide whose every stage that is there has `depth` more blocks.

    It takes what a search found on small images or little data to a larger stack.

    >>> larger({"stage1.depth": 1, "stage1.width": 16, "stage2.depth": 0}, width=1.5, depth=2)
    {'stage1.depth': 3, 'stage1.width': 24, 'stage2.depth': 0}
    """

    def grown(name: str, value: Scalar) -> Scalar:
        if isinstance(value, int) and name.endswith(".width") and value:
            return _rounded(value * width)
        if isinstance(value, int) and name.endswith(".depth") and value:
            return max(1, value + depth)
        return value

    return {name: grown(name, value) for name, value in point.items()}


class InvertedResidual(nn.Module):
    """The block: widen by a 1x1 convolution, mix neighbours in the image channel by channel, narrow again.

    `residual` says that its input is added to its output: shapes agree, so a network fits together without it.
    With `expansion` 1 there is no widening, as in MobileNetV2.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        stride: int,
        expansion: int,
        kernel: int,
        activation: Callable[[], nn.Module],
        squeeze: bool,
    ) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        middle = inputs * expansion
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if expansion > 1:
            layers["expand"] = _convolution(inputs, middle, 1, activation=activation)
        layers["depthwise"] = _convolution(
            middle, middle, kernel, stride=stride, groups=middle, activation=activation
        )
        if squeeze:
            layers["squeeze"] = SqueezeExcite(middle)
        layers["project"] = _convolution(middle, outputs, 1)
        self.layers = nn.Sequential(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + y if self.residual else y


class SqueezeExcite(nn.Module):
    """Weigh each channel by a factor in [0, 1] that a small network finds from the means of all channels.

    Hu et al., 2018 (arXiv:1709.01507), with MobileNetV3's hard sigmoid.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = _rounded(channels / SQUEEZE)
        self.factors = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        factors: torch.Tensor = self.factors(x)
        return x * factors


class Resize(nn.Module):
    """Bring images to `size` (height, width) by bilinear interpolation."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(x, size=self.size, mode="bilinear", align_corners=False)


def _convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] | None = None,
) -> nn.Sequential:
    """Convolution, batch normalisation and, unless it ends a block, an activation."""
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([] if activation is None else [activation()]))


def _rounded(channels: float) -> int:
    return max(MULTIPLE, round(channels / MULTIPLE) * MULTIPLE)


def _check_task(shape: Sequence[int], classes: int) -> None:
    if len(shape) != 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise SpaceError(f"mobile space: shape is (channels, height, width), all above 0, got {tuple(shape)}")
    if classes < 2:
        raise SpaceError(f"mobile space: expected at least 2 classes to tell apart, got {classes}")


# ---- what a point says


def _value(point: Mapping[str, Scalar], name: str) -> Scalar:
    if name not in point:
        raise SpaceError(f"point of the mobile space: {name!r} is missing, got only {sorted(point)}")
    return point[name]


def _count(point: Mapping[str, Scalar], name: str) -> int:
    value = _value(point, name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise SpaceError(f"point of the mobile space: {name} is a whole number of at least 0, got {value!r}")
    return value


def _size(point: Mapping[str, Scalar], shape: Sequence[int]) -> tuple[int, int]:
    """Height and width that the network sees."""
    share = _value(point, "resolution")
    if isinstance(share, bool) or not isinstance(share, (int, float)) or share <= 0:
        raise SpaceError(f"point of the mobile space: resolution is a number above 0, got {share!r}")
    return max(1, round(share * shape[1])), max(1, round(share * shape[2]))


def _activation(point: Mapping[str, Scalar], name: str) -> Callable[[], nn.Module]:
    value = _value(point, name)
    if value not in ACTIVATIONS:
        raise SpaceError(f"point of the mobile space: {name} is one of {list(ACTIVATIONS)}, got {value!r}")
    return ACTIVATIONS[str(value)]


# ---- what a setting says


def _numbers(name: str, values: Sequence[int], least: int) -> tuple[int, ...]:
    """`values` as options: whole numbers of at least `least`, ascending, each once."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise SpaceError(f"mobile space: {name} is a list of numbers, got {values!r}")
    if any(isinstance(n, bool) or not isinstance(n, int) or n < least for n in values):
        raise SpaceError(f"mobile space: {name} are whole numbers of at least {least}, got {list(values)}")
    return tuple(sorted(set(values)))


def _shares(values: Sequence[float]) -> tuple[float, ...]:
    if not values or any(
        isinstance(v, bool) or not isinstance(v, (int, float)) or not 0 < v <= 1 for v in values
    ):
        raise SpaceError(
            "mobile space: resolutions are shares of the input's sides, above 0 and at most 1, "
            f"got {values!r}"
        )
    return tuple(sorted({float(value) for value in values}))


def _among(name: str, values: Sequence[Scalar], known: tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    if not isinstance(values, Sequence) or not values or any(value not in known for value in values):
        raise SpaceError(f"mobile space: {name} are among {list(known)}, got {values!r}")
    return tuple(option for option in known if option in values)


def _repeated(values: tuple[Entry, ...], count: int, last: Entry) -> tuple[Entry, ...]:
    """The first `count` of `values`, with `last` for those that are missing."""
    return (values + (last,) * count)[:count]
