"""What AMC promises: the contract of strategies, on toys that are dressed up as networks to be pruned, and clear words
for what it cannot search."""

from collections import defaultdict

import networks
import numpy as np
import pytest
import torch

from nasflow.compression import prune
from nasflow.compression.amc import PRICES, amc
from nasflow.compression.groups import PruneError
from nasflow.compression.layers import Layer, Share, kept, layers, macs, parameters
from nasflow.evaluators import counts
from nasflow.loop import Evaluate, run
from nasflow.space import Choice, Space, point_key
from nasflow.study import Objective, Study, Trial
from nasflow.testing import StrategyContract, StrategyUnderTest

torch.set_num_threads(1)

ERROR = (Objective("error"),)
POSITIONS = 7  # at which a toy's real number is tried


class Dressed:
    """AMC on any toy: each parameter is a group of channels whose shares stand for its options, and one group more
    stands for nothing, so that a budget leaves the others some freedom."""

    def __init__(self, space, objectives, **settings):
        self.space = space
        self.options = {p.name: options(p) for p in space.parameters}
        names = [*self.options, "spare"]
        self.shares = {name: shares(len(self.options.get(name, range(5)))) for name in names}
        pruning = Space(tuple(Choice(f"channels.{name}", self.shares[name], ordered=True) for name in names))
        if space.size < 10:  # too few to leave half of
            settings["target"] = 1.0
        self.strategy = amc(pruning, objectives, layers=dressed(names), **settings)
        self.asked = defaultdict(list)

    def ask(self, count):
        proposals = self.strategy.ask(count)
        found = []
        for proposal in proposals:
            point = {
                name: found_options[self.shares[name].index(proposal.point[f"channels.{name}"])]
                for name, found_options in self.options.items()
            }
            self.asked[point_key(point)].append(proposal.point)
            found.append(type(proposal)(point))
        return found

    def tell(self, trials):
        told = []
        for trial in trials:
            mine = self.asked[point_key(trial.point)]
            if mine:
                told.append(Trial(trial.number, mine.pop(0), state=trial.state, metrics=trial.metrics))
        self.strategy.tell(told)


def options(parameter):
    if isinstance(parameter, Choice):
        return parameter.options[::-1]  # the last ones are the large ones
    return [parameter.at(at / (POSITIONS - 1)) for at in range(POSITIONS)]


def shares(count):
    return tuple(round(1 - at / count, 6) for at in range(count))


def dressed(names):
    """As much work in the last as in all before it together."""
    return [
        Layer(
            name, "linear" if at % 2 else "conv", 1 + at, 840, (1, 1), 1, 1, 1, 1, (1, 1),
            (len(names) - 1 if name == "spare" else 1) * (9 - at), False, 0, (Share(name, "out", 840, 840),),
        )
        for at, name in enumerate(names)
    ]  # fmt: skip


def dressed_amc(
    space,
    objectives,
    *,
    seed=0,
    target=0.5,
    metric="flops",
    cost=None,
    reward="error",
    conv_cap=0.8,
    linear_cap=0.98,
    warm_up=18,
    noise=0.5,
    decay=0.95,
):
    settings = {key: value for key, value in locals().items() if key not in ("space", "objectives")}
    return Dressed(space, objectives, **settings)


class TestContract(StrategyContract):
    @pytest.fixture
    def strategy(self):
        return StrategyUnderTest(
            dressed_amc,
            other={
                "target": 0.7,
                "metric": "params",
                "cost": lambda layer: layer.outputs,
                "reward": "error_flops",
                "conv_cap": 0.7,
                "linear_cap": 0.6,
                "warm_up": 5,
                "noise": 0.2,
                "decay": 0.2,
            },
            learns=False,
        )


# ---- on networks


def half(model, **settings):
    space = prune.space(model, networks.SHAPE, round_to=1, keep=[at / 8 for at in range(1, 9)])
    return space, amc(space, ERROR, layers=layers(model, networks.SHAPE), **settings)


@pytest.mark.parametrize("name", ["chain", "residual", "mobile", "concatenated", "grouped", "flattened"])
def test_every_policy_leaves_no_more_of_the_real_network_than_its_target(name):
    model = networks.trained(networks.NETWORKS[name])
    space, strategy = half(model)
    whole = counts.flops(model, networks.SHAPE)
    for proposal in strategy.ask(4):
        assert proposal.point in space
        assert all(proposal.point[p.name] for p in space.parameters if p.name.startswith("block."))
        left = counts.flops(prune.apply(proposal.point, model, networks.SHAPE), networks.SHAPE)
        assert 0.35 * whole < left <= 0.5 * whole


