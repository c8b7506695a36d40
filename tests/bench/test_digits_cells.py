"""The project's own table of trained cells: what is in the file, and that it is made of finished work only."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from scipy.stats import spearmanr

from nasflow.errors import NasflowError
from nasflow.evaluators import tabular
from nasflow.spaces import nasbench201

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "nasflow/bench/digits_cells.parquet"
OPERATIONS = nasbench201.OPERATIONS[:4]

made = pytest.mark.skipif(
    not TABLE.exists(), reason="the table is not made yet, see benchmarks/make_digits_cells.py"
)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return pd.read_parquet(TABLE)


@made
def test_has_every_cell_once_in_order_and_is_small(table):
    cells = itertools.product(OPERATIONS, repeat=6)
    names = nasbench201.NAMES
    assert table.arch_str.tolist() == [
        nasbench201.arch_string(dict(zip(names, c, strict=True))) for c in cells
    ]
    assert TABLE.stat().st_size < 2_000_000


@made
def test_cells_that_compute_the_same_share_all_values(table):
    meanings = [" ".join(nasbench201.representative(c)) for c in itertools.product(OPERATIONS, repeat=6)]
    assert table.groupby(meanings).cell.nunique().max() == 1
    assert table.cell.nunique() == 1_011
    values = table.drop(columns=["arch_str", "cell"])
    assert (values.groupby(table.cell).nunique(dropna=False) == 1).all(axis=None)


@made
def test_numbers_are_what_their_names_say(table):
    errors = table.filter(regex="^error")
    assert len(errors.columns) == 3 * 4
    assert ((errors >= 0) & (errors <= 100)).all(axis=None)
    for name in ("error", "error_third", "error_ninth"):
        seeds = table[[f"{name}_seed{seed}" for seed in range(3)]]
        assert np.allclose(seeds.mean(axis=1), table[name], atol=1e-4)
        images = seeds * 575 / 100  # each a whole number of wrong answers
        assert np.allclose(images, images.round(), atol=0.01)
    positive = table[["flops", "params", "memory_kb", "latency_ms", "train_seconds", "train_seconds_ninth"]]
    assert (positive > 0).all(axis=None)
    assert not table.drop(columns="arch_str").isna().any(axis=None)
    assert (table.train_seconds_ninth < table.train_seconds).mean() > 0.99


@made
def test_counts_are_those_of_the_networks(table):
    torch = pytest.importorskip("torch")
    from nasflow.evaluators import counts

    torch.set_num_threads(1)
    around = json.loads(pq.read_schema(TABLE).metadata[b"digits_cells"])["network"]
    for row in (0, 1234, 4095):
        point = nasbench201.from_arch_string(table.arch_str[row], **around)
        network = nasbench201.build(point, (1, 8, 8), 10)
        assert counts.params(network) == table.params[row]
        assert counts.flops(network, (1, 8, 8)) == table.flops[row]


@made
def test_a_search_of_it_has_something_to_find(table):
    one = table.drop_duplicates("cell")
    assert one.error.min() < 5 and one.error.quantile(0.9) > 8  # errors spread
    assert spearmanr(one.error, one.latency_ms).statistic < -0.3  # and cost something to avoid
    best, front = math.inf, 0
    for error in one.sort_values(["latency_ms", "error"]).error:
        if error < best:
            best, front = error, front + 1
    assert front >= 8


@made
def test_shorter_trainings_foretell_longer_ones_the_better_the_longer(table):
    one = table.drop_duplicates("cell")
    ninth, third = (spearmanr(one[name], one.error).statistic for name in ("error_ninth", "error_third"))
    assert 0.3 < ninth < third < 1


@made
def test_tells_how_it_was_made():
    told = json.loads(pq.read_schema(TABLE).metadata[b"digits_cells"])
    assert told["machine"]["cpu"] and told["machine"]["packages"]["torch"] and told["date"]
    assert told["trained"]["epochs"] == {"error": 9, "error_third": 3, "error_ninth": 1}


@made
def test_opens_by_its_name():
    opened = tabular.load("digits-cells")
    assert len(opened) == opened.space.size == 4_096


# ---- the program that makes it


@pytest.fixture
def program(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import make_digits_cells

    return make_digits_cells


def test_every_cell_has_one_that_is_trained(program):
    trained = program.different()
    assert len(trained) == 1_011
    assert {program.meaning(point) for point in program.points()} == set(trained)


def test_an_unfinished_run_is_no_table(program, tmp_path):
    cell = program.different()[0]
    program.append(tmp_path / "trainings.jsonl", {"cell": cell, "seed": 0})
    with pytest.raises(
        NasflowError, match=r"trainings.jsonl: expected 3033 lines, 3032 are missing.*train --out"
    ):
        program.assemble(tmp_path, tmp_path / "table.parquet")
    assert not (tmp_path / "table.parquet").exists()


def test_a_line_that_a_kill_cut_off_is_done_again(program, tmp_path):
    file = tmp_path / "lines.jsonl"
    program.append(file, {"cell": "a"})
    with file.open("a") as out:
        out.write('{"cell": "b", "er')
    assert list(program.lines(file)) == [{"cell": "a"}]
    program.append(file, {"cell": "b"})
    assert list(program.lines(file)) == [{"cell": "a"}, {"cell": "b"}]
