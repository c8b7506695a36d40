"""The contracts of nasflow's nouns as pytest classes: subclass one, name your plug-in, and it is held to the noun.

    from nasflow.testing import StrategyContract, StrategyUnderTest

    class TestMine(StrategyContract):
        @pytest.fixture
        def strategy(self) -> StrategyUnderTest:
            return StrategyUnderTest(my_strategy, other={"population": 12})

Needs pytest, which nasflow itself does not. The contract of compression, which needs torch too, is imported from
nasflow.testing.compression.
"""

import pytest

# Before the classes are imported: failing asserts in them then show their values, as they do in test files.
pytest.register_assert_rewrite(
    "nasflow.testing.compression",
    "nasflow.testing.spaces",
    "nasflow.testing.strategies",
    "nasflow.testing.transports",
)

from nasflow.testing.spaces import NetworkSpaceContract, SpaceContract, SpaceUnderTest  # noqa: E402
from nasflow.testing.strategies import StrategyContract, StrategyUnderTest  # noqa: E402
from nasflow.testing.toys import Toy, joint, networks  # noqa: E402
from nasflow.testing.transports import TransportContract, TransportUnderTest  # noqa: E402

__all__ = [
    "NetworkSpaceContract",
    "SpaceContract",
    "SpaceUnderTest",
    "StrategyContract",
    "StrategyUnderTest",
    "Toy",
    "TransportContract",
    "TransportUnderTest",
    "joint",
    "networks",
]
