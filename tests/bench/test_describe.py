"""What is said of a table, where the answer is known: the table of formulas, noise alone, and cells."""

from __future__ import annotations

import json
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from typer.testing import CliRunner

from nasflow.bench import BenchError, Problem
from nasflow.bench.describe import correlated, describe
from nasflow.bench.neighbours import choices, codes, neighbours
from nasflow.cli import app
from nasflow.evaluators.tabular import Table
from nasflow.spaces import nasbench201
from nasflow.study import Objective

ACC, MS = Objective("acc", "max"), Objective("ms")


def cells(operations: int = 3) -> Table:
    """Cells of a few operations: all numbers are those of what a cell means, but for the noise of each row."""
    every = list(product(nasbench201.OPERATIONS[:operations], repeat=6))
    rng = np.random.default_rng(0)
    means = {cell: cell.count("nor_conv_1x1") + 0.1 * cell.count("skip_connect") for cell in every}
    truth = np.array([means[nasbench201.representative(cell)] for cell in every])
    noisy = truth[:, None] + rng.normal(0, 0.5, (len(every), 3))
    names = [nasbench201.arch_string(dict(zip(nasbench201.NAMES, cell, strict=True))) for cell in every]
    seeds = {f"error_seed{seed}": noisy[:, seed] for seed in range(3)}
    pair = {"val_acc": 50 - truth, "test_acc": 48 - truth}
    return Table(
        "cells", names, {"error": truth, "latency_ms": -truth, **seeds, **pair, "row_noise": noisy[:, 0]}
    )


def test_neighbours_differ_in_one_place_by_one_step() -> None:
    names = [f"{a}:{b}" for a, b in product((8, 16, 24), "xy")]
    table = Table("sizes", names, {"error": np.arange(6.0)})
    assert choices(table)[0].ordered
    graph = neighbours(table, codes(table))
    found = {
        (table.architectures[a], table.architectures[b])
        for a, b in zip(graph.starts, graph.ends, strict=True)
    }
    assert {b for a, b in found if a == "8:x"} == {"8:y", "16:x"}
    assert {b for a, b in found if a == "16:y"} == {"16:x", "8:y", "24:y"}
    assert [graph.ends[graph.first[i] : graph.first[i + 1]].size for i in range(6)] == [2, 2, 3, 3, 2, 2]
    path = graph.walk(5, 7, np.random.default_rng(0))
    steps = {(table.architectures[a], table.architectures[b]) for p in path.T for a, b in pairwise(p)}
    assert path.shape == (6, 7) and steps <= found


def test_rows_that_are_missing_are_stepped_over_and_lonely_ones_are_not_left() -> None:
    table = Table("gaps", ["8:1:1", "24:1:1", "16:2:2"], {"error": np.arange(3.0)})
    graph = neighbours(table, codes(table))
    assert graph.starts.tolist() == [0, 1] and graph.ends.tolist() == [1, 0]
    path = graph.walk(3, 50, np.random.default_rng(0))
    assert ((path == 2).all(axis=0) == (path[0] == 2)).all()


def test_the_front_is_that_of_the_judge(table: Table) -> None:
    found = describe(table, (ACC, MS))
    judge = Problem(table, (ACC, MS)).judge()
    assert found.front is not None and found.columns == ("acc", "ms")
    assert_allclose(judge.losses[list(found.front.rows)], judge.front)
    assert found.front.ends == {"acc": "3,3,3,3", "ms": "0,0,0,0"}
    assert found.front.alone is not None
    without = [row for row in found.front.rows if row != found.front.rows[2]]
    assert found.front.alone[2] == pytest.approx(1 - judge.share(without))
    useful = describe(table, (ACC, MS), useful_error=10).front
    assert useful is not None and len(useful.rows) < len(found.front.rows)


def test_a_sum_of_terms_is_decided_by_its_largest_one(table: Table) -> None:
    found = describe(table, (ACC, MS)).importance
    assert max(found["acc"].alone, key=found["acc"].alone.__getitem__) == "p1"
    assert found["ms"].together > 0.97  # ranks of a sum are nearly a sum
    alone = describe(table, (Objective("val", "max"), MS)).importance["ms"].alone
    assert list(alone.values()) == sorted(alone.values(), reverse=True)
    assert sum(found["ms"].alone.values()) == pytest.approx(found["ms"].together)  # a full product of options


