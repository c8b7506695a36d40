"""AMC against its paper, He et al., 2018 (arXiv:1802.03494), and what its authors published beside it."""

import numpy as np
import pytest
import torch
from torch import nn

from nasflow.compression.amc import PRICES, ChannelWalk, Plan, amc
from nasflow.compression.ddpg import Agent, around
from nasflow.compression.layers import Layer, Share, layers, macs, parameters
from nasflow.evaluators import counts
from nasflow.loop import Evaluate, run
from nasflow.space import Choice, Space
from nasflow.study import Objective, Study, Trial

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
    for _ in range(1000):
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


# ---- the agent


@pytest.mark.parametrize("seed", [0, 1])
def test_the_agent_finds_what_filling_up_with_water_gives(seed):
    """Layers that hurt by s a^2 when a share a of them goes: the least harm for a sum of 1.5 is at a ~ 1 / s."""
    found = independent((7, 7, 7))
    harm, best = np.array([1.0, 1.5, 3.0]), np.array([0.75, 0.5, 0.25])

    def actions(point):
        return np.array([1 - point[f"channels.{at}"] for at in range(3)])

    def wrong(point):
        return float(harm @ actions(point) ** 2) / 3

    offered = space(found, step=2)
    strategy = amc(offered, (Objective("error"),), seed=seed, layers=found, warm_up=50)
    study = Study(offered, (Objective("error"),))
    run(study, strategy, Evaluate(lambda trial: {"error": wrong(trial.point)}), trials=150)
    optimum = float(harm @ best**2) / 3
    errors = np.array([trial.metrics["error"] for trial in study.finalists])
    assert errors[:50].mean() > 1.3 * optimum
    assert errors.min() < 1.02 * optimum
    _, learned = strategy._walk(0.0, np.random.default_rng(0))
    assert wrong(learned) < 1.1 * optimum
    assert np.abs(actions(learned) - best).max() <= 0.2


def test_noise_is_half_while_the_agent_warms_up_and_then_falls_by_a_twentieth(monkeypatch):
    seen = []

    def note(mean, deviation, rng):
        seen.append(deviation)
        return around(mean, deviation, rng)

    monkeypatch.setattr("nasflow.compression.ddpg.around", note)
    found = independent((7,))
    strategy = amc(space(found), (Objective("error"),), layers=found, target=1.0, warm_up=3)
    for _ in range(6):
        strategy.ask(1)
    first = sorted(set(seen), reverse=True)
    assert first == pytest.approx([0.5, 0.5 * 0.95, 0.5 * 0.95**2, 0.5 * 0.95**3])


def test_an_agent_has_the_sizes_and_rates_of_the_paper():
    agent = Agent(11, 0)
    shapes = [
        tuple(p.shape) for net in (agent._actor, agent._critic) for p in net.parameters() if p.dim() == 2
    ]
    assert shapes == [(300, 11), (300, 300), (1, 300), (300, 11), (300, 1), (300, 300), (1, 300)]
    rates = [step.param_groups[0]["lr"] for step in (agent._actor_step, agent._critic_step)]
    assert rates == [1e-4, 1e-3]
    assert (agent._tau, agent._discount, agent._batch, agent._smoothing) == (0.01, 1.0, 64, 0.5)
    assert len(agent._memory) == 2000


def test_every_decision_of_an_episode_is_remembered_with_the_final_reward():
    found = independent((5, 3, 8))
    strategy = amc(space(found), (Objective("error"),), layers=found)
    (proposal,) = strategy.ask(1)
    strategy.tell([Trial(0, proposal.point, state="done", metrics={"error": 0.3})])
    remembered = strategy._agent._memory[:3]
    states, following, actions = remembered[:, :11], remembered[:, 11:22], remembered[:, 22]
    assert remembered[:, 23] == pytest.approx([-0.3] * 3)
    assert remembered[:, 24].tolist() == [1, 1, 0]  # nothing follows the last
    assert np.array_equal(following[:-1], states[1:])
    assert states[1:, 10] == pytest.approx(actions[:-1])  # the last action is seen
    assert actions == pytest.approx([1 - proposal.point[f"channels.{at}"] for at in range(3)])
    # 16 macs are 5 + 3 + 8: what went already, what is still to come
    assert states[:, 8] == pytest.approx([0, 5 * actions[0] / 16, (5 * actions[0] + 3 * actions[1]) / 16])
    assert states[:, 9] == pytest.approx([11 / 16, 8 / 16, 0])
