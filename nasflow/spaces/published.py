"""Networks that were published, as points of the spaces: to start a search from, and to compare with.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nasflow import names
from nasflow.space import Choice, Point, Space
from nasflow.spaces import darts, nasbench101, nasbench201

# Last parts of the names of choices that say how a network is put together.
AROUND = {"cells", "channels", "modules", "resolution", "stacks", "stages", "stem", "stride"}


@dataclass(frozen=True)
class Published:
    """A point of the space of this name; `params`, and `flops` as multiply-adds, are those that were published for
    images of `shape` and so many classes, None where they were not."""

    space: str
    point: Point
    source: str
    shape: tuple[int, int, int]
    classes: int
    params: int | None = None
    flops: int | None = None


def points(space: str, within: Space | None = None) -> dict[str, Point]:
    """Published networks of the space of this name, by theirs.

    With a space of networks `within`, only those that are points of it. Where it fixes how a network is put together
    (how many cells, say, or where the image is halved), they take its value first, so that a published cell is found
    in smaller networks, too. Raises UnknownName.

    >>> list(points("darts"))
    ['darts-v1', 'darts-v2']
    >>> small = darts.space((1, 8, 8), 10, cells=3, channels=4)
    >>> points("darts", small)["darts-v2"]["cells"]
    3
    """
    names.check("space", space)
    found = {name: dict(one.point) for name, one in PUBLISHED.items() if one.space == space}
    if within is None:
        return found
    fixed = {
        p.name: p.options[0]
        for p in within.parameters
        if isinstance(p, Choice) and len(p.options) == 1 and p.name.rpartition(".")[2] in AROUND
    }
    fitted = {
        name: {key: fixed.get(key, value) for key, value in point.items()} for name, point in found.items()
    }
    return {name: point for name, point in fitted.items() if point in within}


def _mobile(stem: int, stages: Sequence[tuple[int, int, int, int]], head: int) -> Point:
    """A point of the mobile space for large images; `stages` are (depth, width, stride, expansion)."""
    point: Point = {"resolution": 1.0, "stem.width": stem, "stem.stride": 2}
    for k, (depth, width, stride, expansion) in enumerate(stages, start=1):
        own = {"depth": depth, "width": width, "stride": stride, "expansion": expansion, "kernel": 3}
        point |= {f"stage{k}.{name}": value for name, value in own.items()}
        point |= {f"stage{k}.activation": "relu", f"stage{k}.squeeze": False}
    return {**point, "head.width": head}


_DARTS_V1 = {
    "normal": [
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 0), ("sep_conv_3x3", 1),
        ("skip_connect", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 2),
    ],
    "reduce": [
        ("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 0),
        ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("avg_pool_3x3", 0),
    ],
}  # fmt: skip

_DARTS_V2 = {
    "normal": [
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2),
    ],
    "reduce": [
        ("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1),
        ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1),
    ],
}  # fmt: skip

CIFAR, IMAGENET = ((3, 32, 32), 10), ((3, 224, 224), 1000)

PUBLISHED = {
    "darts-v1": Published(
        "darts", darts.from_genotype(_DARTS_V1), "github.com/quark0/darts, first order search", *CIFAR
    ),
    "darts-v2": Published(
        "darts",
        darts.from_genotype(_DARTS_V2),
        "github.com/quark0/darts, second order search",
        *CIFAR,
        params=3_349_000,
    ),
    "inception-like": Published(
        "nasbench101",
        nasbench101.point_of(
            [(0, 1), (0, 2), (0, 3), (0, 5), (1, 6), (2, 6), (3, 4), (4, 6), (5, 6)],
            ["conv1x1", "conv3x3", "conv3x3", "conv3x3", "maxpool3x3"],
        ),
        "github.com/google-research/nasbench, the example of its README",
        *CIFAR,
        params=2_694_282,
    ),
    "best-cifar100": Published(
        "nasbench201",
        nasbench201.from_arch_string(
            "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
        ),
        "github.com/D-X-Y/AutoDL-Projects, best on the validation part of CIFAR-100",
        *CIFAR,
    ),
    # The original has an activation after each 1x1 convolution and adds nothing; its counts are the same.
    "mobilenet-v1-like": Published(
        "mobile",
        _mobile(32, [(1, 64, 1, 1), (2, 128, 2, 1), (2, 256, 2, 1), (6, 512, 2, 1), (2, 1024, 2, 1)], 0),
        "Howard et al., 2017, arXiv:1704.04861",
        *IMAGENET,
        params=4_231_976,
        flops=568_740_352,
    ),
    # The original caps its activations at 6.
    "mobilenet-v2-like": Published(
        "mobile",
        _mobile(
            32,
            [
                (1, 16, 1, 1), (2, 24, 2, 6), (3, 32, 2, 6), (4, 64, 2, 6), (3, 96, 1, 6), (3, 160, 2, 6),
                (1, 320, 1, 6),
            ],
            1280,
        ),
        "Sandler et al., 2018, arXiv:1801.04381; counted by torchvision",
        *IMAGENET,
        params=3_504_872,
    ),
}  # fmt: skip
