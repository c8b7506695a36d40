import copy
import itertools

import pytest
import torch
from networks import HARDER, NETWORKS, SHAPE, chain, convolution, grouped, head, mobile, residual, trained
from torch import nn

from nasflow.compression import criteria, layers, prune, ranking
from nasflow.compression.groups import Group, PruneError, trace
from nasflow.space import Point

torch.set_num_threads(1)

EVERY = {"round_to": 1, "keep": tuple(k / 16 for k in range(1, 17))}


def _macs(model: nn.Module):
    found = layers.layers(model, SHAPE)
    return lambda policy: layers.macs(found, layers.kept(found, policy))


def two() -> nn.Module:
    """Two groups, of 16 and of 8 channels."""
    return nn.Sequential(convolution(3, 16), convolution(16, 8), head(8))


def test_a_path_takes_the_lowest_scores_of_all_groups_first():
    model = trained(two)
    scores = {"0.0": torch.arange(16.0), "1.0": torch.arange(8.0) + 4.5}
    space = prune.space(model, SHAPE, **EVERY)
    policies = ranking.path(model, SHAPE, space, criterion=lambda group: scores[group.name])
    assert policies[0] == {"channels.0.0": 1.0, "channels.1.0": 1.0}
    ranked = sorted((float(s), name) for name, values in scores.items() for s in values)
    left = {"0.0": 16, "1.0": 8}
    for (_, name), policy in zip(ranked, policies[1:], strict=False):
        left[name] -= 1
        if min(left.values()) == 0:
            break
        assert policy == {"channels.0.0": round(left["0.0"] / 16, 6), "channels.1.0": left["1.0"] / 8}


def test_channels_that_leave_together_are_compared_by_their_mean():
    model = trained(two)
    scores = {"0.0": torch.tensor([0.0] * 4 + [9.0] * 12), "1.0": torch.tensor([2.0] * 8)}
    space = prune.space(model, SHAPE, round_to=4, keep=(0.25, 0.5, 0.75))
    policies = ranking.path(model, SHAPE, space, criterion=lambda group: scores[group.name])
    assert [(p["channels.0.0"], p["channels.1.0"]) for p in policies] == [
        (1.0, 1.0), (0.75, 1.0), (0.75, 0.5), (0.5, 0.5), (0.25, 0.5)
    ]  # fmt: skip


@pytest.mark.parametrize("name", [*NETWORKS, *HARDER])
def test_paths_go_down_to_the_smallest_policy_and_all_can_be_applied(name):
    model = trained({**NETWORKS, **HARDER}[name])
    space, cost = prune.space(model, SHAPE), _macs(model)
    policies = ranking.path(model, SHAPE, space)
    assert all(policy in space for policy in policies)
    costs = [cost(policy) for policy in policies]
    assert costs == sorted(costs, reverse=True) and len(set(costs)) == len(costs)
    assert costs[-1] == cost({p.name: p.options[-1] for p in space.parameters if "channels" in p.name})
    for policy in (policies[1], policies[-1]):
        assert prune.apply(policy, model, SHAPE)(torch.zeros(2, *SHAPE)).shape == (2, 5)


def test_layers_in_slices_lose_as_many_from_each():
    model = trained(grouped)
    space = prune.space(model, SHAPE, **EVERY)
    policies = ranking.path(model, SHAPE, space)
    counts = {round(32 * float(policy["channels.0.0"] or 0)) for policy in policies}
    assert all(count % 4 == 0 for count in counts) and len(counts) > 3


def test_equal_scores_go_step_by_step():
    model = trained(chain)
    space = prune.space(model, SHAPE, **EVERY)
    policies = ranking.path(model, SHAPE, space, criterion=lambda group: torch.full((group.channels,), 0.1))
    for before, after in itertools.pairwise(policies):
        assert all(float(after[name]) <= float(before[name]) for name in before)


def test_the_criterion_decides_which_group_gives_more():
    model = trained(mobile)
    space, cost = prune.space(model, SHAPE, **EVERY), _macs(model)
    kinds = [criteria.lamp, criteria.relative(criteria.l1), criteria.random(0)]
    found = [
        ranking.within(ranking.path(model, SHAPE, space, criterion=kind), cost, 0.5 * cost({}))
        for kind in kinds
    ]
    assert len({space.key(policy) for policy in found}) == 3


def test_within_finds_the_first_that_is_cheap_enough_in_few_looks():
    policies = [{"n": n} for n in range(100)]
    looked: list[int] = []

    def cost(policy: Point) -> float:
        looked.append(int(policy["n"] or 0))
        return 100.0 - looked[-1]

    assert ranking.within(policies, cost, 63.5) == {"n": 37}
    assert len(looked) <= 8
    assert ranking.within(policies, cost, 100.0) == {"n": 0}
    assert ranking.within(policies, cost, 1.0) == {"n": 99}


