"""EvoXBench (Lu et al., IEEE TEVC 2023, arXiv:2208.04321): its suites, its scaling, the true fronts of two."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from nasflow.bench import Judge, Problem, indicators
from nasflow.bench.evoxbench import SUITES, suite
from nasflow.evaluators import tabular
from nasflow.evaluators.tabular import Table
from nasflow.study import Objective, Trial

TABLE = Path(__file__).parents[3] / "shared/data/nasbench201_hardware.parquet"

# Suite: genes, number of objectives, whether EvoXBench scales them; as in its test suites.
PUBLISHED = {
    "C-10/MOP1": (26, 2, True),
    "C-10/MOP2": (26, 3, True),
    "C-10/MOP3": (5, 3, True),
    "C-10/MOP4": (5, 4, True),
    "C-10/MOP5": (6, 5, True),
    "C-10/MOP6": (6, 6, True),
    "C-10/MOP7": (6, 8, True),
    "C-10/MOP8": (32, 2, False),
    "C-10/MOP9": (32, 3, False),
    "IN-1K/MOP1": (25, 2, False),
    "IN-1K/MOP2": (25, 2, False),
    "IN-1K/MOP3": (25, 3, False),
    "IN-1K/MOP4": (34, 2, False),
    "IN-1K/MOP5": (34, 2, False),
    "IN-1K/MOP6": (34, 3, False),
    "IN-1K/MOP7": (21, 2, False),
    "IN-1K/MOP8": (21, 3, False),
    "IN-1K/MOP9": (21, 4, False),
    **{
        f"CitySeg/MOP{number}": (24, objectives, False)
        for number, objectives in enumerate((2, 3, 3, 4, 5, 2, 3, 3, 4, 5, 3, 5, 6, 6, 7), start=1)
    },
}


def test_suites_are_the_published_ones() -> None:
    made = {name: (s.terrain.genes, len(s.objectives), s.normalised) for name, s in SUITES.items()}
    assert made == PUBLISHED
    assert suite("IN-1K/MOP5").objectives == ("err", "flops")
    assert suite("IN-1K/MOP9").objectives == ("err", "params", "flops", "latency")
    five, six, seven = (suite(f"C-10/MOP{number}").objectives for number in (5, 6, 7))
    assert seven == (*five, *six[3:]) and five[:3] == six[:3]


def test_fixed_utopia_and_nadir_points() -> None:
    assert suite("C-10/MOP9").utopia == (0.0527, 392_426, 79_733_440)
    assert suite("C-10/MOP9").nadir == (0.275, 1_672_426, 270_342_848)
    assert suite("IN-1K/MOP9").nadir == (0.29796, 1.0197992e7, 1.37679763e9, 70.3806)
    assert suite("IN-1K/MOP2").utopia == (0.1987, 6.69461472e8)
    assert suite("C-10/MOP5").utopia is None  # that of the true front


def small(rows: int = 200) -> Problem:
    """A table of 200 rows whose errors are seen with noise, judged as a suite is."""
    rng = np.random.default_rng(0)
    cost = rng.uniform(0, 1, (rows, 2))
    error = 1 / (0.2 + cost.sum(axis=1)) + rng.exponential(0.2, rows)
    values = {"err": error, "seen": error + rng.normal(0, 0.1, rows), "a": cost[:, 0], "b": cost[:, 1]}
    names = ["".join(digits) for digits in product("0123456789", repeat=3)][:rows]
    table = Table("small", names, values)
    return Problem(table, tuple(map(Objective, ("err", "a", "b"))), seen="seen", reference=1.0)


def test_scaling_and_indicators_are_those_of_the_true_front() -> None:
    judge = small().judge()
    assert_allclose(judge.front.min(axis=0), 0) and assert_allclose(judge.front.max(axis=0), 1)
    everything = range(200)
    assert judge.share(everything) == 1 and indicators.igd(judge.found(everything), judge.front) == 0
    ends = [row for row in everything if (judge.losses[row] == 1).any() and (judge.losses[row] <= 1).all()]
    assert ends and judge.share(ends) == 0  # at the nadir nothing is gained


def test_a_search_sees_noise_and_the_judge_does_not() -> None:
    problem = small()
    trial = Trial(0, problem.table.at(7))
    assert set(problem.look_up(trial)) == {"seen", "a", "b"}
    assert problem.look_up(trial)["seen"] == problem.table.values("seen")[7] != problem.table.values("err")[7]
    columns = {name: problem.table.values(name) for name in ("err", "a", "b")}
    quiet = Problem(Table("quiet", problem.table.architectures, columns), problem.objectives, reference=1.0)
    assert problem.judge().hypervolume == quiet.judge().hypervolume


def test_a_reference_at_the_nadir_gives_less_than_one_beyond_it() -> None:
    losses = np.array([[0.0, 1.0], [0.25, 0.5], [1.0, 0.0]])
    assert Judge(losses, 1.0).hypervolume == pytest.approx(0.75 * 0.5)
    assert Judge(losses).hypervolume > 0.4


@pytest.mark.skipif(not TABLE.exists(), reason="needs ../shared/data/nasbench201_hardware.parquet")
def test_true_fronts_have_the_known_hypervolumes() -> None:
    table = tabular.load(TABLE)
    for name, points, hypervolume in (("C-10/MOP5", 121, 0.713), ("C-10/MOP6", 73, 0.740)):
        judge = suite(name).problem(table).judge()
        assert len(judge.front) == points
        assert judge.hypervolume == pytest.approx(hypervolume, abs=5e-4)
