"""EvoXBench's suites on tables and through its own package, for which a stand-in of the same structure is here."""

from __future__ import annotations

import json
import sys
from collections import OrderedDict
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from nasflow.bench import BenchError, evoxbench
from nasflow.bench.evoxbench import SUITES, suite
from nasflow.cli import app
from nasflow.evaluators.tabular import Table
from nasflow.loop import run
from nasflow.strategies.random import random_search
from nasflow.study import Objective, Study, Trial


def columns(rows: int = 256) -> dict[str, Any]:
    """Numbers under the names that C-10/MOP5 to 7 need."""
    rng = np.random.default_rng(0)
    test = rng.uniform(60, 94, rows)
    costs = [name for name in suite("C-10/MOP7").columns.values() if ":" not in name]
    values = {name: rng.uniform(1, 2, rows) + test / 50 for name in costs}
    return {"cifar10_test_acc_200": test, "cifar10_val_acc_200": test + rng.normal(0, 1, rows), **values}


ARCHITECTURES = [",".join(map(str, digits)) for digits in product(range(4), repeat=4)]


def test_a_suite_is_a_problem_on_a_table_with_its_columns() -> None:
    table = Table("own", ARCHITECTURES, columns())
    problem = suite("C-10/MOP6").problem(table)
    assert problem.objectives[0] == Objective("cifar10_test_acc_200", "max")
    assert [o.metric for o in problem.searched] == [
        "cifar10_val_acc_200",
        "cifar10_params_M",
        "cifar10_flops_M",
        "cifar10_eyeriss_latency_ms",
        "cifar10_eyeriss_energy_mJ",
        "cifar10_eyeriss_arithmetic_intensity",
    ]
    assert problem.reference == 1 and problem.useful_error is None
    assert problem.judge().share(range(256)) == 1


def test_what_a_table_lacks_is_named() -> None:
    with pytest.raises(BenchError, match=r"NAS-Bench-101 with the columns cifar10_test_acc_108.*own lacks"):
        suite("C-10/MOP1").problem(Table("own", ARCHITECTURES, columns()))
    with pytest.raises(BenchError, match=r"has no table.*suite\('IN-1K/MOP9'\).official"):
        suite("IN-1K/MOP9").problem(Table("own", ARCHITECTURES, columns()))
    with pytest.raises(BenchError, match="did you mean 'C-10/MOP5'"):
        suite("C10/MOP5")


def test_the_command_takes_a_suite(folder: Path) -> None:
    pd.DataFrame({"arch_str": ARCHITECTURES, **columns()}).to_parquet(folder / "own.parquet")
    search = ["bench", "search", "--table", "own.parquet", "--suite", "C-10/MOP5"]
    rest = ["--strategies", "random", "--evals", "20", "--seeds", "2", "--json", "o.json", "--workers", "1"]
    done = CliRunner().invoke(app, [*search, *rest])
    assert done.exit_code == 0, done.output
    told = json.loads((folder / "o.json").read_text())
    assert told["seen"] == "cifar10_val_acc_200" and told["true_front"]["reference"] == 1
    assert len(told["objectives"]) == 5 and told["useful_error"] is None
    both = CliRunner().invoke(app, [*search, "--error", "x", *rest])
    assert both.exit_code != 0 and "--suite says what" in str(both.exception or both.output)


# ---- EvoXBench's own package


class StandIn:
    """A benchmark of two genes with noisy errors, as evoxbench.modules.Benchmark has its methods."""

    def __init__(self) -> None:
        self.search_space = SimpleNamespace(lb=[0, 1], ub=[2, 3], n_var=2)
        self.rng = np.random.default_rng(0)

    def evaluate(self, genomes: Any, true_eval: bool = False) -> Any:
        noise = 0 if true_eval else self.rng.normal(0, 0.1, len(genomes))
        stats = [OrderedDict(err=5.0 - x.sum(), params=float(x.sum())) for x in genomes]
        return np.array([list(values.values()) for values in stats]) + np.outer(noise, [1, 0])

    def calc_perf_indicator(self, genomes: Any, indicator: str = "igd") -> float:
        assert indicator == "hv"
        return float(len(np.unique(self.evaluate(genomes, true_eval=True), axis=0)))


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    asked: list[int] = []
    suites = ModuleType("evoxbench.test_suites")

    def in1kmop(number: int) -> StandIn:
        asked.append(number)
        return StandIn()

    suites.in1kmop = in1kmop  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "evoxbench", ModuleType("evoxbench"))
    monkeypatch.setitem(sys.modules, "evoxbench.test_suites", suites)
    return asked


def test_a_suite_runs_with_the_official_package(package: list[int]) -> None:
    official = suite("IN-1K/MOP7").official()
    assert package == [7] and [p.name for p in official.space.parameters] == ["gene01", "gene02"]
    assert official.space.size == 9 and official.objectives == (Objective("err"), Objective("params"))
    study = Study(official.space, official.objectives)
    strategy = random_search(official.space, official.objectives)
    run(study, strategy, official.evaluate(), trials=5)
    done = [trial for trial in study.trials if trial.state == "done"]
    assert all(trial.metrics["params"] == sum(trial.point.values()) for trial in done)  # type: ignore[arg-type]
    assert all(trial.metrics["err"] != 5 - trial.metrics["params"] for trial in done)  # noisy
    assert official.hypervolume([{"gene01": 0, "gene02": 1}, {"gene01": 0, "gene02": 2}]) == 2
    assert official.evaluate().train(Trial(0, {"gene01": 2, "gene02": 3}))["params"] == 5


def test_without_the_package_it_says_what_to_install() -> None:
    if "evoxbench" in sys.modules:
        pytest.skip("evoxbench is installed")
    with pytest.raises(
        BenchError, match=r"pip install evoxbench.*config\(DATABASE, DATA\).*ModuleNotFoundError"
    ):
        suite("C-10/MOP8").official()


def test_every_suite_has_its_name_and_terrain() -> None:
    assert len(SUITES) == 9 + 9 + 15
    assert all(made.name == name and made.objectives[0] == "err" for name, made in SUITES.items())
    for made in SUITES.values():
        assert made.encoding is None or len(made.encoding) == made.terrain.genes
    assert evoxbench.NADIR == 1
