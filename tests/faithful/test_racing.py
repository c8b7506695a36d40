"""Racing: the Friedman test as scipy has it, who is dropped, and that races never fall below their minimum."""

import numpy as np
import pytest
from scipy import stats

from nasflow.loop import Evaluate, run
from nasflow.space import Choice, Real, Space
from nasflow.strategies.racing import racing, survivors
from nasflow.strategies.rungs import FidelityError
from nasflow.study import Objective, Study, Trial

SPACE = Space((Real("x", 0.0, 1.0), Choice("n", tuple(range(9)))))
ONE = (Objective("error"),)


def test_nobody_is_dropped_exactly_where_friedmans_test_finds_nothing():
    rng, decided = np.random.default_rng(0), set()
    for _ in range(200):
        count, blocks = int(rng.integers(3, 9)), int(rng.integers(2, 7))
        ranks = np.argsort(rng.random((count, blocks)) + 0.06 * np.arange(count)[:, None], axis=0).argsort(
            axis=0
        )
        pvalue = stats.friedmanchisquare(*ranks).pvalue
        kept = survivors(ranks.astype(float), alpha=0.05, least=1)
        decided.add(pvalue < 0.05)
        assert (len(kept) < count) == (pvalue < 0.05)
        sums = ranks.sum(axis=1)
        assert max(sums[kept]) <= min(np.delete(sums, kept), default=np.inf)  # the best stay
    assert decided == {True, False}


def test_conovers_comparison_by_hand():
    # Four racers, three blocks: rank sums 3, 6, 9, 12; no disagreement, so any distance is too far.
    ranks = np.repeat(np.arange(4.0)[:, None], 3, axis=1)
    assert survivors(ranks, alpha=0.05, least=1) == [0]
    # The first two change places once: sums 4, 5, 9, 12, squares 90, so t(.975, 6) * sqrt(2 * (3*90 - 266) / 6) = 2.83
    ranks[:2, 0] = [1, 0]
    assert survivors(ranks, alpha=0.05, least=1) == [0, 1]


def test_one_block_is_not_enough_and_a_race_never_drops_below_its_minimum():
    assert survivors(np.arange(9.0)[:, None], 0.05, 2) == list(range(9))
    for least in range(1, 10):
        assert len(survivors(np.repeat(np.arange(9.0)[:, None], 4, axis=1), 0.05, least)) == least


def searched(**settings):
    study = Study(SPACE, ONE)

    def train(trial):
        return {"error": (trial.point["x"] - 0.3) ** 2 + 0.01 * trial.point["n"] + 0.01 / trial.fidelity}

    run(study, racing(SPACE, ONE, **settings), Evaluate(train), trials=30, batch=5)
    return study


def test_blocks_grow_longer_and_the_worse_go():
    study = searched(fidelities=(0.25, 0.5, 1.0), size=12, least=3)
    first = study.trials[:27]
    assert [t.fidelity for t in first] == [0.25] * 12 + [0.5] * 12 + [1.0] * 3
    best = sorted(first[:12], key=lambda t: t.metrics["error"])[:3]
    assert [t.point for t in first[24:]] == [t.point for t in best]


def test_survivors_race_on_without_being_trained_again_and_new_racers_come_nearer():
    study = searched(fidelities=(0.25, 0.5, 1.0), size=12, least=3)
    keys = [(SPACE.key(t.point), t.fidelity) for t in study.trials]
    assert len(set(keys)) == len(keys)
    starts = [t.point for t in study.trials if t.fidelity == 0.25]
    assert len(starts) > 12 + 9  # the second race has three of the first and nine others

    def distance(points):
        return np.mean([abs(point["x"] - 0.3) for point in points])

    assert distance(starts[12:]) < distance(starts[:12])


def test_with_several_objectives_nobody_goes_for_one_who_is_better_in_only_one_of_them():
    objectives = (Objective("error"), Objective("flops"))
    strategy = racing(SPACE, objectives, fidelities=(0.25, 0.5, 1.0), size=12, least=1)

    def block(places):
        asked = strategy.ask(12)
        for proposal in asked:
            places.setdefault(SPACE.key(proposal.point), len(places))
        told = []
        for number, proposal in enumerate(asked):
            front, place = divmod(places[SPACE.key(proposal.point)], 6)
            metrics = {"error": 6.0 * front + place, "flops": 6.0 * front + 5 - place}
            told.append(Trial(number, proposal.point, proposal.fidelity, state="done", metrics=metrics))
        strategy.tell(told)
        return {places[SPACE.key(trial.point)] for trial in told}

    places: dict[str, int] = {}
    assert [block(places) for _ in range(3)] == [set(range(12)), set(range(12)), set(range(6))]


def test_racers_that_are_all_alike_stay():
    assert survivors(np.zeros((5, 3)), alpha=0.05, least=1) == list(range(5))


@pytest.mark.parametrize("wrong", [{"size": 1}, {"least": 0}, {"least": 13}, {"alpha": 0.0}, {"alpha": 1.0}])
def test_settings_that_make_no_race_are_refused(wrong):
    with pytest.raises(FidelityError, match="racing: expected a size of at least 2"):
        racing(SPACE, ONE, **wrong)
