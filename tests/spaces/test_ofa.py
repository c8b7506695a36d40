"""What the ofa-mobilenetv3 space promises, beyond the contract of spaces."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from nasflow.compression import prune
from nasflow.evaluators import counts
from nasflow.space import Point, Space, SpaceError
from nasflow.spaces import ofa
from nasflow.spaces.mobile import Resize
from nasflow.spaces.ofa_network import InvertedResidual, SqueezeExcite

SMALL = (1, 8, 8)
LARGE = (3, 224, 224)


def corner(space: Space, at: int) -> Point:
    return {parameter.name: parameter.options[at] for parameter in space.parameters}


def blocks(network: nn.Module) -> dict[str, InvertedResidual]:
    return dict(network.blocks.named_children())


def test_a_space_costs_no_torch() -> None:
    code = "import sys; from nasflow.spaces import ofa; ofa.space((3, 32, 32), 10); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_the_published_space_has_more_than_ten_to_the_nineteen_networks() -> None:
    """Of a stage: (9**2 + 9**3 + 9**4), as blocks that are not there do not count."""
    space = ofa.space(LARGE, 1000, resolutions=[1.0])
    assert space.size == (3 * 9**4) ** 5
    assert (9**2 + 9**3 + 9**4) ** 5 > 1e19


def test_blocks_that_are_not_there_have_one_canonical_form() -> None:
    space, rng = ofa.space(SMALL, 10), np.random.default_rng(0)
    for point in (space.sample(rng) | {"stage2.depth": 2} for _ in range(20)):
        folded = space.canonical(point)
        gone = [f"stage2.block{b}.{what}" for b in (3, 4) for what in ("expansion", "kernel")]
        assert [folded[name] for name in gone] == [3, 3, 3, 3]
        kept = [name for name in point if name.startswith("stage2.") and name not in gone]
        assert all(folded[name] == point[name] for name in kept)
    full = corner(space, -1)
    assert space.canonical(full) == full


def test_the_largest_network_is_as_published() -> None:
    """Channels, strides, activations and squeeze-excites by stage; kernels and expansions are the point's."""
    network = ofa.build(corner(ofa.space(LARGE, 1000), -1), LARGE, 1000)
    found = blocks(network)
    assert len(found) == 1 + 5 * 4
    firsts = [found[f"stage{stage}_1"].layers for stage in ofa.STAGES]
    assert [layers.project[0].out_channels for layers in firsts] == [24, 40, 80, 112, 160]
    assert [layers.depthwise[0].stride for layers in firsts] == [(2, 2), (2, 2), (2, 2), (1, 1), (2, 2)]
    assert [type(layers.depthwise[2]) for layers in firsts] == [nn.ReLU] * 2 + [nn.Hardswish] * 3
    assert [hasattr(layers, "squeeze") for layers in firsts] == [False, True, False, True, True]
    assert {layers.depthwise[0].kernel_size for layers in firsts} == {(7, 7)}
    assert firsts[4].expand[0].out_channels == 6 * 112
    assert (network.stem[0].out_channels, network.stem[0].stride) == (16, (2, 2))
    assert (network.last[0].out_channels, network.mix[0].out_channels) == (960, 1280)
    assert [name for name, block in found.items() if not block.residual] == [
        f"stage{k}_1" for k in ofa.STAGES
    ]


def test_the_wide_network_of_evoxbench_is_where_it_says() -> None:
    """Lu et al. (IEEE TEVC 2023) give these widths, and 4.610 to 10.198 million weights on their front."""
    space = ofa.space(LARGE, 1000, widths=[1.2])
    smallest = ofa.build(corner(space, 0), LARGE, 1000)
    widths = [block.layers.project[0].out_channels for block in blocks(smallest).values()]
    assert widths[::2] == [24, 32, 48, 96, 136, 192]
    assert (smallest.last[0].out_channels, smallest.mix[0].out_channels) == (1152, 1536)
    assert counts.params(smallest) == pytest.approx(4_610_136, rel=0.002)
    assert counts.params(smallest) < 4_610_136
    assert counts.params(ofa.build(corner(space, -1), LARGE, 1000)) > 10_197_992


