"""pymoo's algorithms behind the adapter: generations in batches, constraints, failures, drifted records, operators."""

import warnings

import numpy as np
import pytest
from pymoo.core.population import Population
from pymoo.core.problem import Problem

from nasflow.space import Choice, Real, Space
from nasflow.strategies.pymoo_adapter import FAILED, PENALTY, Crossover, Mutation, Places
from nasflow.strategies.pymoo_algorithms import moead, nsga2, nsga3
from nasflow.study import Objective, Trial
from nasflow.testing import networks

TWO = (Objective("error"), Objective("flops"))
LIMITED = (Objective("error"), Objective("flops", limit=100.0))


def finished(proposals, **metrics):
    return [Trial(n, p.point, state="done", metrics=metrics) for n, p in enumerate(proposals)]


def test_a_generation_is_handed_out_in_batches_and_the_next_waits_for_all_of_it():
    toy = networks()
    one = nsga2(toy.space, TWO, population=8)
    first, second = one.ask(5), one.ask(5)
    assert (len(first), len(second)) == (5, 3)
    assert one.ask(5) == []
    one.tell(finished(second, error=0.5, flops=1.0))
    assert one.ask(5) == [], "five are not told yet"
    one.tell(finished(first, error=0.5, flops=1.0))
    assert len(one.ask(5)) == 5


def test_the_order_of_telling_makes_no_difference():
    toy, histories = networks(), []
    for order in (1, -1):
        one, asked = nsga2(toy.space, TWO, population=8), []
        for _ in range(4):
            proposals = one.ask(8)
            trials = [
                Trial(n, p.point, state="done", metrics=toy.metrics(p.point)) for n, p in enumerate(proposals)
            ]
            one.tell(trials[::order])
            asked.append([proposal.point for proposal in proposals])
        histories.append(asked)
    assert histories[0] == histories[1]


def test_nothing_comes_twice_and_the_search_ends_when_there_is_nothing_new():
    toy = networks()
    one, keys = moead(toy.space, TWO, population=5), []
    while proposals := one.ask(3):
        keys += [toy.space.key(proposal.point) for proposal in proposals]
        one.tell([Trial(0, p.point, state="done", metrics=toy.metrics(p.point)) for p in proposals])
    assert len(keys) == len(set(keys)) > 40


class Spy:
    """What pymoo's algorithm is told, instead of the algorithm."""

    def __init__(self, one):
        self.told = []
        tell = one._algorithm.tell
        one._algorithm.tell = lambda infills: (self.told.append(infills), tell(infills=infills))


def told_of_four_ends(make, objectives):
    """Losses and violations that pymoo is told of one done, refused, failed and duplicate trial."""
    space = Space((Choice("a", tuple(range(50))),))
    one = make(space, objectives, population=4)
    spy, proposals = Spy(one), one.ask(4)
    states = [("done", {"error": 0.5, "flops": 150.0}), ("refused", {"flops": 400.0})]
    states += [("failed", {"flops": 1.0}), ("done", {"error": 0.1, "flops": 50.0})]
    one.tell(
        [
            Trial(n, p.point, state=s, metrics=m)
            for n, (p, (s, m)) in enumerate(zip(proposals, states, strict=True))
        ]
    )
    (infills,) = spy.told
    return infills.get("F"), infills.get("G")


def test_losses_are_scaled_and_what_is_not_known_is_the_worst_seen():
    losses, violations = told_of_four_ends(nsga2, TWO)
    assert losses == pytest.approx(np.array([[1.0, 100 / 350], [1.0, 1.0], [1.0, 1.0], [0.0, 0.0]]))
    assert violations.tolist() == [[0.0], [FAILED], [FAILED], [0.0]]


def test_by_place_a_first_generation_lies_evenly_and_all_else_in_its_order():
    scale = Places.of(np.array([90.0, 2.0, np.nan, 4.0, 3.0, 3.0]))
    assert scale(np.array([2.0, 3.0, 4.0, 90.0])) == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert scale(np.array([1.0, 3.5, 133.0])) == pytest.approx([-1 / 3, 0.5, 1.0 + 43 / 86 / 3])
    assert np.isnan(scale(np.array([np.nan]))).all()
    rising = scale(np.linspace(-50.0, 200.0, 999))
    assert (np.diff(rising) > 0).all()
    assert Places.of(np.array([5.0]))(np.array([5.0, 7.0])).tolist() == [0.0, 2.0]
    two = Places.of(np.array([5.0, 6.0]))(np.array([4.0, 5.0, 6.0, 8.0]))
    assert two == pytest.approx([-1.0, 0.0, 1.0, 3.0])


