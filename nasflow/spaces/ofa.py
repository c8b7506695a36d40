"""The `ofa-mobilenetv3` space: blocks chosen one by one (Cai et al., ICLR 2020, arXiv:1908.09791).

The network is that of once-for-all: a stem, a first block without choices, five stages of 2, 3 or 4 inverted
residuals, a 1x1 convolution, the mean over the image, another 1x1 convolution and one linear layer. Its later stages
use hard swish, the second, fourth and fifth weigh their channels by the whole image, as in MobileNetV3 (Howard et
al., 2019, arXiv:1905.02244). A point says, with `K` from 1 to 5 and `B` from 1 to 4:

    resolution                share of the input's height and width that the network sees
    stageK.depth              blocks that the stage has
    stageK.blockB.expansion   channels inside the block, as a multiple of those that enter it
    stageK.blockB.kernel      side of the depthwise kernel
    stageK.stride             of its first block        stem.stride   of the stem
    width                     all channels, as a multiple of the published ones, rounded to multiples of 8

Points that differ only in blocks that are not there fold to one. Once-for-all trains all of them at once; here each
is a network of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nasflow.space import Choice, Point, Scalar, Space, SpaceError
from nasflow.spaces import checks

if TYPE_CHECKING:
    from torch import nn

STAGES = (1, 2, 3, 4, 5)
HALVING = (2, 2, 2, 1, 2)  # strides of the stages, for large images; the stem's is 2, too
SIDES = (
    (112, 5),
    (48, 4),
    (24, 3),
    (1, 2),
)  # pixels of the shorter side, and how often such images are halved
RESOLUTIONS = (0.714, 0.786, 0.857, 0.929, 1.0)  # of 224 pixels: 160, 176, 192, 208, 224
SPACE, POINT = "ofa-mobilenetv3 space", "point of the ofa-mobilenetv3 space"


def space(
    shape: Sequence[int],
    classes: int,
    *,
    resolutions: Sequence[float] = RESOLUTIONS,
    depths: Sequence[int] = (2, 3, 4),
    expansions: Sequence[int] = (3, 4, 6),
    kernels: Sequence[int] = (3, 5, 7),
    widths: Sequence[float] = (1.0,),
    strides: Sequence[int] | None = None,
) -> Space:
    """The networks for images of `shape` (channels, height, width).

    `strides` are those of the stem and the five stages. If they are not given, images of 112 pixels and more are
    halved as published, five times in all; smaller ones less often, and as late as possible. Other settings
    list the options of a choice; the defaults are the published ones, with the resolutions of EvoXBench, of which
    those that round to the same pixels are offered once.

    >>> small = space((1, 8, 8), 10, depths=[1, 2], resolutions=[1.0])
    >>> small["stage1.stride"].options, small["stage3.stride"].options, small["stage2.depth"].options
    ((1,), (2,), (1, 2))
    """
    checks.task(SPACE, shape, classes)
    stem, *of_stages = _strides(shape) if strides is None else _given(strides)
    shared = (
        ("expansion", checks.wholes(SPACE, "expansions", expansions, 1)),
        ("kernel", checks.wholes(SPACE, "kernels", kernels, 1)),
    )
    if any(side % 2 == 0 for side in shared[1][1]):
        raise SpaceError(f"{SPACE}: kernels have odd sides, got {list(kernels)}")
    offered = checks.wholes(SPACE, "depths", depths, 1)
    seen = {_size(share, shape): share for share in _shares("resolutions", resolutions, 1.0)}
    choices = [
        Choice("resolution", tuple(seen.values()), ordered=True),
        Choice("width", _shares("widths", widths, float("inf")), ordered=True),
        Choice("stem.stride", (stem,)),
    ]
    for stage, stride in zip(STAGES, of_stages, strict=True):
        choices.append(Choice(f"stage{stage}.depth", offered, ordered=True))
        choices.append(Choice(f"stage{stage}.stride", (stride,)))
        for block, (name, options) in itertools.product(range(1, offered[-1] + 1), shared):
            choices.append(Choice(f"stage{stage}.block{block}.{name}", options, ordered=True))
    return Space(tuple(choices), (Shortened(shared[0][1][0], shared[1][1][0]),), (features,))


@dataclass(frozen=True)
class Shortened:
    """Fold: blocks beyond the depth of their stage are not there, so they get this expansion and kernel."""

    expansion: int
    kernel: int

    def __call__(self, point: Point) -> Point:
        folded = dict(point)
        for stage in STAGES:
            block = checks.said_whole(POINT, point, f"stage{stage}.depth", 1) + 1
            while f"stage{stage}.block{block}.kernel" in point:
                folded[f"stage{stage}.block{block}.expansion"] = self.expansion
                folded[f"stage{stage}.block{block}.kernel"] = self.kernel
                block += 1
        return folded


@dataclass(frozen=True)
class Block:
    """One inverted residual, in numbers."""

    expansion: int
    kernel: int
    stride: int


def features(point: Mapping[str, Scalar]) -> list[float]:
    """What is seen of the blocks that are there: their number, and the sums of their expansions and of their kernels,
    for each stage and, last, for all: 18 numbers."""
    found = [
        [float(len(blocks)), float(sum(b.expansion for b in blocks)), float(sum(b.kernel for b in blocks))]
        for blocks in _stages(point)
    ]
    return [*itertools.chain(*found), *(sum(column) for column in zip(*found, strict=True))]


def build(point: Mapping[str, Scalar], shape: Sequence[int], classes: int) -> nn.Module:
    """The network of `point`: images (batch, *shape) in, logits (batch, classes) out.

    Weights are drawn from torch's global generator. Keys that are not of this space are ignored.
    """
    from nasflow.spaces.ofa_network import network

    checks.task(POINT, shape, classes)
    return network(
        _stages(point),
        shape,
        _size(_share(point, "resolution"), shape),
        classes,
        width=_share(point, "width"),
        stem_stride=checks.said_whole(POINT, point, "stem.stride", 1),
    )


def _stages(point: Mapping[str, Scalar]) -> list[list[Block]]:
    """The blocks that are there, by stage."""

    def said(name: str) -> int:
        return checks.said_whole(POINT, point, name, 1)

    return [
        [
            Block(
                said(f"stage{stage}.block{block}.expansion"),
                said(f"stage{stage}.block{block}.kernel"),
                said(f"stage{stage}.stride") if block == 1 else 1,
            )
            for block in range(1, 1 + said(f"stage{stage}.depth"))
        ]
        for stage in STAGES
    ]


def _size(share: float, shape: Sequence[int]) -> tuple[int, int]:
    """Height and width that the network sees."""
    return max(1, round(share * shape[1])), max(1, round(share * shape[2]))


def _strides(shape: Sequence[int]) -> list[int]:
    """Strides of the stem and the stages: 2 in the last places where the published network has them."""
    halvings = next(times for side, times in SIDES if min(shape[1:]) >= side)
    strides = [2, *HALVING]
    places = [place for place, stride in enumerate(strides) if stride == 2]
    for place in places[: len(places) - halvings]:
        strides[place] = 1
    return strides


def _given(strides: Sequence[int]) -> Sequence[int]:
    if not isinstance(strides, Sequence) or isinstance(strides, str) or len(strides) != 1 + len(STAGES):
        raise SpaceError(
            f"{SPACE}: strides are 6 numbers, of the stem and of the five stages, got {strides!r}"
        )
    return [checks.whole(SPACE, "each of strides", stride, 1) for stride in strides]


def _shares(name: str, values: object, most: float) -> tuple[float, ...]:
    if (
        not isinstance(values, Sequence)
        or isinstance(values, str)
        or not values
        or any(isinstance(v, bool) or not isinstance(v, (int, float)) or not 0 < v <= most for v in values)
    ):
        top = "" if most == float("inf") else f" and at most {most:g}"
        raise SpaceError(f"{SPACE}: {name} are a list of numbers above 0{top}, got {values!r}")
    return tuple(sorted({float(value) for value in values}))


def _share(point: Mapping[str, Scalar], name: str) -> float:
    value = checks.said(POINT, point, name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise SpaceError(f"{POINT}: {name} is a number above 0, got {value!r}")
    return float(value)
