"""What the mobile space promises."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nasflow.compression import prune
from nasflow.export import parity, to_onnx
from nasflow.space import Point, Space, SpaceError
from nasflow.spaces import mobile

torch.set_num_threads(1)

SMALL = (1, 8, 8)
SHAPES = [SMALL, (3, 8, 8), (1, 12, 20), (3, 16, 16), (1, 28, 28), (3, 32, 32), (3, 64, 48), (3, 96, 96)]


def samples(space: Space, count: int, seed: int = 0) -> list[Point]:
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(count)]


def corner(space: Space, at: int) -> Point:
    return {parameter.name: parameter.options[at] for parameter in space.parameters}


def answer(point: Point, shape: tuple[int, ...], classes: int = 10) -> torch.Tensor:
    network = mobile.build(point, shape, classes).eval()
    with torch.no_grad():
        return network(torch.randn(2, *shape))


def count(point: Point, shape: tuple[int, ...] = SMALL) -> int:
    return sum(parameter.numel() for parameter in mobile.build(point, shape, 10).parameters())


def layers(point: Point, shape: tuple[int, ...], kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in mobile.build(point, shape, 10).modules() if isinstance(module, kind)]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_networks_that_answer(shape: tuple[int, ...]) -> None:
    space = mobile.space(shape, 7)
    for point in [corner(space, 0), corner(space, -1), *samples(space, 6)]:
        assert point in space
        assert answer(point, shape, 7).shape == (2, 7)


def test_networks_for_large_images_answer() -> None:
    space = mobile.space((3, 224, 224), 5)
    assert answer(samples(space, 1)[0], (3, 224, 224), 5).shape == (2, 5)


def test_fifty_points_of_the_smallest_space_run_and_use_every_option() -> None:
    space = mobile.space(SMALL, 10)
    points = samples(space, 50)
    for point in points:
        assert bool(answer(point, SMALL).isfinite().all())
    for parameter in space.parameters:
        assert {point[parameter.name] for point in points} == set(parameter.options), parameter.name


def test_the_smallest_space_holds_a_thousand_to_some_ten_thousand_parameters() -> None:
    space = mobile.space(SMALL, 10)
    counts = [count(point) for point in samples(space, 40)]
    assert count(corner(space, 0)) < 1_000 < min(counts)
    assert max(counts) < 60_000
    assert count(corner(space, -1)) < 80_000


def test_larger_images_get_more_stages() -> None:
    def stages(side: int) -> int:
        return sum(p.name.endswith(".depth") for p in mobile.space((3, side, side), 10).parameters)

    assert [stages(side) for side in (8, 16, 32, 64, 224)] == [3, 3, 4, 5, 6]


@pytest.mark.parametrize(("shape", "side"), [(SMALL, 2), ((1, 28, 28), 4), ((3, 224, 224), 7)])
def test_the_last_map_keeps_an_image_to_look_at(shape: tuple[int, int, int], side: int) -> None:
    space = mobile.space(shape, 10, resolutions=[1.0])
    network = mobile.build(corner(space, -1) | {"stem.stride": 2 if shape[1] > 100 else 1}, shape, 10)
    seen = []
    network.blocks.register_forward_hook(lambda _, __, result: seen.append(result.shape[2:]))
    with torch.no_grad():
        network.eval()(torch.zeros(1, *shape))
    assert seen == [(side, side)]


def test_a_point_means_the_same_network_after_json_and_in_any_order() -> None:
    space = mobile.space(SMALL, 10)
    for point in samples(space, 10):
        read = json.loads(json.dumps(dict(reversed(point.items()))))
        assert read in space
        assert space.key(read) == space.key(point)


def test_a_stage_without_blocks_has_one_canonical_point() -> None:
    space = mobile.space(SMALL, 10)
    points = [point | {"stage3.depth": 0} for point in samples(space, 60)]
    folded = [space.canonical(point) for point in points]
    assert all(point in space for point in folded)
    rest = [{name: v for name, v in point.items() if name.startswith("stage3.")} for point in folded]
    assert all(values == rest[0] for values in rest)
    for point, fold in list(zip(points, folded, strict=True))[:5]:
        assert count(point) == count(fold)
        assert {k: v for k, v in point.items() if not k.startswith("stage3.")} == {
            k: v for k, v in fold.items() if not k.startswith("stage3.")
        }
    there = samples(space, 1)[0] | {"stage3.depth": 1}
    assert space.canonical(there) == there


def test_only_stages_whose_absence_costs_nothing_but_depth_may_vanish() -> None:
    space = mobile.space((3, 224, 224), 10)
    may = [k for k in range(1, 7) if 0 in space[f"stage{k}.depth"].options]
    assert may == [5, 6]
    assert [space[f"stage{k}.stride"].options[0] for k in (1, *may)] == [1, 1, 2]


@pytest.mark.parametrize(
    ("name", "low", "high", "kind"),
    [
        ("stage2.depth", 1, 3, mobile.InvertedResidual),
        ("stage1.activation", "relu", "hardswish", nn.Hardswish),
        ("stage2.squeeze", False, True, mobile.SqueezeExcite),
        ("stage1.expansion", 1, 3, nn.Conv2d),
        ("head.width", 0, 64, nn.Conv2d),
        ("resolution", 1.0, 0.75, mobile.Resize),
    ],
)
def test_choices_add_layers(name: str, low: object, high: object, kind: type[nn.Module]) -> None:
    base = corner(mobile.space(SMALL, 10), 0) | {"resolution": 1.0}
    without, with_ = (len(layers(base | {name: value}, SMALL, kind)) for value in (low, high))
    assert without < with_


@pytest.mark.parametrize("name", ["stem.width", "stage1.width", "stage2.kernel", "stage2.expansion"])
def test_choices_add_parameters(name: str) -> None:
    space = mobile.space(SMALL, 10)
    base, options = corner(space, 0), space[name].options
    counts = [count(base | {name: option}) for option in options]
    assert len(counts) > 1
    assert all(a < b for a, b in pairwise(counts))


def test_activations_of_stem_and_head_follow_the_first_and_last_stage() -> None:
    relu = corner(mobile.space(SMALL, 10, activations=["relu"]), -1)
    assert layers(relu, SMALL, nn.Hardswish) == []
    network = mobile.build(relu | {"stage3.depth": 0, "stage2.activation": "hardswish"}, SMALL, 10)
    assert isinstance(network.stem[-1], nn.ReLU)
    assert isinstance(network.head[-1], nn.Hardswish)


def test_blocks_that_can_be_left_out_say_so() -> None:
    space = mobile.space(SMALL, 10)
    network = mobile.build(corner(space, -1), SMALL, 10)
    blocks = dict(network.blocks.named_children())
    assert [name for name, block in blocks.items() if not block.residual] == ["stage2_1", "stage3_1"]
    x = torch.randn(2, 16, 8, 8)
    block = blocks["stage1_2"].eval()
    assert torch.equal(block(x), x + block.layers(x))


def test_first_weights_follow_the_generator() -> None:
    point = samples(mobile.space(SMALL, 10), 1)[0]
    torch.manual_seed(3)
    a, b = mobile.build(point, SMALL, 10), mobile.build(point, SMALL, 10)
    torch.manual_seed(3)
    c = mobile.build(point, SMALL, 10)
    assert torch.equal(a.classifier.weight, c.classifier.weight)
    assert not torch.equal(a.classifier.weight, b.classifier.weight)


def test_a_point_fits_other_data() -> None:
    point = corner(mobile.space(SMALL, 10), -1)
    assert answer(point, (3, 32, 32), 4).shape == (2, 4)


def test_parts_of_a_product_that_are_not_architecture_are_ignored() -> None:
    point = samples(mobile.space(SMALL, 10), 1)[0]
    assert count(point) == count(point | {"train.batch_size": 32})


def test_settings_replace_what_follows_the_image() -> None:
    space = mobile.space(
        (3, 32, 32), 10, stages=3, resolutions=[1], stems=[24], stem_strides=[2], strides=[1, 2, 2],
        widths=[[16], [24, 40], [40]], depths=[2], expansions=[3], kernels=[7], activations=["relu"],
        squeezes=[False], heads=[72],
    )  # fmt: skip
    assert space.size == 2
    point = samples(space, 1)[0] | {"stage2.width": 40}
    assert len(point) == 3 + 3 * 7 + 1
    network = mobile.build(point, (3, 32, 32), 10)
    assert network.stem[0].out_channels == 24
    assert network.classifier.in_features == 72
    assert {c.kernel_size for c in network.blocks.modules() if isinstance(c, nn.Conv2d)} == {(1, 1), (7, 7)}


def test_more_stages_than_usual_repeat_the_last_without_stride() -> None:
    space = mobile.space(SMALL, 10, stages=5)
    assert [space[f"stage{k}.stride"].options for k in (3, 4, 5)] == [(2,), (1,), (1,)]
    assert space["stage5.width"].options == space["stage3.width"].options
    assert 0 in space["stage4.depth"].options


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stages": 0}, "1 or more stages"),
        ({"widths": [[16]], "strides": [1, 2]}, "one entry for each"),
        ({"strides": [1, 0]}, "at least 1, got"),
        ({"depths": [0]}, "above 0"),
        ({"depths": []}, "a list of numbers"),
        ({"kernels": [4]}, "odd sides"),
        ({"kernels": "35"}, "a list of numbers"),
        ({"activations": ["tanh"]}, "among"),
        ({"squeezes": []}, "among"),
        ({"resolutions": [0.0]}, "above 0 and at most 1"),
        ({"resolutions": []}, "above 0 and at most 1"),
        ({"heads": [-1]}, "at least 0"),
        ({"stems": [8.5]}, "whole numbers"),
    ],
)
def test_impossible_settings_are_told(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        mobile.space(SMALL, 10, **settings)  # type: ignore[arg-type]


def test_impossible_tasks_are_told() -> None:
    with pytest.raises(SpaceError, match="channels, height, width"):
        mobile.space((8, 8), 10)
    with pytest.raises(SpaceError, match="2 classes"):
        mobile.space(SMALL, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage1.width": "16"}, "stage1.width is a whole number"),
        ({"stage2.activation": "tanh"}, "stage2.activation is one of"),
        ({"resolution": 0}, "resolution is a number above 0"),
        ({"stage1.depth": 0, "stage2.depth": 0, "stage3.depth": 0}, "a stage of depth 1"),
    ],
)
def test_values_that_no_network_has_are_told(change: Point, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        mobile.build(corner(mobile.space(SMALL, 10), -1) | change, SMALL, 10)


def test_what_a_point_lacks_is_told() -> None:
    point = corner(mobile.space(SMALL, 10), -1)
    del point["stage2.kernel"]
    with pytest.raises(SpaceError, match=r"'stage2\.kernel' is missing"):
        mobile.build(point, SMALL, 10)


def test_a_larger_stack_is_wider_and_deeper_where_there_are_stages() -> None:
    point = corner(mobile.space(SMALL, 10), 0)
    grown = mobile.larger(point, width=2.0, depth=1)
    assert (grown["stage1.width"], grown["stage1.depth"], grown["stage3.depth"]) == (16, 2, 0)
    assert grown["head.width"] == 0
    assert count(grown) > 2 * count(point)
    assert mobile.larger(point) == point


def test_networks_become_files_that_answer_alike(tmp_path: Path) -> None:
    space = mobile.space(SMALL, 10)
    everything = corner(space, -1) | {"resolution": 0.75}
    for i, point in enumerate([corner(space, 0), everything, *samples(space, 3)]):
        network = mobile.build(point, SMALL, 10).eval()
        file = tmp_path / f"{i}.onnx"
        to_onnx(network, SMALL, file)
        images = np.random.default_rng(i).standard_normal((5, *SMALL)).astype(np.float32)
        parity(network, file, images).check(1e-4)


def test_channels_and_blocks_can_be_removed() -> None:
    space = mobile.space(SMALL, 10, stages=2, depths=[2])
    point = corner(space, -1) | {"resolution": 1.0}
    network = mobile.build(point, SMALL, 10).eval()
    policies = prune.space(network, SMALL, round_to=8, keep=(0.5, 1.0))
    half = prune.apply(prune.uniform(policies, 0.5), network, SMALL)
    with torch.no_grad():
        assert half(torch.zeros(2, *SMALL)).shape == (2, 10)
    assert sum(p.numel() for p in half.parameters()) < 0.5 * count(point)
    names = {parameter.name for parameter in policies.parameters}
    for name, block in network.blocks.named_children():
        assert (f"block.blocks.{name}" in names) is block.residual
