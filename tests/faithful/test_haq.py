"""HAQ against its paper and code: Wang et al., 2019 (arXiv:1811.08886)."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from nasflow.compression import haq, precision
from nasflow.compression.assign import Limit
from nasflow.compression.layers import Layer, layers
from nasflow.compression.precision import PrecisionError
from nasflow.space import Point, Space

torch.set_num_threads(1)

SHAPE = (3, 8, 8)


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.ReLU(),
        nn.Conv2d(8, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def task(share: float = 0.5) -> tuple[Space, tuple[Layer, ...], Limit]:
    """Bits of a network, and a limit of so much of its bit operations in eight bits."""
    found = layers(network(), SHAPE)
    space = precision.space(network(), SHAPE)
    most = precision.bitops(found, precision.uniform(space, 8))
    return space, found, Limit("bitops", precision.layer_bitops, share * most)


def test_each_number_of_bits_has_an_equal_share_of_the_actions() -> None:
    actions = (np.arange(70_000) + 0.5) / 70_000
    counts = Counter(haq.level(float(action), 2, 8) for action in actions)
    assert counts == dict.fromkeys(range(2, 9), 10_000)


@pytest.mark.parametrize(("least", "most"), [(2, 8), (0, 6), (1, 4), (3, 8)])
def test_the_ends_are_the_fewest_and_the_most_bits(least: int, most: int) -> None:
    assert haq.level(0.0, least, most) == least
    assert haq.level(1.0, least, most) == most
    assert {haq.level(action, least, most) for action in np.linspace(0, 1, 999).tolist()} == set(
        range(least, most + 1)
    )


def test_half_way_is_even() -> None:
    """As numpy rounds in their code: of 1.5, 2.5 and 3.5, which these actions mean exactly."""
    assert [haq.level(action, 1, 4) for action in (0.25, 0.5, 0.75)] == [2, 2, 4]


def reference_walk(policy: Point, space: Space, found: tuple[Layer, ...], limit: Limit) -> Point:
    """As their code says it: strategy[-1], strategy[-2], ..., activations before weights, one bit at a time."""
    strategy = [list(precision.bits_of(layer.name, policy)) for layer in found]
    fixed = {0, len(found) - 1}

    def cost() -> float:
        return sum(limit.cost(layer, *bits) for layer, bits in zip(found, strategy, strict=True))

    while cost() > limit.most:
        for i in reversed(range(len(found))):
            for column in (1, 0):
                if i not in fixed and strategy[i][column] > 2:
                    strategy[i][column] -= 1
                if cost() <= limit.most:
                    break
            else:
                continue
            break
    told: Point = {}
    for layer, (w, a) in zip(found, strategy, strict=True):
        told |= {f"weight_bits.{layer.name}": w, f"activation_bits.{layer.name}": a}
    return told


@pytest.mark.parametrize("seed", range(6))
def test_the_walk_into_the_budget_is_theirs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    space, found, _ = task()
    most = precision.bitops(found, precision.uniform(space, 8))
    least = precision.bitops(found, precision.uniform(space, 2))
    limit = Limit("bitops", precision.layer_bitops, least + float(rng.random()) * (most - least))
    policy = space.sample(rng)
    fitted = haq.within(policy, space, found, limit)
    assert fitted in space
    assert precision.bitops(found, fitted) <= limit.most
    assert fitted == reference_walk(policy, space, found, limit)
    assert fitted == haq.within(policy, space, found, limit)


def test_bits_go_from_the_last_layer_first_inputs_before_weights() -> None:
    space, found, _ = task()
    policy = precision.uniform(space, 8)
    whole = precision.bitops(found, policy)

    def lost(operations: float) -> list[str]:
        limit = Limit("bitops", precision.layer_bitops, whole - operations)
        fitted = haq.within(policy, space, found, limit)
        return [name for name in policy if fitted[name] != policy[name]]

    last = found[3].macs * 8  # what the last layer with a choice saves with one bit less
    assert lost(0) == []
    assert lost(1) == ["activation_bits.6"]
    assert lost(last + 1) == ["weight_bits.6", "activation_bits.6"]
    assert lost(2 * last) == ["activation_bits.4", "weight_bits.6", "activation_bits.6"]


def test_the_least_budget_leaves_the_fewest_bits_and_a_smaller_one_is_refused() -> None:
    space, found, _ = task()
    fewest = precision.uniform(space, 2)
    least = precision.bitops(found, fewest)
    rng = np.random.default_rng(0)
    assert (
        haq.within(space.sample(rng), space, found, Limit("bitops", precision.layer_bitops, least)) == fewest
    )
    short = Limit("bitops", precision.layer_bitops, least - 1)
    with pytest.raises(PrecisionError, match="the least possible is"):
        haq.within(fewest, space, found, short)
    with pytest.raises(PrecisionError, match="the least possible is"):
        haq.haq(space, [], layers=found, limit=short)


def test_the_walk_sees_ten_numbers_between_0_and_1() -> None:
    space, found, limit = task()
    walk = haq.Bits(space, found, limit)
    rows = []
    while (features := walk.features()) is not None:
        rows.append(features)
        walk.take(0.5)
    seen = np.array(rows)
    assert seen.shape == (6, 10)  # the edges are not decided, two decisions for each of three layers
    assert seen.min() == 0.0
    assert seen.max() == 1.0
    assert seen[:, 0].tolist() == [1, 1, 0, 0, 0, 0]  # depthwise
    assert seen[:, 7].tolist() == [0, 0, 0.5, 0.5, 1, 1]  # number of the layer
    assert seen[:, 8].tolist() == [1.0] + [5 / 8] * 5  # bits before, of at most 8
    assert seen[:, 9].tolist() == [1, 0, 1, 0, 1, 0]  # weights, then inputs


def test_the_table_grows_with_bits_so_taking_one_away_never_costs() -> None:
    _, found, _ = task()
    for layer, (w, a) in itertools.product(found, itertools.product(range(3, 9), repeat=2)):
        for cost in (precision.layer_bitops, precision.layer_bytes):
            assert cost(layer, w - 1, a) <= cost(layer, w, a)
            assert cost(layer, w, a - 1) <= cost(layer, w, a)
