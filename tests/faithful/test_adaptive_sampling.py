"""nn-Meter's adaptive sampling: on a staircase, sampling where it errs leaves fewer kernels more than 10 % off."""

import math

import numpy as np

from nasflow.hardware import kernels
from nasflow.hardware.table import key, parsed

SIZES = {"batch": 1.0, "height": 8.0, "width": 8.0, "kernel": 1.0, "stride": 1.0, "groups": 1.0}


def drawn(count, seed):
    draw = np.random.default_rng(seed)
    channels = draw.integers(4, 97, size=(count, 2)).astype(float)
    return [key("Conv", {**SIZES, "channels_in": a, "channels_out": b}) for a, b in channels]


def staircase(names):
    """Channels are computed eight at a time."""
    steps = {
        name: [math.ceil(parsed(name)[1][side] / 8) for side in ("channels_in", "channels_out")]
        for name in names
    }
    return {name: 0.01 * a * b for name, (a, b) in steps.items()}


def share_of_bad(measured, new):
    kind = kernels.fit(measured, 0.01).kinds["Conv"]
    told = kind([kernels.sized(name) for name in new])[0]
    true = np.array(list(staircase(new).values()))
    return float((np.abs(told / true - 1) > 0.1).mean())


def test_sampling_where_it_errs_leaves_fewer_bad_predictions():
    prior, new = list(dict.fromkeys(drawn(40, seed=0))), list(dict.fromkeys(drawn(100, seed=1)))
    adaptive = kernels.sample(prior, staircase, rounds=3, neighbours=20)
    assert len(adaptive) > len(prior)
    before, after = share_of_bad(staircase(prior), new), share_of_bad(adaptive, new)
    assert after < 0.75 * before


def test_it_measures_nothing_more_where_it_does_not_err():
    def even(names):
        return {name: 0.02 + kernels.sized(name).macs / 1e6 for name in names}

    prior = list(dict.fromkeys(drawn(60, seed=0)))
    assert len(kernels.sample(prior, even, rounds=3)) < 1.2 * len(prior)


def test_neighbours_have_half_to_a_fifth_more_channels():
    draw = np.random.default_rng(0)
    name = key("Conv", {**SIZES, "channels_in": 100.0, "channels_out": 50.0})
    near = [parsed(kernels.neighbour(name, draw))[1] for _ in range(200)]
    assert {*(int(one["channels_in"]) for one in near)} <= set(range(50, 121))
    assert {*(int(one["channels_out"]) for one in near)} <= set(range(25, 61))
    assert max(one["channels_in"] for one in near) > 110 and min(one["channels_in"] for one in near) < 60
    depthwise = key("DepthwiseConv", {**SIZES, "groups": 64.0, "channels_in": 64.0, "channels_out": 64.0})
    for _ in range(20):
        sizes = parsed(kernels.neighbour(depthwise, draw))[1]
        assert sizes["groups"] == sizes["channels_in"] == sizes["channels_out"]