def test_limits_and_failures_are_constraints():
    _, violations = told_of_four_ends(nsga2, LIMITED)
    assert violations.tolist() == [[0.5, 0.0], [3.0, 0.0], [0.0, FAILED], [0.0, 0.0]]


def test_an_algorithm_without_constraints_is_told_losses_worse_than_anything_real():
    losses, violations = told_of_four_ends(moead, LIMITED)
    assert violations.size == 0
    assert losses.tolist() == [
        [PENALTY * 1.5] * 2,
        [PENALTY * 4.0] * 2,
        [PENALTY * (1.0 + FAILED)] * 2,
        [0.0, 0.0],
    ]


def test_a_point_that_was_asked_otherwise_takes_a_place_in_the_generation():
    """That is how a record of another version is learnt from instead of stalling the search."""
    space = Space((Choice("a", tuple(range(50))), Real("c", 1.0, 100.0, log=True)))
    one = nsga2(space, TWO, population=4)
    spy, proposals = Spy(one), one.ask(4)
    foreign = {"a": 49, "c": 10.0}
    one.tell(finished(proposals[1:], error=0.5, flops=1.0))
    one.tell([Trial(9, foreign, state="done", metrics={"error": 0.1, "flops": 2.0})])
    (infills,) = spy.told
    assert infills[0].X.tolist() == [49, 500] and infills[0].F.tolist() == [0.0, 1.0]
    assert len(one.ask(4)) == 4


def test_points_told_before_it_asked_for_anything_are_not_asked_for():
    toy = networks()
    one, other = nsga2(toy.space, TWO), nsga2(toy.space, TWO)
    first, *rest = other.ask(3)
    one.tell(finished([first], error=0.1, flops=1.0))
    assert one.ask(2) == rest


def test_reals_are_encoded_and_decoded_alike():
    space = Space((Real("c", 1e-4, 1.0, log=True), Choice("a", ("x", "y"))))
    one = nsga2(space, TWO)
    for x in ([0, 0], [1000, 1], [333, 1]):
        point = one._decode(np.array(x))
        assert point in space
        assert one._encode(point).tolist() == x


def test_the_warning_filters_of_the_process_are_left_alone():
    toy = networks()
    before, one = list(warnings.filters), nsga3(toy.space, TWO, population=4)
    for _ in range(3):
        one.tell(finished(one.ask(4), error=0.5, flops=1.0))
    assert warnings.filters == before


MIXED = Space(
    (Choice("kind", tuple("abcde")), Choice("size", tuple(range(9)), ordered=True), Real("rate", 0.0, 1.0))
)
UPPER = np.array([4, 8, 1000])


def problem():
    return Problem(n_var=3, n_obj=2, xl=np.zeros(3), xu=UPPER, vtype=int)


@pytest.mark.parametrize("count", [1, 2])
def test_children_have_each_unordered_choice_from_one_parent(count):
    parents = Population.new("X", np.array([[0, 2, 100], [4, 6, 900]]))
    matings = np.array([parents] * 200)
    cross = Crossover(MIXED, count)
    x = cross(problem(), matings, random_state=np.random.default_rng(0)).get("X")
    assert x.shape == (200 * count, 3) and x.dtype.kind == "i"
    assert set(x[:, 0]) == {0, 4} and abs((x[:, 0] == 0).mean() - 0.5) < 0.1
    assert {3, 5} <= set(x[:, 1]) and (x >= 0).all() and (x <= UPPER).all()
    if count == 2:
        assert (x[:200, 0] + x[200:, 0] == 4).all(), "what one child takes, the other does not"


def test_mutation_reaches_every_other_option_and_steps_along_what_is_ordered():
    children = Population.new("X", np.tile([1, 4, 500], (3000, 1)))
    x = Mutation(MIXED)(problem(), children, random_state=np.random.default_rng(0)).get("X")
    changed = x[:, 0] != 1
    assert 0.08 < changed.mean() < 0.14, "a third of one in three"
    assert np.bincount(x[changed, 0], minlength=5)[[0, 2, 3, 4]].min() > 50
    steps = np.abs(x[:, 1] - 4)
    assert (steps == 1).sum() > (steps == 2).sum() > (steps == 3).sum() > 0
    assert (x >= 0).all() and (x <= UPPER).all()
