"""Published networks: points of their spaces, with their published numbers of weights and multiply-adds."""

import pytest

from nasflow import names
from nasflow.evaluators import counts
from nasflow.spaces import darts, mobile, nasbench101, published
from nasflow.spaces.published import PUBLISHED

IMAGENET = (3, 224, 224)
LISTS = {  # what the mobile space has to offer so that both MobileNets are in it
    "mobilenet-v1-like": {
        "strides": [1, 2, 2, 2, 2],
        "widths": [[64], [128], [256], [512], [1024]],
        "heads": [0],
    },
    "mobilenet-v2-like": {
        "strides": [1, 2, 2, 2, 1, 2, 1],
        "widths": [[16], [24], [32], [64], [96], [160], [320]],
        "heads": [1280],
    },
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_the_published_ones(name: str) -> None:
    one = PUBLISHED[name]
    network = names.resolve("space", one.space).build(one.point, one.shape, one.classes)
    if one.params is not None:
        exact = one.params % 1000 != 0
        assert abs(counts.params(network) - one.params) <= (0 if exact else 500)
    if one.flops is not None:
        assert counts.flops(network, one.shape) == one.flops


@pytest.mark.parametrize("name", [name for name, one in PUBLISHED.items() if one.space != "mobile"])
def test_they_are_points_of_their_space_as_it_is_published(name: str) -> None:
    one = PUBLISHED[name]
    assert one.point in names.resolve("space", one.space).space(one.shape, one.classes)


@pytest.mark.parametrize("name", LISTS)
def test_mobile_nets_are_points_of_the_mobile_space_with_their_options(name: str) -> None:
    one = PUBLISHED[name]
    space = mobile.space(
        one.shape, one.classes, resolutions=[1.0], stems=[32], stem_strides=[2], depths=[1, 2, 3, 4, 6],
        expansions=[1, 6], kernels=[3], activations=["relu"], squeezes=[False], **LISTS[name],
    )  # fmt: skip
    assert one.point in space


def test_points_are_found_by_the_name_of_their_space() -> None:
    assert set(published.points("darts")) == {"darts-v1", "darts-v2"}
    assert published.points("training") == {}
    with pytest.raises(names.UnknownName, match="did you mean 'darts'"):
        published.points("dart")


def test_points_are_copies() -> None:
    published.points("darts")["darts-v1"].clear()
    assert published.points("darts")["darts-v1"]


def test_within_a_space_what_it_fixes_is_taken_from_it() -> None:
    small = darts.space((1, 8, 8), 10, cells=3, channels=4)
    found = published.points("darts", small)
    assert set(found) == {"darts-v1", "darts-v2"}
    assert all(point in small and point["channels"] == 4 for point in found.values())
    first = published.points("darts")["darts-v1"]
    assert {key for key in first if found["darts-v1"][key] != first[key]} == {"cells", "channels"}


def test_what_a_network_does_is_never_changed() -> None:
    assert published.points("darts", darts.space((1, 8, 8), 10, operations=["skip_connect"])) == {}
    halved_once = LISTS["mobilenet-v1-like"] | {"strides": [1, 1, 1, 1, 2]}
    space = mobile.space((3, 32, 32), 10, stems=[32], depths=[1, 2, 6], expansions=[1], **halved_once)
    point = published.points("mobile", space)["mobilenet-v1-like"]
    assert [point["stem.stride"], point["stage2.stride"], point["stage5.stride"]] == [2, 1, 2]
    assert published.points("mobile", mobile.space((3, 32, 32), 10, **halved_once)) == {}


def test_points_that_a_space_does_not_have_are_left_out() -> None:
    some = darts.space(
        (1, 8, 8), 10, operations=["sep_conv_3x3", "skip_connect", "max_pool_3x3", "avg_pool_3x3"]
    )
    assert set(published.points("darts", some)) == {"darts-v1"}
    assert published.points("nasbench101", nasbench101.space((1, 8, 8), 10, vertices=5)) == {}
    assert published.points("mobile", mobile.space(IMAGENET, 1000)) == {}
