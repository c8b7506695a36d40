"""The `nats-size` space: how wide a network is, layer by layer (Dong et al., TPAMI 2021, arXiv:2009.00437).

The network is that of NAS-Bench-201 with a single cell in each stage, and always the same cell, the one that did best
on the validation part of CIFAR-100:

    |nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|

A point says the channels of its five layers: `width1` those of the stem and the first cell, `width2` of the first
residual block that halves the image, `width3` of the second cell, `width4` of the second halving block, `width5` of the
third cell. Written as a string they are "16:32:32:64:64", say.

A space costs no torch: the networks are in nats_network.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nasflow.space import Choice, Point, Scalar, Space, SpaceError
from nasflow.spaces import checks

if TYPE_CHECKING:
    from torch import nn

WIDTHS = (8, 16, 24, 32, 40, 48, 56, 64)
NAMES = ("width1", "width2", "width3", "width4", "width5")
SPACE, POINT = "nats-size space", "point of the nats-size space"


def space(shape: Sequence[int], classes: int, *, widths: Sequence[int] = WIDTHS) -> Space:
    """The networks for images of `shape` (channels, height, width) whose layers have one of `widths` channels.

    >>> space((3, 32, 32), 10).size
    32768
    """
    checks.task(SPACE, shape, classes)
    offered = checks.wholes(SPACE, "widths", widths, 1)
    return Space(tuple(Choice(name, offered, ordered=True) for name in NAMES))


def build(point: Mapping[str, Scalar], shape: Sequence[int], classes: int) -> nn.Module:
    """The network of `point`: images (batch, *shape) in, logits (batch, classes) out.

    Weights are drawn from torch's global generator. Keys that are not of this space are ignored.
    """
    from nasflow.spaces.nats_network import network

    checks.task(POINT, shape, classes)
    return network(_widths(point), shape[0], classes)


def size_string(point: Mapping[str, Scalar]) -> str:
    """The published form of a point.

    >>> size_string(from_size_string("16:32:32:64:64"))
    '16:32:32:64:64'
    """
    return ":".join(str(width) for width in _widths(point))


def from_size_string(text: str) -> Point:
    """The point that is written as `text`, such as "16:32:32:64:64"."""
    parts = text.split(":")
    if len(parts) != len(NAMES) or not all(part.isascii() and part.isdigit() for part in parts):
        raise SpaceError(f"{SPACE}: expected five numbers such as 16:32:32:64:64, got {text!r}")
    point: Point = {name: int(part) for name, part in zip(NAMES, parts, strict=True)}
    _widths(point)
    return point


def _widths(point: Mapping[str, Scalar]) -> list[int]:
    return [checks.said_whole(POINT, point, name, 1) for name in NAMES]