def test_within_gives_only_what_was_seen_to_be_cheap_enough():
    """Even where costs are measured and do not fall at every step."""
    costs = [10.0, 7.0, 9.0, 5.0, 8.0, 6.0, 6.5, 3.0]
    policies = [{"n": n} for n in range(len(costs))]
    for target in (3.0, 5.5, 6.0, 8.5):
        assert (
            costs[int(ranking.within(policies, lambda p: costs[int(p["n"] or 0)], target)["n"] or 0)]
            <= target
        )


def test_a_target_out_of_reach_is_told():
    model = trained(chain)
    space, cost = prune.space(model, SHAPE), _macs(model)
    with pytest.raises(PruneError, match="get down to a cost of 10, but the smallest policy costs"):
        ranking.within(ranking.path(model, SHAPE, space), cost, 10)


def test_iterating_ends_at_the_target_with_the_policy_of_its_network():
    model = trained(residual)
    before = copy.deepcopy(model.state_dict())
    space, cost = prune.space(model, SHAPE, **EVERY), _macs(model)
    sizes: list[tuple[int, int]] = []

    def finetune(network: nn.Module, step: int) -> None:
        sizes.append((step, sum(p.numel() for p in network.parameters())))

    policy, network = ranking.iterate(
        model, SHAPE, space, cost=cost, target=0.5 * cost({}), steps=3, finetune=finetune
    )
    assert policy in space
    assert 0.4 * cost({}) < cost(policy) <= 0.5 * cost({})
    shapes = [value.shape for value in prune.apply(policy, model, SHAPE).state_dict().values()]
    assert [value.shape for value in network.state_dict().values()] == shapes
    assert [step for step, _ in sizes] == [1, 2, 3]
    assert sizes[0][1] > sizes[1][1] > sizes[2][1]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_iterating_asks_the_criterion_about_each_network_on_the_way():
    """What training changes between the steps changes what goes next."""
    model = trained(two)
    space, cost = prune.space(model, SHAPE, **EVERY), _macs(model)
    asked: list[int] = []

    def criterion(network: nn.Module):
        asked.append(network[0][0].out_channels)
        return criteria.relative(criteria.l1)

    def drown(network: nn.Module, step: int) -> None:
        """After the first step, all that the first group has left is equal, and next to nothing in the second."""
        with torch.no_grad():
            network[1][0].weight[2:] *= 1e-6

    def share(finetune) -> float:
        policy, _ = ranking.iterate(
            model,
            SHAPE,
            space,
            cost=cost,
            target=0.45 * cost({}),
            steps=2,
            finetune=finetune,
            criterion=criterion,
        )
        return float(policy["channels.1.0"] or 0)

    drowned, kept = share(drown), share(lambda network, step: None)
    assert drowned < kept
    assert asked[0] == 16 and asked[1] < 16


def test_one_step_is_one_shot():
    model = trained(residual)
    space, cost = prune.space(model, SHAPE), _macs(model)
    policy, network = ranking.iterate(
        model, SHAPE, space, cost=cost, target=0.6 * cost({}), steps=1, finetune=lambda network, step: None
    )
    assert policy == ranking.within(ranking.path(model, SHAPE, space), cost, 0.6 * cost({}))
    same = prune.apply(policy, model, SHAPE, criterion=criteria.group_magnitude)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), same.parameters(), strict=True))
    with pytest.raises(PruneError, match="at least one step, got 0"):
        ranking.iterate(
            model, SHAPE, space, cost=cost, target=1, steps=0, finetune=lambda network, step: None
        )


def test_groups_in_blocks_that_are_gone_are_passed_over():
    model = trained(residual)
    space = prune.space(model, SHAPE)
    start = {**prune.uniform(space, 1.0), "block.1": False}
    left = prune.apply(start, model, SHAPE)
    names = {group.name for group in trace(left, SHAPE).groups}
    policies = ranking.path(left, SHAPE, space, start=start)
    assert "1.first.0" not in names
    assert all(policy["channels.1.first.0"] == 1.0 and policy["block.1"] is False for policy in policies)
    assert len(policies) > 1


def test_scores_of_another_length_are_refused():
    model = trained(chain)

    def wrong(group: Group) -> torch.Tensor:
        return torch.ones(group.channels + 1)

    with pytest.raises(PruneError, match="expected 16 finite scores"):
        ranking.path(model, SHAPE, prune.space(model, SHAPE), criterion=wrong)


def test_only_what_a_single_layer_makes_gets_narrower_inside():
    model = trained(residual)
    space, found = prune.space(model, SHAPE, **EVERY), layers.layers(model, SHAPE)
    policies = ranking.inside(space, found)
    makers = [layer.makes for layer in found]
    streams = {p.name for p in space.parameters if makers.count(p.name.removeprefix("channels.")) > 1}
    others = {p.name for p in space.parameters if p.name.startswith("channels.")} - streams
    assert streams and others
    assert all(policy in space for policy in policies)
    assert {policy[name] for policy in policies for name in streams} == {1.0}
    assert [len({policy[name] for name in others}) for policy in policies] == [1] * len(policies)
    costs = [_macs(model)(policy) for policy in policies]
    assert costs == sorted(costs, reverse=True) and len(set(costs)) == len(costs) == 16
    assert policies[0] == prune.uniform(space, 1.0)
