"""Every built-in space keeps the contract of spaces."""

import functools

import pytest
from torch import nn

from nasflow import names
from nasflow.compression import joint
from nasflow.spaces import darts, mobile, nasbench101, nasbench201, nats, ofa, training
from nasflow.testing import NetworkSpaceContract, SpaceContract, SpaceUnderTest
from nasflow.training import Recipe

NETWORKS = {
    "darts": SpaceUnderTest(
        darts.space((1, 8, 8), 10, cells=3, channels=2),
        functools.partial(darts.build, shape=(1, 8, 8), classes=10),
        shape=(1, 8, 8),
        classes=10,
    ),
    "darts, the other stem and odd sizes": SpaceUnderTest(
        darts.space(
            (3, 15, 9), 3, operations=["skip_connect", "dil_conv_3x3"], cells=4, channels=3, stem="imagenet"
        ),
        functools.partial(darts.build, shape=(3, 15, 9), classes=3),
        shape=(3, 15, 9),
        classes=3,
    ),
    "mobile": SpaceUnderTest(
        mobile.space((1, 8, 8), 10),
        functools.partial(mobile.build, shape=(1, 8, 8), classes=10),
        shape=(1, 8, 8),
        classes=10,
    ),
    "mobile, other data": SpaceUnderTest(
        mobile.space((3, 12, 10), 3, stages=2, depths=[0, 2], expansions=[1, 2]),
        functools.partial(mobile.build, shape=(3, 12, 10), classes=3),
        shape=(3, 12, 10),
        classes=3,
    ),
    "nasbench101": SpaceUnderTest(
        nasbench101.space((1, 8, 8), 10, channels=8, stacks=2, modules=1),
        functools.partial(nasbench101.build, shape=(1, 8, 8), classes=10),
        shape=(1, 8, 8),
        classes=10,
    ),
    "nasbench101, five vertices and odd sizes": SpaceUnderTest(
        nasbench101.space(
            (3, 7, 5), 3, vertices=5, operations=["conv1x1", "maxpool3x3"], channels=7, modules=1
        ),
        functools.partial(nasbench101.build, shape=(3, 7, 5), classes=3),
        shape=(3, 7, 5),
        classes=3,
    ),
    "nasbench201": SpaceUnderTest(
        nasbench201.space((1, 8, 8), 10, cells=1, channels=4),
        functools.partial(nasbench201.build, shape=(1, 8, 8), classes=10),
        shape=(1, 8, 8),
        classes=10,
    ),
    "nasbench201, three operations and odd sizes": SpaceUnderTest(
        nasbench201.space(
            (3, 7, 5), 3, operations=["skip_connect", "avg_pool_3x3", "nor_conv_3x3"], cells=2, channels=2
        ),
        functools.partial(nasbench201.build, shape=(3, 7, 5), classes=3),
        shape=(3, 7, 5),
        classes=3,
    ),
    "nats-size": SpaceUnderTest(
        nats.space((1, 8, 8), 10),
        functools.partial(nats.build, shape=(1, 8, 8), classes=10),
        shape=(1, 8, 8),
        classes=10,
    ),
    "nats-size, odd sizes": SpaceUnderTest(
        nats.space((3, 7, 5), 3, widths=[2, 3]),
        functools.partial(nats.build, shape=(3, 7, 5), classes=3),
        shape=(3, 7, 5),
        classes=3,
    ),
    "ofa-mobilenetv3": SpaceUnderTest(
        ofa.space((1, 8, 8), 10, widths=[0.1, 0.25], depths=[1, 3], expansions=[3, 6]),
        functools.partial(ofa.build, shape=(1, 8, 8), classes=10),
        shape=(1, 8, 8),
        classes=10,
    ),
    "ofa-mobilenetv3, shallow and odd sizes": SpaceUnderTest(
        ofa.space((3, 13, 9), 3, widths=[0.1], depths=[1, 2], expansions=[1, 2], resolutions=[0.5, 1.0]),
        functools.partial(ofa.build, shape=(3, 13, 9), classes=3),
        shape=(3, 13, 9),
        classes=3,
    ),
}
OTHERS = {
    "compression": SpaceUnderTest(
        joint.space(),
        functools.partial(
            joint.apply,
            model=nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3)),
            shape=(3, 8, 8),
        ),
    ),
    "training": SpaceUnderTest(training.space(), functools.partial(training.recipe, base=Recipe())),
}


def test_no_built_in_space_is_missing_from_the_table():
    assert {name.partition(",")[0] for name in (*NETWORKS, *OTHERS)} == set(names.TABLES["space"])


class TestNetworkSpaces(NetworkSpaceContract):
    @pytest.fixture(params=sorted(NETWORKS))
    def under_test(self, request: pytest.FixtureRequest) -> SpaceUnderTest:
        return NETWORKS[request.param]


class TestOtherSpaces(SpaceContract):
    @pytest.fixture(params=sorted(OTHERS))
    def under_test(self, request: pytest.FixtureRequest) -> SpaceUnderTest:
        return OTHERS[request.param]
