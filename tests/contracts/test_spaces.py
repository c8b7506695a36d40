"""Every built-in space keeps the contract of spaces."""

import functools

import pytest

from nasflow import names
from nasflow.spaces import mobile, nasbench201, training
from nasflow.testing import NetworkSpaceContract, SpaceContract, SpaceUnderTest
from nasflow.training import Recipe

NETWORKS = {
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
}
OTHERS = {"training": SpaceUnderTest(training.space(), functools.partial(training.recipe, base=Recipe()))}


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
