"""Every way to compress a network keeps the contract of compression."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

import nasflow.compression
from nasflow.compression import criteria, layers, precision, prune
from nasflow.compression.criteria import Criterion
from nasflow.compression.fakequant import simulate
from nasflow.compression.gradients import fisher, gather
from nasflow.data import Data, Preprocess, Split, digest
from nasflow.space import Point, Space
from nasflow.testing.compression import CompressionContract, CompressionUnderTest
from nasflow.testing.small_networks import HARDER, NETWORKS, SHAPE

torch.set_num_threads(1)

RNG = np.random.default_rng(0)
IMAGES = Split(RNG.integers(0, 255, (8, *SHAPE), dtype=np.uint8), np.arange(8) % 5)
DATA = Data(
    "noise", IMAGES, IMAGES, tuple("abcde"), Preprocess(1 / 255, (0.5,) * 3, (0.3,) * 3), (), {},
    digest(IMAGES, IMAGES),
)  # fmt: skip

MULTIPLES = {"round_to": 4, "keep": (1.0, 0.75, 0.5)}
ONE = {"mobile": NETWORKS["mobile"]}
FEW = {**ONE, "concatenated": NETWORKS["concatenated"], "transformer": HARDER["transformer"]}
FOUND: dict[tuple[object, ...], Space] = {}  # finding what can be pruned is what takes time


def channels_and_blocks(model: nn.Module, shape) -> Space:
    key = tuple((name, value.shape) for name, value in model.state_dict().items())
    if key not in FOUND:
        FOUND[key] = prune.space(model, shape, **MULTIPLES)
    return FOUND[key]


def channels(model: nn.Module, shape) -> Space:
    kept = [p for p in channels_and_blocks(model, shape).parameters if p.name.startswith(prune.CHANNELS)]
    return Space(tuple(kept))


def all_stay(space: Space) -> Point:
    return prune.uniform(space, 1.0)


def counted(policy: Point, model: nn.Module, shape) -> float:
    found = layers.layers(model, shape)
    return layers.parameters(found, layers.kept(found, policy))


def of_the_made_one(policy: Point, model: nn.Module, shape) -> float:
    """Blocks are counted on what is left of them: no arithmetic does without tracing."""
    return layers.parameters(layers.layers(prune.apply(policy, model, shape), shape))


def by(criterion: Callable[[nn.Module], Criterion]) -> CompressionUnderTest:
    def apply(policy: Point, model: nn.Module, shape) -> nn.Module:
        return prune.apply(policy, model, shape, criterion=criterion(model))

    return CompressionUnderTest(channels, apply, all_stay, counted, ONE)


def of_all(policy: Point, model: nn.Module, shape) -> float:
    return sum(parameter.numel() for parameter in model.parameters())


def rounded(policy: Point, model: nn.Module, shape, **how) -> nn.Module:
    images = torch.from_numpy(DATA.preprocess(DATA.train.x))
    return simulate(policy, model, shape, images, **how)


def in_bits(**how) -> CompressionUnderTest:
    return CompressionUnderTest(
        functools.partial(precision.space, bits=(2, 4, 32), edges=None),
        functools.partial(rounded, **how),
        lambda space: {parameter.name: 32 for parameter in space.parameters},
        functools.partial(_parameters_in_bits, **how),
        FEW,
    )


def _parameters_in_bits(policy: Point, model: nn.Module, shape, **how) -> float:
    """Those of the network, and the steps that training learns."""
    learned = sum(p.numel() for p in rounded(policy, model, shape, **how).parameters()) if how else 0
    return learned or of_all(policy, model, shape)


METHODS = {
    "prune": CompressionUnderTest(channels_and_blocks, prune.apply, all_stay, of_the_made_one),
    "prune, l1": by(lambda model: criteria.l1),
    "prune, l2": by(lambda model: criteria.l2),
    "prune, bn_scale": by(lambda model: criteria.bn_scale),
    "prune, fpgm": by(lambda model: criteria.fpgm),
    "prune, group_magnitude": by(lambda model: criteria.group_magnitude),
    "prune, lamp": by(lambda model: criteria.lamp),
    "prune, taylor": by(lambda model: criteria.taylor(gather(model, DATA, batch=4))),
    "prune, group_taylor": by(lambda model: criteria.group_taylor(gather(model, DATA, batch=4))),
    "prune, hessian": by(lambda model: criteria.hessian(fisher(model, DATA))),
    "prune, random": by(lambda model: criteria.random(0)),
    "prune, relative": by(lambda model: criteria.relative(criteria.l1)),
    "fakequant": in_bits(),
    "fakequant, lsq": in_bits(qat="lsq"),
    "fakequant, pact": in_bits(qat="pact"),
}
PAIRS = [(method, network) for method, under_test in METHODS.items() for network in under_test.networks]
# Other files with a function `apply` or `simulate`, and which test holds them to what they promise.
ELSEWHERE = {"joint": "tests/compression/test_joint.py"}


def test_no_criterion_is_missing_from_the_table():
    public = {name for name, thing in vars(criteria).items()
              if inspect.isfunction(thing) and thing.__module__ == criteria.__name__ and name[0] != "_"}  # fmt: skip
    assert public - {"filters"} == {name.partition(", ")[2] for name in METHODS if "prune, " in name}


def test_no_way_to_compress_is_missing_from_the_table():
    ways = set()
    for found in pkgutil.iter_modules(nasflow.compression.__path__):
        module = importlib.import_module(f"nasflow.compression.{found.name}")
        own = {name for name, thing in vars(module).items()
               if inspect.isfunction(thing) and thing.__module__ == module.__name__}  # fmt: skip
        ways |= {found.name} if own & {"apply", "simulate"} else set()
    assert ways - ELSEWHERE.keys() == {name.partition(",")[0] for name in METHODS}


class TestCompression(CompressionContract):
    @pytest.fixture(params=PAIRS, ids=lambda pair: f"{pair[0]}-{pair[1]}")
    def pair(self, request: pytest.FixtureRequest) -> tuple[str, str]:
        return request.param

    @pytest.fixture
    def under_test(self, pair) -> CompressionUnderTest:
        return METHODS[pair[0]]

    @pytest.fixture
    def make(self, pair):
        return METHODS[pair[0]].networks[pair[1]]
