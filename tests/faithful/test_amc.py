"""AMC against its paper, He et al., 2018 (arXiv:1802.03494), and what its authors published beside it."""

import numpy as np
import pytest
import torch
from torch import nn

from nasflow.compression.amc import PRICES, ChannelWalk, Plan
from nasflow.compression.layers import Layer, Share, layers, macs, parameters
from nasflow.evaluators import counts
from nasflow.space import Choice, Space

torch.set_num_threads(1)

CAPS = {"conv": 0.8, "depthwise": 0.8, "linear": 0.98}
CHANNELS = 100


def independent(work):
    """Layers whose costs have nothing to do with each other, as in the paper's algorithm: the cost of each is its
    `work` times the share of channels left in it."""
    return [
        Layer(
            f"{at}", "conv", 1, CHANNELS, (1, 1), 1, 1, 1, 1, (1, 1), amount, False, 0,
            (Share(f"{at}", "out", CHANNELS, CHANNELS),),
        )
        for at, amount in enumerate(work)
    ]  # fmt: skip


def space(found, step=1):
    shares = tuple(count / CHANNELS for count in range(CHANNELS, 0, -step))
    return Space(tuple(Choice(f"channels.{layer.name}", shares, ordered=True) for layer in found))


def walked(work, fraction, wishes, *, step=1, fill=False):
    """The actions really taken when so large a `fraction` has to go, for those that are wished for."""
    found = independent(work)
    walk = ChannelWalk(Plan(space(found, step), found, PRICES["flops"], 1 - fraction, CAPS, fill))
    return [walk.take(wish) for wish in wishes]


# ---- the budget


def test_a_lazy_agent_is_made_to_remove_what_the_layers_after_it_cannot():
    assert walked((5, 3, 8, 2, 6), 0.5, [0.0] * 5) == pytest.approx([0, 0, 0.7, 0.8, 0.8])


def test_actions_are_bounded_as_in_the_papers_algorithm():
    rng = np.random.default_rng(0)
    for _ in range(60):
        work = rng.integers(1, 100, size=rng.integers(1, 6))
        fraction, wishes = rng.uniform(0.05, 0.75), rng.random(len(work))
        taken = walked(work, fraction, wishes)
        reduced = 0.0
        for at, wish in enumerate(wishes):
            duty = fraction * work.sum() - 0.8 * work[at + 1 :].sum() - reduced
            assert taken[at] == pytest.approx(max(min(wish, 0.8), duty / work[at]), abs=1.01 / CHANNELS)
            reduced += taken[at] * work[at]


@pytest.mark.parametrize("fill", [False, True])
def test_the_target_is_met_whatever_the_agent_wishes_and_no_cap_overstepped(fill):
    rng = np.random.default_rng(1)
    for _ in range(2000):
        work = rng.integers(1, 100, size=rng.integers(1, 5))
        fraction = rng.uniform(0.01, 0.79)
        wishes = rng.choice([0.0, 1.0, rng.random()], size=len(work))
        taken = walked(work, fraction, wishes, step=20, fill=fill)
        slack = float(np.dot(work, taken)) - fraction * work.sum()
        assert slack >= -1e-6 and max(taken) <= 0.8 + 1e-9
        if fill:  # to leave one group a step wider would break the target
            assert slack < 0.2 * max(w for w, action in zip(work, taken, strict=True) if action > 0) + 1e-6


def test_the_bound_holds_where_layers_cost_by_what_others_leave_them():
    found = layers(mobilenet_v1([16, *(32,) * 13]), (3, 32, 32))
    offered = Space(
        tuple(
            Choice(f"channels.{layer.name}", (1.0, 0.75, 0.5, 0.25), ordered=True)
            for layer in found
            if layer.makes == layer.name
        )
    )
    rng = np.random.default_rng(2)
    for fraction in (0.2, 0.5, 0.7):
        plan = Plan(offered, found, PRICES["flops"], 1 - fraction, CAPS, fill=True)
        for _ in range(10):
            walk = ChannelWalk(plan)
            while (features := walk.features()) is not None:
                assert len(features) == 11 and all(0 <= value <= 1 for value in features)
                walk.take(float(rng.random()))
            left = {
                name.removeprefix("channels."): round(share * (16 if name == "channels.0" else 32))
                for name, share in walk.point().items()
            }
            assert macs(found, left) <= (1 - fraction) * macs(found)
            wider = [
                {**left, name: count + 8 * (1 if name != "0" else 0) + 4 * (name == "0")}
                for name, count in left.items()
                if count < (16 if name == "0" else 32)
            ]
            assert any(macs(found, more) > (1 - fraction) * macs(found) for more in wider)


# ---- what was counted


def mobilenet_v1(widths):
    """Howard et al., 2017 (arXiv:1704.04861), table 1, with other widths."""

    def convolution(inputs, outputs, stride, groups=1, kernel=3):
        return [
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]

    found, width = convolution(3, widths[0], 2), widths[0]
    strides = [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    for outputs, stride in zip(widths[1:], strides, strict=True):
        found += convolution(width, width, stride, groups=width) + convolution(width, outputs, 1, kernel=1)
        width = outputs
    return nn.Sequential(*found, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000))


FULL = [32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024]
PUBLISHED = {
    "whole": (FULL, 568_740_352, 4_231_976),
    "width 0.75": ([width * 3 // 4 for width in FULL], 325_400_448, 2_585_560),
    "half of the multiply-adds": (
        [24, 48, 96, 80, 192, 200, 328, 352, 368, 360, 328, 400, 736, 752], 293_870_000, 2_408_232,
    ),
    "half of the time": (
        [16, 48, 88, 80, 192, 168, 336, 360, 360, 352, 352, 368, 768, 680], 273_976_912, 2_279_816,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole():
    return layers(mobilenet_v1(FULL), (3, 224, 224))


@pytest.mark.parametrize("name", PUBLISHED)
def test_mobilenets_that_its_authors_released_cost_what_was_counted(whole, name):
    widths, flops, params = PUBLISHED[name]
    model = mobilenet_v1(widths)
    assert counts.flops(model, (3, 224, 224)) == flops
    assert counts.params(model) == params
    made = [layer.name for layer in whole if layer.makes == layer.name]
    left = dict(zip(made, widths, strict=True))
    assert macs(whole, left) == flops
    assert parameters(whole, left) == params