def test_smooth_columns_reach_far_and_noise_does_not(table: Table) -> None:
    rng = np.random.default_rng(0)
    columns = {name: table.values(name) for name in table.columns} | {"noise": rng.normal(size=256)}
    found = describe(Table("formulas", table.architectures, columns), (MS, Objective("noise"))).locality
    smooth, rough = found["ms"], found["noise"]
    assert smooth.neighbours is not None and smooth.neighbours > 0.6 > 0.1 > abs(rough.neighbours or 0)
    by_edits = [correlation for correlation in smooth.by_edits if correlation is not None]
    assert len(by_edits) == 4 and by_edits == sorted(by_edits, reverse=True) and by_edits[-1] < 0
    assert smooth.walk[0] == pytest.approx(smooth.neighbours, abs=0.05)
    assert rough.length == 1 < (smooth.length or 99)
    assert smooth.optima == 1 / 256  # one way down to (0, 0, 0, 0)
    assert (
        rough.optima is not None and 0.03 < rough.optima < 0.13
    )  # 1 of 13 is best of itself and 12 neighbours


def test_correlations_are_of_ranks() -> None:
    a = np.array([1.0, 2.0, 3.0, np.nan, 4.0])
    assert_allclose(correlated(a, np.exp(a)), (1, 1)) and assert_allclose(correlated(a, -a), (-1, -1))
    assert_allclose(correlated(a, np.array([1.0, 3.0, 2.0, 9.0, 4.0])), (0.8, 2 / 3))


def test_noise_is_found_wherever_a_thing_is_there_twice() -> None:
    found = {
        one.what: one for one in describe(cells(), (Objective("row_noise"), Objective("latency_ms"))).noise
    }
    seeds = found["error: 3 seeds"]
    assert seeds.spread == pytest.approx(0.5, rel=0.05) and 0.5 < (seeds.correlation or 0) < 0.95
    assert found["val_acc and test_acc"].spread < 1e-9 and found[
        "val_acc and test_acc"
    ].correlation == pytest.approx(1)
    rows = found["row_noise: rows of equal meaning"]
    assert rows.spread == pytest.approx(0.5, rel=0.1) and rows.correlation is None
    assert found["latency_ms: rows of equal meaning"].spread < 1e-9
    assert len(found) == 4


def test_redundancy_is_that_of_the_cells(table: Table) -> None:
    found = describe(cells(), (Objective("error"), Objective("latency_ms"))).redundancy
    every = product(nasbench201.OPERATIONS[:3], repeat=6)
    assert found.meanings == len({nasbench201.representative(cell) for cell in every})
    assert found.numbers <= found.meanings and found.largest is not None and found.largest > 1
    assert describe(table).redundancy.meanings is None


def test_without_names_all_columns_are_described_but_no_front(table: Table) -> None:
    found = describe(table)
    assert found.columns == table.columns and found.front is None and found.left_out == 0
    assert found.locality["ms"].optima is None
    many = {f"c{i}": np.arange(256.0) for i in range(15)} | {"constant": np.zeros(256)}
    crowded = describe(Table("many", table.architectures, many))
    assert len(crowded.columns) == 12 and crowded.left_out == 3


def test_missing_numbers_are_left_out(table: Table) -> None:
    gaps = table.values("acc").copy()
    gaps[::5] = np.nan
    found = describe(Table("gaps", table.architectures, {"acc": gaps, "ms": table.values("ms")}), (ACC, MS))
    told = found.to_json()
    assert told["missing"] == {"acc": 52, "ms": 0}
    json.dumps(told, allow_nan=False)


def test_mistakes_are_explained(table: Table) -> None:
    flat = Table("flat", table.architectures, {"acc": table.values("acc"), "zero": np.zeros(256)})
    with pytest.raises(BenchError, match="zero is the same in all rows"):
        describe(flat, (ACC, Objective("zero")))
    with pytest.raises(BenchError, match="every column is the same"):
        describe(Table("flat", table.architectures, {"zero": np.zeros(256)}))


def test_the_command(folder: Path) -> None:
    done = CliRunner().invoke(
        app, ["bench", "describe", "t.parquet", "--error", "acc:max", "--objective", "ms", "--json", "o.json"]
    )
    assert done.exit_code == 0, done.output
    for words in ("points on the front", "Rank correlations", "local optima", "explains alone"):
        assert words in done.output
    told = json.loads((folder / "o.json").read_text())
    assert told["rows"] == 256 and told["front"]["objectives"][0] == {"column": "acc", "goal": "max"}
    plain = CliRunner().invoke(app, ["bench", "describe", "t.parquet"])
    assert plain.exit_code == 0 and "Name the error and the costs" in " ".join(plain.output.split())
