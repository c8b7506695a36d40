"""The networks of the `ofa-mobilenetv3` space, as published with once-for-all (Cai et al., ICLR 2020,
arXiv:1908.09791)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import nn

from nasflow.spaces.mobile import Resize
from nasflow.spaces.ofa import Block

STEM, LAST, MIX = (
    16,
    960,
    1280,
)  # channels after the stem and the first block, after the stages, before the classifier
WIDTHS = (24, 40, 80, 112, 160)
ACTIVATIONS = (nn.ReLU, nn.ReLU, nn.Hardswish, nn.Hardswish, nn.Hardswish)
SQUEEZES = (False, True, False, True, True)
MULTIPLE = 8  # all channel counts are multiples of this
SQUEEZE = 4  # squeeze-excite keeps one channel in four


def network(
    stages: Sequence[Sequence[Block]],
    shape: Sequence[int],
    size: tuple[int, int],
    classes: int,
    width: float,
    stem_stride: int,
) -> nn.Module:
    """For images of `shape` (channels, height, width), seen in `size` (height, width)."""
    channels = divisible(STEM * width)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if size != tuple(shape[1:]):
        layers["resize"] = Resize(size)
    layers["stem"] = convolution(shape[0], channels, 3, stride=stem_stride, activation=nn.Hardswish)
    blocks: OrderedDict[str, nn.Module] = OrderedDict()
    blocks["first"] = InvertedResidual(channels, channels, Block(1, 3, 1), nn.ReLU, squeeze=False)
    for number, stage in enumerate(stages):
        outputs = divisible(WIDTHS[number] * width)
        for place, block in enumerate(stage, start=1):
            blocks[f"stage{number + 1}_{place}"] = InvertedResidual(
                channels, outputs, block, ACTIVATIONS[number], SQUEEZES[number]
            )
            channels = outputs
    layers["blocks"] = nn.Sequential(blocks)
    last, mixed = divisible(LAST * width), divisible(MIX * width)
    layers["last"] = convolution(channels, last, 1, activation=nn.Hardswish)
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["mix"] = nn.Sequential(nn.Conv2d(last, mixed, 1, bias=False), nn.Hardswish())
    layers["flatten"] = nn.Flatten()
    layers["classifier"] = nn.Linear(mixed, classes)
    return nn.Sequential(layers)


class InvertedResidual(nn.Module):
    """Widen by a 1x1 convolution, mix neighbours channel by channel, narrow again; `residual` says that the input is
    added, as the shapes agree."""

    def __init__(
        self, inputs: int, outputs: int, block: Block, activation: Callable[[], nn.Module], squeeze: bool
    ) -> None:
        super().__init__()
        self.residual = block.stride == 1 and inputs == outputs
        middle = divisible(inputs * block.expansion)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if block.expansion > 1:
            layers["expand"] = convolution(inputs, middle, 1, activation=activation)
        layers["depthwise"] = convolution(
            middle, middle, block.kernel, stride=block.stride, groups=middle, activation=activation
        )
        if squeeze:
            layers["squeeze"] = SqueezeExcite(middle)
        layers["project"] = convolution(middle, outputs, 1)
        self.layers = nn.Sequential(layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return x + y if self.residual else y


class SqueezeExcite(nn.Module):
    """Weigh each channel by a factor in [0, 1] that a small network finds from the means of all channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = divisible(channels // SQUEEZE)
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


def divisible(channels: float) -> int:
    """The multiple of 8 next to `channels`, at least 8, and never less than nine tenths of it.

    >>> divisible(16 * 1.2), divisible(24 * 1.2), divisible(18), divisible(3)
    (24, 32, 24, 8)
    """
    rounded = max(MULTIPLE, int(channels + MULTIPLE / 2) // MULTIPLE * MULTIPLE)
    return rounded if rounded >= 0.9 * channels else rounded + MULTIPLE


def convolution(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    activation: Callable[[], nn.Module] | None = None,
) -> nn.Sequential:
    """Convolution, normalisation and, unless it ends a block, an activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        *([] if activation is None else [activation()]),
    )
