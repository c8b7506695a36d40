"""Searches are counted, kept and judged as they should be, whichever process makes them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from nasflow.bench import BenchError, Comparison, Judge, Problem, Result, Run, compare
from nasflow.bench.comparison import Trail, paired
from nasflow.bench.runs import Contender, contenders, parse
from nasflow.evaluators.tabular import Table, load
from nasflow.names import UnknownName
from nasflow.study import Objective

OWN = "scripted_for_bench:"


def written(found: Comparison) -> dict[str, object]:
    """All that does not depend on the clock."""
    said = found.to_json()
    for result in said["strategies"].values():
        del result["seconds"], result["seconds_per_proposal"]
    return said


# Along a run


def diagonal() -> Judge:
    """Five rows on a line and one that is no use."""
    return Judge(np.array([[0, 1], [0.25, 0.75], [0.5, 0.5], [0.75, 0.25], [1, 0], [np.inf, np.inf]]))


def test_evaluations_to_a_share_by_hand() -> None:
    judge = diagonal()
    # Four strips of a quarter and one of a tenth, up to the reference: .25 * (.1 + .35 + .6 + .85) + .1 * 1.1
    assert_allclose(judge.hypervolume, 0.585)
    trail = Trail(judge, Run("x", 0, (2, 5, 0, 1, 3, 4), (1, 2, 3.5, 4.5, 5.5, 6.5), 0, 0, 6), evals=6)
    assert trail.at(0) == 0 and trail.at(0.9) == 0
    assert_allclose([trail.at(1), trail.at(2)], 0.6 * 0.6 / 0.585)
    assert_allclose(trail.at(3.5), (0.36 + 0.5 * 0.1) / 0.585)
    assert_allclose(trail.at(4.5), (0.36 + 0.05 + 0.25 * 0.25) / 0.585)
    assert trail.reaching(0.36 / 0.585) == 1 and trail.reaching(0.37 / 0.585) == 3.5
    assert trail.reaching(0.45 / 0.585) == 4.5
    assert trail.reaching(1.0) is None  # the last row came after the budget of 6
    assert trail.at(100) == 1


def test_halving_finds_what_looking_everywhere_would(problem: Problem) -> None:
    judge = problem.judge()
    rows = tuple(int(row) for row in np.random.default_rng(3).permutation(256)[:100])
    trail = Trail(judge, Run("x", 0, rows, tuple(range(1, 101)), 0, 0, 100), evals=100)
    shares = [judge.share(rows[:count]) for count in range(1, 101)]
    for target in (0.1, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99):
        first = next((count for count, share in enumerate(shares, 1) if share >= target), None)
        assert trail.reaching(target) == first


def result(*reached: float | None) -> Result:
    return Result("x", {0.9: list(reached)}, {}, np.zeros((len(reached), 1)), {}, [], [])


def test_a_median_is_told_if_half_of_the_runs_get_there() -> None:
    assert result(10, 30, None).median(0.9) == 30
    assert result(10, 20, 40, None).median(0.9) == 30
    assert result(10, 20, None, None).median(0.9) is None and result(None).median(0.9) is None
    assert result(10, None).counted(0.9, 500).tolist() == [10, 500]


def test_pairs_are_tested_over_the_same_seeds() -> None:
    a, b = np.arange(10.0), np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9, 9])
    test = paired("x", ("a", "b"), a, b)
    assert (test.wins, test.losses) == (9, 0) and 0.001 < test.p < 0.02
    assert paired("x", ("a", "b"), a, a).p == 1
    assert_allclose(paired("x", ("a", "b"), a, a + np.arange(1, 11)).p, 2 / 2**10)  # exact without ties


# Which strategies


def test_strategies_are_written_with_their_settings() -> None:
    assert parse(" random ") == Contender("random")
    contender = parse("optuna-nsga2(population=20, crossover='x')")
    assert contender.settings == {"population": 20, "crossover": "x"}
    assert contender.label == "optuna-nsga2(population=20, crossover='x')"
    for text in ("random(", "random(3)", "random(a=b)", "random(**{})", "random(a=1))"):
        with pytest.raises(BenchError, match=r"expected settings as in random\(population=50\)"):
            parse(text)
    with pytest.raises(BenchError, match="is said by the problem"):
        parse("random(fidelities=(1,))")
    with pytest.raises(UnknownName, match="did you mean 'random'"):
        parse("ranodm")


def test_who_can_use_what_is_offered_comes_with_and_without(folder: Path, table: Table) -> None:
    objectives = (Objective("acc", "max"), Objective("ms"))
    names = ["random", f"{OWN}helped"]
    offered = Problem(table, objectives, cheap=("ms",), low_fidelities={"early": 0.5})
    assert [c.label for c in contenders(names, offered)] == [*names, f"{OWN}helped +cheap +low-fidelity"]
    offered = Problem(table, objectives, cheap=("ms",))
    assert [c.label for c in contenders(names, offered)] == [*names, f"{OWN}helped +cheap"]
    assert [c.label for c in contenders(names, Problem(table, objectives))] == names
    with pytest.raises(BenchError, match="got random twice"):
        contenders(["random", "random"], offered)
    with pytest.raises(BenchError, match="no strategies"):
        contenders([], offered)


# Whole comparisons


def test_cheap_looks_count_at_their_cost_and_only_full_trainings_are_judged(
    folder: Path, table: Table
) -> None:
    objectives = (Objective("acc", "max"), Objective("ms"))
    problem = Problem(table, objectives, seen="val", cheap=("ms",), low_fidelities={"early": 0.5})
    script = "0000/2 3333/2 3333 0000 1000/2 1000 1111"
    found = compare(
        problem, [f"{OWN}helped(script={script!r})"], evals=4, seeds=1, folder=folder / "kept", workers=1
    )
    plain, helped = found.results
    assert plain.contender.endswith(")") and helped.contender.endswith(") +cheap +low-fidelity")
    kept = {
        said["contender"]: said for said in map(json.loads, (f.read_text() for f in Path("kept").iterdir()))
    }
    rows = [table.architectures.index(a) for a in ("3,3,3,3", "0,0,0,0", "1,0,0,0", "1,1,1,1")]
    # 0000 and 3333 come twice without fidelities: duplicates cost nothing
    assert kept[plain.contender]["rows"] == [rows[1], rows[0], *rows[2:]]
    assert kept[plain.contender]["spent"] == [1, 2, 3, 4]
    # With them, halves: .5 1 2 3 3.5 4.5; the last may overstep and then counts in no result
    assert kept[helped.contender]["rows"] == rows[:3] and kept[helped.contender]["spent"] == [2, 3, 4.5]
    assert_allclose(helped.final["hypervolume"], found.judge.share(rows[:2]))
    assert_allclose(plain.final["hypervolume"], found.judge.share(rows))
    # All that was ever told: no judged error, neither true front nor window; and the objectives as they are seen
    told = Path("told.txt").read_text()
    assert "acc" not in told and f"('val', {80.0 - 32})" in told and f"('val', {89.0 - 45})" in told
    assert set(Path("given.txt").read_text().splitlines()) == {
        "['val', 'ms'] False [1.0]",
        "['val', 'ms'] True [0.5, 1.0]",
    }


def test_workers_and_this_process_find_the_same(folder: Path, problem: Problem) -> None:
    here = compare(problem, ["random"], evals=30, seeds=3, workers=1)
    there = compare(problem, ["random"], evals=30, seeds=3, workers=2)
    assert written(here) == written(there)
    assert len(set(here.results[0].final["hypervolume"])) > 1  # seeds differ


def test_everything_is_written(problem: Problem) -> None:
    found = compare(problem, ["random"], evals=60, seeds=3, workers=1, batch=7)
    said = json.loads(json.dumps(found.to_json(), allow_nan=False))
    one = said["strategies"]["random"]
    assert list(one["evaluations_to"]) == ["90%", "95%", "98%", "99%"] and list(one["hypervolume_at"]) == [
        "50"
    ]
    assert list(one["final"]) == ["hypervolume", "igd", "igd_plus", "epsilon", "coverage", "r2", "spread"]
    assert (
        len(one["curve"]["median"]) == len(said["curve_evaluations"]) and said["curve_evaluations"][-1] == 60
    )
    assert one["curve"]["median"][-1] == pytest.approx(one["final"]["hypervolume"]["median"], abs=1e-6)
    assert (
        said["seeds"] == [0, 1, 2]
        and said["batch"] == 7
        and said["true_front"]["points"] == len(found.judge.front)
    )
    assert one["curve"]["median"] == sorted(one["curve"]["median"])


def test_a_search_that_finds_nothing_useful_is_the_worst_and_no_error(folder: Path, table: Table) -> None:
    problem = Problem(table, (Objective("acc", "max"), Objective("ms")), useful_error=10)
    found = compare(problem, [f"{OWN}scripted(script='0000 0001')", "random"], evals=50, seeds=2, workers=1)
    said = json.loads(json.dumps(found.to_json(), allow_nan=False))
    worst = next(iter(said["strategies"].values()))
    assert worst["final"]["igd"]["median"] is None and worst["final"]["hypervolume"]["median"] == 0
    assert worst["evaluations_to"]["90%"] == {
        "median": None,
        "median_counted": 50,
        "runs": 0,
        "each": [None, None],
    }


def test_finished_searches_are_not_made_again_unless_something_changed(
    folder: Path, problem: Problem, table: Table
) -> None:
    made: list[int] = []

    def again(problem: Problem, names: list[str], evals: int = 10, fresh: bool = False) -> int:
        """How many searches were made."""
        made.clear()
        seen = made.append
        compare(
            problem, names, evals=evals, seeds=2, workers=1, folder=folder / "kept", fresh=fresh,
            observer=lambda done, total: seen(done),
        )  # fmt: skip
        return len(made) - 1

    own = f"{OWN}scripted(script='0000 0001 0002')"
    assert again(problem, ["random"]) == 2 and again(problem, ["random"]) == 0
    assert again(problem, ["random", own]) == 2 and again(problem, [own]) == 0
    assert again(problem, ["random"], fresh=True) == 2 and again(problem, [own]) == 0
    assert again(problem, ["random"], evals=11) == 2
    # How it is judged, and what this strategy is not told, makes no difference; what it sees does
    assert (
        again(replace(problem, useful_error=20, cheap=("ms",), low_fidelities={"early": 0.1}), ["random"])
        == 0
    )
    assert again(replace(problem, seen="val"), ["random"]) == 2
    other = Table(
        "t",
        table.architectures,
        {**{c: table.values(c) for c in table.columns}, "ms": table.values("ms") + 1},
    )
    assert again(replace(problem, table=other), ["random"]) == 2
    # Which rows are one network
    columns = {c: table.values(c) for c in table.columns}
    folded = Table("t", table.architectures, columns, np.arange(float(len(table))))
    assert again(replace(problem, table=folded), ["random"]) == 2
    # Another text of the strategy is another strategy, and of no other one
    with (folder / "scripted_for_bench.py").open("a") as file:
        file.write("\n# changed\n")
    from nasflow.bench.fingerprint import code

    code.cache_clear()
    assert again(problem, [own]) == 2 and again(problem, ["random"]) == 0


def test_a_killed_comparison_goes_on(folder: Path) -> None:
    script = f"{OWN}scripted(script='0000 1111 2222 kill')"  # seed 1 is killed at its third trial
    command = [
        "bench",
        "search",
        "--table",
        "t.parquet",
        "--error",
        "acc:max",
        "--objective",
        "ms",
        "--seeds",
        "2",
    ]
    command += ["--workers", "1", "--evals", "3", "--json", "o.json", "--strategies", script]
    killed = subprocess.run([sys.executable, "-c", "from nasflow.cli import main; main()", *command])
    assert killed.returncode == -9 and not Path("o.json").exists()
    (first,) = Path("o.runs").glob("*.json")
    before = first.stat().st_mtime_ns
    problem = Problem(load("t.parquet"), (Objective("acc", "max"), Objective("ms")))
    gone_on = compare(problem, [script], evals=3, seeds=2, workers=1, folder=Path("o.runs"))
    assert first.stat().st_mtime_ns == before and len(list(Path("o.runs").iterdir())) == 2
    assert written(gone_on) == written(compare(problem, [script], evals=3, seeds=2, workers=1))


def test_a_strategy_that_fails_is_named_with_its_traceback(folder: Path, problem: Problem) -> None:
    with pytest.raises(
        BenchError, match=r"(?s)broken, seed 0: .*in ask\n.*ZeroDivisionError: a bug of its own"
    ):
        compare(problem, [f"{OWN}broken"], evals=5, seeds=1, workers=1)


def test_a_setting_that_a_strategy_does_not_have_is_told_before_any_search(problem: Problem) -> None:
    with pytest.raises(UnknownName, match="strategy 'random' takes no argument 'x'"):
        contenders(["nsga2", "random(x=1)"], problem)


@pytest.mark.parametrize("wrong", [{"evals": 0}, {"seeds": 0}, {"batch": 0}, {"workers": 0}])
def test_nothing_cannot_be_compared(problem: Problem, wrong: dict[str, int]) -> None:
    with pytest.raises(BenchError, match="at least one"):
        compare(problem, ["random"], **wrong)
