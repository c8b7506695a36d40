"""The order of a rung, and who may climb."""

import numpy as np
import pytest

from nasflow.space import Choice, Space
from nasflow.strategies.rungs import FidelityError, Fresh, Rungs, best_first, contributions, share
from nasflow.study import Objective, Trial

SPACE = Space((Choice("n", tuple(range(40))),))
TWO = (Objective("error"), Objective("flops"))


def done(n, fidelity=0.1, **metrics):
    return Trial(n, {"n": n}, fidelity, state="done", metrics=metrics)


def losses(*rows):
    return [done(n, error=error, flops=flops) for n, (error, flops) in enumerate(rows)]


def test_fronts_come_one_after_the_other_and_within_a_front_what_adds_most_to_the_hypervolume():
    trials = losses((0.0, 1.0), (0.2, 0.4), (0.5, 0.3), (1.0, 0.0), (0.3, 0.6), (1.0, 0.2))
    front = np.array(
        [[0.0, 1.0], [0.25, 0.6], [0.75, 0.4], [1.0, 0.0]]
    )  # places of those that nothing dominates
    alone = [0.25 * 0.1, 0.5 * 0.4, 0.25 * 0.2, 0.1 * 0.4]
    assert contributions(front) == pytest.approx(alone)
    assert best_first(trials, TWO) == [1, 2, 3, 0, 4, 5]


def test_the_order_is_the_same_for_any_rising_function_of_a_loss():
    """As errors have it, of which some are those of networks that learned nothing."""
    rows = np.random.default_rng(0).random((30, 2))
    bent = np.column_stack([np.exp(9.0 * rows[:, 0]), rows[:, 1]])
    assert best_first(losses(*bent.tolist()), TWO) == best_first(losses(*rows.tolist()), TWO)


def test_one_objective_is_ordered_by_its_losses_whatever_its_goal():
    trials = [done(n, speed=float(speed)) for n, speed in enumerate((3, 9, 1, 9, 5))]
    assert best_first(trials, [Objective("speed", "max")]) == [1, 3, 4, 0, 2]


def test_over_a_limit_comes_after_the_rest_and_failed_last():
    objectives = (Objective("error"), Objective("flops", limit=10.0, optimise=False))
    trials = [
        done(0, error=0.1, flops=30.0),
        Trial(1, {"n": 1}, state="failed"),
        done(2, error=0.9, flops=10.0),
        done(3, error=0.2, flops=20.0),
        done(4, error=0.5, flops=1.0),
    ]
    assert best_first(trials, objectives) == [4, 2, 3, 0, 1]


def test_hypervolumes_of_many_objectives_are_estimated_and_copies_add_nothing():
    front = np.random.default_rng(0).dirichlet(np.ones(4), 6)
    five = np.hstack([front, np.zeros((6, 1))])  # the fifth objective widens all volumes by 1.1
    assert contributions(five) == pytest.approx(1.1 * contributions(front) / 1.1**5, abs=0.02)
    assert contributions(np.vstack([five[:1], five[:1]])) == pytest.approx([0.0, 0.0])


@pytest.mark.parametrize("count", [3, 9, 27, 81, 243, 729])
def test_shares_are_not_a_victim_of_floating_point(count):
    assert share(count, 3.0) == count // 3
    assert share(count, 1 / 3) == 3 * count and share(count, 3.0, 0) == count


def test_no_promotion_of_what_failed_or_climbed_already():
    rungs = Rungs(SPACE, [Objective("error")], (0.1, 1.0))
    for n, error in enumerate((0.3, 0.1, 0.2)):
        rungs.tell(done(n, error=error))
    rungs.tell(Trial(3, {"n": 3}, 0.1, state="failed"))
    rungs.tell(Trial(4, {"n": 4}, 0.1, state="refused", metrics={"flops": 1.0}))
    climbed = [rungs.leftover() for _ in range(4)]
    assert [one.point["n"] if one else None for one in climbed] == [1, 2, 0, None]
    assert {one.fidelity for one in climbed if one} == {1.0}
    assert rungs.told(0).keys() == {SPACE.key({"n": n}) for n in range(4)}


def test_trials_of_other_fidelities_stand_on_no_rung():
    rungs = Rungs(SPACE, [Objective("error")], (0.1, 1.0))
    rungs.tell(done(0, 0.5, error=0.1))
    assert not rungs.told(0) and not rungs.told(1)


@pytest.mark.parametrize("fidelities", [(), (0.5,), (0.0, 1.0), (0.5, 0.2, 1.0), (0.5, 0.5, 1.0), (1.0, 2.0)])
def test_fidelities_that_are_no_ladder_are_refused(fidelities):
    with pytest.raises(FidelityError, match="expected rising shares of a full training above 0, the last 1"):
        Rungs(SPACE, [Objective("error")], fidelities)


def test_fresh_points_are_new_until_there_are_no_more():
    fresh = Fresh(Space((Choice("n", (1, 2, 3)),)), seed=0)
    assert fresh.see({"n": 2})
    drawn = [fresh.point(lambda rng: {"n": 1}) for _ in range(3)]
    assert [point["n"] if point else None for point in drawn] == [1, 3, None]
