"""Compression beside an architecture, as choices that exist for every one of them."""

import doctest

import numpy as np
import pytest
import torch
from networks import SHAPE, grouped, mobile, residual, trained

from nasflow.compression import joint
from nasflow.compression.groups import trace
from nasflow.evaluators.counts import params
from nasflow.network import Architecture, Part
from nasflow.space import SpaceError


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(joint).failed == 0


def policy(*shares: float, int8: bool = False):
    return {
        **{f"compression.keep.{n + 1}": share for n, share in enumerate(shares)},
        "compression.int8": int8,
    }


def test_all_kept_is_the_network_itself():
    model = trained(residual)
    assert joint.apply(policy(1.0, 1.0, 1.0, 1.0), model, SHAPE) is model
    assert joint.apply({}, model, SHAPE) is model


@pytest.mark.parametrize("make", [residual, mobile, grouped])
def test_less_kept_is_a_smaller_network_that_runs_and_the_original_is_untouched(make):
    model = trained(make)
    before = params(model)
    half = joint.apply(policy(0.5, 0.5, 0.5, 0.5), model, SHAPE)
    assert params(half) < before == params(model)
    assert half.eval()(torch.zeros(2, *SHAPE)).shape == model.eval()(torch.zeros(2, *SHAPE)).shape


def test_each_quarter_has_its_own_share_in_multiples_of_eight():
    model = trained(residual)
    whole = {group.name: group.channels for group in trace(model, SHAPE).groups}
    names = list(whole)
    for quarter in range(joint.QUARTERS):
        shares = [0.5 if n == quarter else 1.0 for n in range(joint.QUARTERS)]
        pruned = {
            group.name: group.channels
            for group in trace(joint.apply(policy(*shares), model, SHAPE), SHAPE).groups
        }
        for at, name in enumerate(names):
            if at * joint.QUARTERS // len(names) == quarter:
                assert pruned[name] == min(whole[name], max(1, round(whole[name] / 16)) * 8)
            else:
                assert pruned[name] == whole[name]


def test_it_is_a_factor_of_a_product_for_every_architecture():
    architecture = Architecture((Part("mobile"), Part("compression", {"keep": [0.5, 1.0]})), (3, 16, 16), 5)
    space = architecture.space()
    point = space.sample(np.random.default_rng(0))
    assert point in space and {name for name in point if name.startswith("compression.")} == set(
        policy(1, 1, 1, 1)
    )
    small, large = (params(architecture.build({**point, **policy(*[share] * 4)})) for share in (0.5, 1.0))
    assert small < large


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"keep": []}, "shares to keep"),
        ({"keep": [0.0, 1.0]}, "shares to keep"),
        ({"keep": ["half"]}, "shares to keep"),
        ({"int8": []}, "int8 as a list"),
        ({"int8": [1]}, "int8 as a list"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(given, message):
    with pytest.raises(SpaceError, match=message):
        joint.space(**given)
