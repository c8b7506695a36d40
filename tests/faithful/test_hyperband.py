"""Hyperband against its papers: both published tables for R = 81 and eta = 3, and their totals."""

from itertools import pairwise

import pytest

from nasflow.loop import Evaluate, run
from nasflow.space import Real, Space
from nasflow.strategies.hyperband import brackets, hyperband
from nasflow.strategies.rungs import FidelityError
from nasflow.study import Objective, Study

JMLR = [(81, 27, 9, 3, 1), (34, 11, 3, 1), (15, 5, 1), (8, 2), (5,)]
ICLR = [(81, 27, 9, 3, 1), (27, 9, 3, 1), (9, 3, 1), (6, 2), (5,)]
LADDER = tuple(3.0**k / 81 for k in range(5))


@pytest.mark.parametrize(("table", "sizes", "total"), [("jmlr", JMLR, 1902), ("iclr", ICLR, 1701)])
def test_the_published_tables(table, sizes, total):
    made = brackets(5, 3.0, table)
    assert [bracket.sizes for bracket in made] == sizes
    assert [bracket.start for bracket in made] == [0, 1, 2, 3, 4]
    trained = sum(
        count * 3 ** (bracket.start + step) for bracket in made for step, count in enumerate(bracket.sizes)
    )
    assert trained == total


@pytest.mark.parametrize(("table", "sizes", "total"), [("jmlr", JMLR, 1902), ("iclr", ICLR, 1701)])
def test_a_search_follows_its_table(table, sizes, total):
    space, objectives = Space((Real("x", 0.0, 1.0),)), (Objective("error"),)
    study = Study(space, objectives)
    strategy = hyperband(space, objectives, fidelities=LADDER, table=table)
    run(study, strategy, Evaluate(lambda trial: {"error": trial.point["x"]}), trials=24, batch=7)
    counts, at = [], 0
    for row in sizes:
        found = []
        for count in row:
            rung = study.trials[at : at + count]
            assert len({trial.fidelity for trial in rung}) == 1
            found.append(sorted(trial.point["x"] for trial in rung))
            at += count
        for below, above in pairwise(found):
            assert above == below[: len(above)]
        counts.append(tuple(len(rung) for rung in found))
    assert counts == sizes
    assert sum(81 * trial.fidelity for trial in study.trials[:at]) == pytest.approx(total)


def test_a_table_of_another_name_is_refused():
    with pytest.raises(FidelityError, match="table: expected jmlr or iclr, got 'icml'"):
        brackets(5, 3.0, "icml")