def test_parameters_can_be_the_budget():
    model = networks.trained(networks.residual)
    _, strategy = half(model, metric="params", target=0.4)
    for proposal in strategy.ask(3):
        left = counts.params(prune.apply(proposal.point, model, networks.SHAPE))
        assert left <= 0.4 * counts.params(model)


def test_milliseconds_by_a_table_can_be_the_budget():
    """Layers take as long as with the next multiple of eight channels, as they do on many devices."""

    def cost(layer):
        return 0.001 * -(-layer.inputs // 8) * -(-layer.outputs // 8) * layer.positions + 0.01

    model = networks.trained(networks.residual)
    found = layers(model, networks.SHAPE)
    _, strategy = half(model, metric="latency", cost=cost, target=0.6)
    whole = sum(cost(layer) for layer in found)
    for proposal in strategy.ask(5):
        left = kept(found, proposal.point)
        assert sum(cost(layer.pruned(left)) for layer in found) <= 0.6 * whole


def test_channels_that_are_shared_are_decided_on_once():
    space, strategy = half(networks.trained(networks.residual))
    strategy.ask(1)
    ((_, episode),) = strategy._pending
    assert len(episode.actions) == sum(p.name.startswith("channels.") for p in space.parameters)


@pytest.mark.parametrize(
    ("reward", "size"), [("error", None), ("error_flops", macs), ("error_params", parameters)]
)
def test_rewards_are_those_of_the_paper(reward, size):
    model = networks.trained(networks.chain)
    found = layers(model, networks.SHAPE)
    _, strategy = half(model, reward=reward, target=1.0)
    for number, proposal in enumerate(strategy.ask(4)):
        strategy.tell([Trial(number, proposal.point, state="done", metrics={"error": 0.25})])
        expected = 0.25 * (np.log(size(found, kept(found, proposal.point))) if size else 1)
        decisions = strategy._agent._remembered // (number + 1)
        assert strategy._agent._memory[number * decisions, -2] == pytest.approx(-expected, rel=1e-6)


def test_a_free_agent_may_keep_everything_and_a_held_one_not():
    model = networks.trained(networks.chain)
    found = layers(model, networks.SHAPE)
    _, free = half(model, target=1.0)
    assert max(macs(found, kept(found, p.point)) for p in free.ask(30)) > 0.5 * macs(found)
    _, held = half(model, target=0.5, fill=False)
    assert max(macs(found, kept(found, p.point)) for p in held.ask(30)) <= 0.5 * macs(found)


def test_resumes_from_its_record_on_a_network():
    model = networks.trained(networks.chain)
    found = layers(model, networks.SHAPE)

    def train(trial):
        left = kept(found, trial.point)
        return {"error": sum((1 - count / 24) ** 2 for count in left.values()) / len(left)}

    def searched(*budgets):
        space, _ = half(model)
        study = Study(space, ERROR)
        for trials in budgets:
            run(study, half(model, warm_up=4)[1], Evaluate(train), trials=trials, batch=3)
        return [trial.point for trial in study.trials]

    assert searched(12) == searched(6, 12)


# ---- what it refuses


def test_what_does_not_go_together_is_refused_in_words():
    model = networks.chain()
    found = layers(model, networks.SHAPE)
    space = prune.space(model, networks.SHAPE, round_to=8)
    with pytest.raises(PruneError, match="was not told its layers"):
        amc(space, ERROR)
    with pytest.raises(PruneError, match="needs `cost`"):
        amc(space, ERROR, layers=found, metric="latency")
    with pytest.raises(PruneError, match=r"at most 1, got 1\.5"):
        amc(space, ERROR, layers=found, target=1.5)
    with pytest.raises(PruneError, match=r"target of 0\.05 cannot be met"):
        amc(space, ERROR, layers=found, target=0.05)
    with pytest.raises(PruneError, match=r"cannot choose train\.epochs"):
        amc(space * Space((Choice("train.epochs", (1, 2)),)), ERROR, layers=found)
    with pytest.raises(PruneError, match="no such group"):
        amc(Space((Choice("channels.nowhere", (1.0, 0.5)),)), ERROR, layers=found)
    with pytest.raises(PruneError, match="no channels to remove"):
        amc(Space((Choice("block.1", (True, False)),)), ERROR, layers=found)


def test_prices_are_those_that_are_counted():
    found = layers(networks.mobile(), networks.SHAPE)
    assert sum(map(PRICES["flops"], found)) == macs(found)
    assert sum(map(PRICES["params"], found)) == parameters(found)