def test_resolutions_are_the_sides_of_evoxbench_on_images_of_224() -> None:
    assert [round(224 * share) for share in ofa.RESOLUTIONS] == [160, 176, 192, 208, 224]
    assert ofa.space(LARGE, 10)["resolution"].options == ofa.RESOLUTIONS
    assert ofa.space(SMALL, 10)["resolution"].options == (0.786, 0.929, 1.0)  # 6, 7 and 8 pixels
    space = ofa.space(SMALL, 10, resolutions=[0.5, 1], depths=[1], widths=[0.1])
    resized = [m for m in ofa.build(corner(space, 0), SMALL, 10) if isinstance(m, Resize)]
    assert [m.size for m in resized] == [(4, 4)]
    assert not [m for m in ofa.build(corner(space, -1), SMALL, 10) if isinstance(m, Resize)]


@pytest.mark.parametrize(
    ("side", "strides"),
    [
        (8, (1, 1, 1, 2, 1, 2)),
        (24, (1, 1, 2, 2, 1, 2)),
        (48, (1, 2, 2, 2, 1, 2)),
        (112, (2, 2, 2, 2, 1, 2)),
    ],
)
def test_smaller_images_are_halved_less_and_later(side: int, strides: tuple[int, ...]) -> None:
    space = ofa.space((3, side, side + 10), 10)
    names = ["stem.stride", *(f"stage{k}.stride" for k in ofa.STAGES)]
    assert tuple(space[name].options[0] for name in names) == strides
    given = ofa.space((3, side, side), 10, strides=[2, 1, 1, 1, 1, 1])
    assert [given[name].options[0] for name in names] == [2, 1, 1, 1, 1, 1]


def test_squeeze_excite_keeps_a_quarter_of_the_channels_in_eights() -> None:
    assert [SqueezeExcite(n).factors[1].out_channels for n in (16, 72, 120, 672)] == [8, 24, 32, 168]


def test_features_count_the_blocks_that_are_there() -> None:
    space = ofa.space(SMALL, 10)
    point = corner(space, 0) | {"stage1.depth": 3, "stage1.block3.kernel": 7, "stage2.block4.kernel": 7}
    found = ofa.features(point)
    assert found[:6] == [3, 9, 13, 2, 6, 6]
    assert found[15:] == [11, 33, 37]
    assert space.describe(point) == space.describe(space.canonical(point))


def test_channels_can_be_removed() -> None:
    network = ofa.build(corner(ofa.space(SMALL, 10, depths=[1, 2], widths=[0.25]), -1), SMALL, 10).eval()
    policies = prune.space(network, SMALL, round_to=1, keep=(0.5, 1.0))
    half = prune.apply(prune.uniform(policies, 0.5), network, SMALL)
    with torch.no_grad():
        assert half(torch.zeros(2, *SMALL)).shape == (2, 10)
    assert sum(p.numel() for p in half.parameters()) < 0.5 * sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depths": [0, 2]}, "each of depths is a whole number of at least 1"),
        ({"depths": 2}, "depths is a list of numbers"),
        ({"expansions": []}, "expansions is a list"),
        ({"kernels": [3, 4]}, "kernels have odd sides"),
        ({"resolutions": [1.5]}, "resolutions are a list of numbers above 0 and at most 1"),
        ({"widths": [0]}, "widths are a list of numbers above 0, got"),
        ({"widths": "1"}, "widths are a list"),
        ({"strides": [2, 2]}, "strides are 6 numbers"),
        ({"strides": [2, 2, 2, 2, 1, 0]}, "each of strides is a whole number"),
    ],
)
def test_impossible_settings_are_told(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        ofa.space(SMALL, 10, **settings)  # type: ignore[arg-type]


def test_impossible_tasks_are_told() -> None:
    with pytest.raises(SpaceError, match="ofa-mobilenetv3 space: shape is"):
        ofa.space((8, 8), 10)
    with pytest.raises(SpaceError, match="at least 2 classes"):
        ofa.space(SMALL, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage1.depth": 0}, "stage1.depth is a whole number of at least 1"),
        ({"stage1.depth": 5}, "'stage1.block5.expansion' is missing"),
        ({"stage2.block1.kernel": 3.0}, "stage2.block1.kernel is a whole number"),
        ({"resolution": 0}, "resolution is a number above 0"),
        ({"width": True}, "width is a number above 0"),
    ],
)
def test_values_that_no_network_has_are_told(change: Point, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        ofa.build(corner(ofa.space(SMALL, 10), -1) | change, SMALL, 10)


def test_a_point_fits_other_data() -> None:
    point = corner(ofa.space(SMALL, 10, depths=[1], widths=[0.1]), -1)
    with torch.no_grad():
        assert ofa.build(point, (3, 20, 12), 4).eval()(torch.zeros(2, 3, 20, 12)).shape == (2, 4)
