"""What breeding strategies share: who may be a parent, nothing twice, children, and survival within limits."""

import numpy as np
import pytest

from nasflow.space import Choice, Real, Space
from nasflow.strategies.evolution import aging_evolution
from nasflow.strategies.hype import hype
from nasflow.strategies.ibea import ibea
from nasflow.strategies.local_search import local_search
from nasflow.strategies.nsga2 import nsga2
from nasflow.strategies.population import ScaleError, Unseen, child, members
from nasflow.strategies.scalarised import pbi, tchebycheff, weighted_sum
from nasflow.study import Objective, Trial
from nasflow.testing import joint, networks

TWO = (Objective("error"), Objective("flops"))
LIMITED = (Objective("error"), Objective("flops", limit=1000.0))
MAKES = (aging_evolution, hype, ibea, local_search, nsga2, pbi, tchebycheff, weighted_sum)


def told(number, point, state="done", **metrics):
    return Trial(number, point, state=state, metrics=metrics)


def test_members_are_what_was_trained_or_refused():
    point = next(networks().points())
    able = members(
        [
            told(0, point, error=0.1, flops=900.0),
            told(1, point, "refused", flops=1500.0),
            told(2, point, error=0.1, flops=1100.0),
            told(3, point, "failed", flops=900.0),
            told(4, point, "duplicate", error=0.1, flops=900.0),
        ],
        LIMITED,
    )
    assert [member.losses for member in able] == [(0.1, 900.0), (), ()]
    assert [member.violation for member in able] == pytest.approx([0.0, 0.5, 0.1])


def test_losses_are_those_of_optimised_objectives_lower_is_better():
    objectives = (Objective("speed", "max"), Objective("flops", limit=9.0, optimise=False))
    assert members([told(0, {}, speed=3.0, flops=1.0)], objectives)[0].losses == (-3.0,)


@pytest.mark.parametrize("make", MAKES)
def test_no_meaning_comes_twice_while_there_are_others(make):
    toy = networks()
    strategy, keys = make(toy.space, TWO), []
    for number in range(60):
        (proposal,) = strategy.ask(1)
        keys.append(toy.space.key(proposal.point))
        strategy.tell([told(number, proposal.point, **toy.metrics(proposal.point))])
    assert len(set(keys)) == 60 < len(list(toy.points()))


def test_what_others_asked_for_is_not_asked_for_again():
    space = Space((Choice("a", tuple(range(30))),))
    unseen = Unseen(space, seed=0)
    unseen.note([told(i, {"a": i}) for i in range(29)])
    assert unseen.propose(space.sample).point == {"a": 29}


def test_draws_do_not_depend_on_how_many_are_asked_for_at_once():
    toy = joint()
    for make in MAKES:
        one, other = make(toy.space, TWO, seed=3), make(toy.space, TWO, seed=3)
        for strategy in (one, other):
            strategy.tell([told(i, point, **toy.metrics(point)) for i, point in enumerate(points(toy, 30))])
        assert [*one.ask(2), *one.ask(5), *one.ask(33)] == other.ask(40)


def points(toy, count):
    rng = np.random.default_rng(0)
    return [toy.space.sample(rng) for _ in range(count)]


def test_a_child_has_about_one_mutation_and_else_what_its_parents_have():
    space = Space(tuple(Choice(f"p{i}", tuple(range(10))) for i in range(20)))
    a, b = ({p.name: value for p in space.parameters} for value in (0, 1))
    rng = np.random.default_rng(0)
    children = [child(space, a, b, rng) for _ in range(500)]
    foreign = [sum(value not in (0, 1) for value in one.values()) for one in children]
    assert np.mean(foreign) == pytest.approx(
        8 / 9, abs=0.15
    )  # one of nine mutations hits the other parent's value
    crossed = [0 < sum(value == 1 for value in one.values()) < 20 for one in children]
    assert np.mean(crossed) > 0.85


def test_children_vary_reals_too():
    space = Space((Real("rate", 0.0, 1.0),))
    rng = np.random.default_rng(0)
    assert len({child(space, {"rate": 0.3}, {"rate": 0.3}, rng)["rate"] for _ in range(5)}) == 5


@pytest.mark.parametrize("make", [nsga2, ibea, hype])
def test_members_within_limits_push_out_those_that_overstep_them_most(make):
    toy = networks()
    strategy = make(toy.space, LIMITED, population=3)
    asked = [proposal.point for proposal in strategy.ask(6)]
    strategy.tell(
        [told(i, asked[i], "refused", flops=flops) for i, flops in enumerate((4000.0, 2000.0, 3000.0))]
    )
    assert [member.violation for member in strategy.members] == [3.0, 1.0, 2.0]
    strategy.tell([told(3, asked[3], error=0.9, flops=900.0), told(4, asked[4], error=0.8, flops=999.0)])
    assert [member.violation for member in strategy.members] == [1.0, 0.0, 0.0]
    strategy.tell([told(5, asked[5], "failed", flops=10.0)])
    assert len(strategy.members) == 3


@pytest.mark.parametrize("make", [ibea, hype])
def test_by_place_any_rising_function_of_a_loss_gives_the_same_search(make):
    """So networks that learned nothing do not squeeze all others into a corner, as they do by value."""
    toy = networks()

    def searched(scale, bend):
        strategy, points = make(toy.space, TWO, population=6, scale=scale), []
        for number in range(40):
            (proposal,) = strategy.ask(1)
            points.append(proposal.point)
            metrics = toy.metrics(proposal.point)
            bent = {**metrics, "error": bend(metrics["error"])}
            strategy.tell([told(number, proposal.point, **bent)])
        return points

    def steep(error):
        return float(np.exp(30.0 * error))

    assert searched("places", steep) == searched("places", float)
    assert searched("values", steep) != searched("values", float)


def test_a_scale_that_there_is_not_is_refused():
    with pytest.raises(ScaleError, match="expected places or values, got 'ranks'"):
        ibea(networks().space, TWO, scale="ranks")


@pytest.mark.parametrize("make", MAKES)
def test_searches_on_when_all_has_failed_so_far(make):
    toy = networks()
    strategy = make(toy.space, TWO)
    for number in range(40):
        (proposal,) = strategy.ask(1)
        strategy.tell([told(number, proposal.point, "failed")])
    assert strategy.ask(1)
