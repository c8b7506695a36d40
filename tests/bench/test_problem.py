"""What a search sees of a table, and what the judge makes of what it found."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.testing import assert_allclose

from nasflow.bench import BenchError, Judge, Problem
from nasflow.evaluators.tabular import Table, TableError
from nasflow.study import Objective, Trial

ACC, MS = Objective("acc", "max"), Objective("ms")


def at(table: Table, digits: str, fidelity: float = 1.0) -> Trial:
    return Trial(0, table.point(",".join(digits)), fidelity)


def test_a_trial_is_looked_up(table: Table, problem: Problem) -> None:
    assert problem.look_up(at(table, "3210")) == {"acc": 90 - 6 - 4 - 3 - 3, "ms": 1 + 9 + 4 + 1.5}
    assert problem.fidelities == (1.0,) and problem.searched == problem.objectives


def test_a_search_sees_another_error_and_low_fidelities_under_its_name(table: Table) -> None:
    problem = Problem(table, (ACC, MS), seen="val", cheap=("ms",), low_fidelities={"early": 0.25})
    assert problem.searched == (Objective("val", "max"), MS) and problem.fidelities == (0.25, 1.0)
    assert problem.look_up(at(table, "0000")) == {"val": 89 - 45, "ms": 1}
    assert problem.look_up(at(table, "0000", 0.25)) == {"val": 80 - 32, "ms": 1}
    assert problem.look_up_cheap(table.at(0)) == {"ms": 1}
    assert problem.evaluate().cheap(table.at(0)) == {}
    assert problem.evaluate(cheap=True).cheap(table.at(0)) == {"ms": 1}
    with pytest.raises(BenchError, match=r"no fidelity 0.5; expected one of \[0.25, 1.0\]"):
        problem.look_up(at(table, "0000", 0.5))


def test_the_true_front_is_exact(table: Table, problem: Problem) -> None:
    losses = np.column_stack([-table.values("acc"), table.values("ms")])
    front = [p for p in losses if not any((q <= p).all() and (q < p).any() for q in losses)]
    judge = problem.judge()
    expected = np.unique(front, axis=0)
    assert_allclose(judge.front, (expected - expected.min(0)) / np.ptp(expected, axis=0))
    assert judge.share(range(len(table))) == 1 and judge.share([]) == 0
    assert_allclose(judge.ideal, [-78.75, 1]) and assert_allclose(judge.nadir, [-45, 23.5])


def test_hypervolume_is_exact(problem: Problem) -> None:
    judge, rows = problem.judge(), np.random.default_rng(1).permutation(256)[:40]
    for count in (1, 2, 5, 40):
        corner, area = 1.1, 0.0  # strips from the best latency upwards
        for error, ms in sorted(judge.losses[rows[:count]].tolist(), key=lambda loss: (loss[0], loss[1])):
            if error < 1.1 and ms < corner:
                area += (1.1 - error) * (corner - ms)
                corner = ms
        assert_allclose(judge.share(rows[:count]) * judge.hypervolume, area)


def test_hypervolume_of_three_objectives_is_that_of_the_union() -> None:
    losses = np.array([[0.0, 0.5, 1.0], [1.0, 0.0, 0.4], [0.4, 1.0, 0.0]])
    sides = 1.1 - losses

    def both(*points: int) -> float:
        return float(np.prod(np.min(sides[list(points)], axis=0)))

    expected = both(0) + both(1) + both(2) - both(0, 1) - both(0, 2) - both(1, 2) + both(0, 1, 2)
    assert_allclose(Judge(losses).hypervolume, expected)


def test_worse_than_useful_counts_nothing(table: Table) -> None:
    problem = Problem(table, (ACC, MS), useful_error=10)
    judge = problem.judge()
    worse = np.flatnonzero(table.values("acc") < table.values("acc").max() - 10)
    assert judge.share(worse) == 0 and len(judge.found(worse)) == 0 and judge.share(range(256)) == 1
    assert_allclose(-judge.nadir[0], table.values("acc")[np.setdiff1d(range(256), worse)].min(), atol=1)
    assert len(judge.front) < len(Problem(table, (ACC, MS)).judge().front)


def test_what_breaks_a_limit_or_has_no_number_counts_nothing(table: Table) -> None:
    limited = Problem(table, (ACC, Objective("ms", limit=5.0))).judge()
    slow = table.values("ms") > 5
    assert limited.share(np.flatnonzero(slow)) == 0 and limited.nadir[1] <= 5
    names = [",".join(map(str, digits)) for digits in product(range(2), repeat=2)]
    gaps = Table("gaps", names, {"error": np.array([np.nan, 1, 2, 3]), "ms": np.array([0.0, 3, 2, 1])})
    judge = Problem(gaps, (Objective("error"), MS)).judge()
    assert judge.share([0]) == 0 and judge.share([1, 2, 3]) == 1 and len(judge.front) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objectives": (ACC,)}, "at least two objectives"),
        ({"objectives": (ACC, ACC)}, "each column is an objective once"),
        ({"objectives": (Objective("ms", optimise=False, limit=3.0), ACC, MS)}, "the error comes first"),
        ({"objectives": (ACC, Objective("sec"))}, "no column of numbers 'sec'"),
        ({"seen": "vall"}, "did you mean 'val'"),
        ({"cheap": ("acc",)}, "'acc' cannot be cheap: known: ms"),
        ({"low_fidelities": {"early": 1.0}}, "more than 0 and less than 1 evaluation, got 1.0"),
        ({"low_fidelities": {"early": 0.5, "val": 0.5}}, "told apart by their costs"),
        ({"low_fidelities": {"soon": 0.5}}, "no column of numbers 'soon'"),
        ({"useful_error": 0.0}, "more than 0 points"),
    ],
)
def test_mistakes_are_explained(table: Table, arguments: dict[str, object], message: str) -> None:
    with pytest.raises((BenchError, TableError), match=message):
        Problem(table, **{"objectives": (ACC, MS), **arguments})


def test_fronts_that_trade_nothing_off(table: Table) -> None:
    with pytest.raises(BenchError, match="single architecture"):
        Problem(table, (ACC, MS), useful_error=0.01).judge()
    with pytest.raises(BenchError, match="keeps every limit"):
        Problem(table, (ACC, Objective("ms", limit=0.5))).judge()


def test_cheap_is_asked_of_any_point() -> None:
    part = Table("part", ["0,0", "0,1", "1,1"], {"error": np.arange(3.0), "ms": np.arange(3.0)[::-1]})
    with pytest.raises(BenchError, match="part has only 3 of 4"):
        Problem(part, (Objective("error"), MS), cheap=("ms",))
