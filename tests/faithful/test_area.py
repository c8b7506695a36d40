"""AREA against its paper (Mellor et al., 2021): aging evolution whose first population is the best of a larger random
sample by a score of untrained networks."""

import math

import pytest

from nasflow.loop import Evaluate, run
from nasflow.strategies.evolution import ScoreError, area
from nasflow.study import Objective, Study, Trial
from nasflow.testing import networks

ONE = (Objective("error"),)
TOY = networks()


def score(point):
    """Known to the search, and as good as the error itself."""
    return {"naswot": -TOY.metrics(point)["error"], "size": TOY.metrics(point)["params"]}


def first(count, **settings):
    return [proposal.point for proposal in area(TOY.space, ONE, **settings).ask(count)]


def test_the_first_population_is_the_best_of_the_pool_from_the_best_down():
    scored = []

    def cheap(point):
        scored.append(score(point)["naswot"])
        return score(point)

    begun = [score(point)["naswot"] for point in first(5, population=5, pool=40, cheap=cheap)]
    assert len(scored) <= 40  # once each that differ
    assert begun == sorted(scored, reverse=True)[:5]


def test_nothing_is_scored_before_the_search_begins():
    def cheap(point):
        raise AssertionError("scored")

    area(TOY.space, ONE, cheap=cheap)


def test_a_pool_smaller_than_the_population_is_filled_up_at_random():
    assert len({TOY.space.key(point) for point in first(8, population=8, pool=3, cheap=score)}) == 8


def test_a_score_that_is_not_a_number_is_the_worst():
    def cheap(point):
        return {"naswot": math.nan if point["depth"] == 0 else score(point)["naswot"]}

    begun = first(60, population=60, pool=400, cheap=cheap)
    folded = [point["depth"] == 0 for point in begun]
    assert folded == sorted(folded)


def test_another_score_can_be_named():
    (largest,) = first(1, population=5, pool=500, cheap=score, score="size")
    assert largest["width"] == 32 and largest["depth"] == 3


def test_it_goes_on_as_aging_evolution():
    strategy = area(TOY.space, ONE, population=4, sample=3, pool=30, cheap=score)
    trials = []
    for number in range(12):
        (proposal,) = strategy.ask(1)
        trials.append(Trial(number, proposal.point, state="done", metrics=TOY.metrics(proposal.point)))
        strategy.tell(trials[-1:])
        assert [member.point for member in strategy.members] == [trial.point for trial in trials[-4:]]


def test_it_starts_where_aging_evolution_has_yet_to_get():
    study = Study(TOY.space, ONE)
    run(study, area(TOY.space, ONE, population=5, pool=500, cheap=score), Evaluate(TOY.train), trials=1)
    assert study.trials[0].metrics["error"] == min(TOY.metrics(point)["error"] for point in TOY.points())


def test_without_a_score_it_says_what_to_give():
    with pytest.raises(ScoreError, match=r"score 'naswot' of untrained networks.*give `cheap`"):
        area(TOY.space, ONE)
    with pytest.raises(
        ScoreError, match=r"no score 'synflow' among .* naswot, size; name one of these by `score`"
    ):
        area(TOY.space, ONE, score="synflow", cheap=score).ask(1)
