"""A table small enough to know by heart, and strategies that do what a test says."""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nasflow.bench import Problem
from nasflow.evaluators.tabular import Table
from nasflow.study import Objective

SCRIPTED = '''
import os
import signal
from pathlib import Path

from nasflow.study import Proposal


def note(file, what):
    with open(file, "a") as out:
        print(what, file=out)


class Scripted:
    """Asks for the points of `script`, as digits, `x/2` meaning x at half a training; seeds start further on."""

    def __init__(self, space, script, seed):
        self.space, self.script = space, script.split()[seed:]

    def ask(self, count):
        now, self.script = self.script[:count], self.script[count:]
        return [self.proposal(word) for word in now]

    def proposal(self, word):
        digits, _, half = word.partition("/")
        if digits in ("kill", "interrupt", "fail") and not Path("done").exists():
            Path("done").touch()
            if digits == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt if digits == "interrupt" else ZeroDivisionError("by zero")
        digits = digits if digits.isdigit() else "0000"
        point = {p.name: int(d) for p, d in zip(self.space.parameters, digits)}
        return Proposal(point, 0.5 if half else 1.0)

    def tell(self, trials):
        for trial in trials:
            note("told.txt", sorted(trial.metrics.items()))


def scripted(space, objectives, *, seed=0, script="0000"):
    return Scripted(space, script, seed)


def helped(space, objectives, *, seed=0, script="0000", cheap=None, fidelities=()):
    note("given.txt", f"{[o.metric for o in objectives]} {cheap is not None} {list(fidelities)}")
    if cheap:
        assert set(cheap({p.name: 0 for p in space.parameters})) == {"ms"}
    words = script.split()
    return Scripted(space, " ".join(w if 0.5 in fidelities else w.partition("/")[0] for w in words), seed)


class Broken:
    def ask(self, count):
        raise ZeroDivisionError("a bug of its own")


def broken(space, objectives, *, seed=0):
    return Broken()
'''


def formulas() -> pd.DataFrame:
    """256 architectures of four digits: more of anything costs time, and lowers the error by less and less."""
    digits = np.array(list(product(range(4), repeat=4)))
    a, b, c, d = digits.T
    return pd.DataFrame(
        {
            "arch_str": [",".join(map(str, row)) for row in digits],
            "acc": 90 - 24 / (1 + a) - 12 / (1 + b) - 6 / (1 + c) - 3 / (1 + d),
            "val": 89 - 23 / (1 + a) - 13 / (1 + b) - 5 / (1 + c) - 4 / (1 + d),
            "early": 80 - 20 / (1 + a) - 12 / (1 + b),
            "ms": 1 + 3.0 * a + 2.0 * b + 1.5 * c + 1.0 * d,
        }
    )


@pytest.fixture(scope="session")
def table() -> Table:
    frame = formulas()
    return Table("formulas", frame.pop("arch_str").tolist(), {str(k): v.to_numpy() for k, v in frame.items()})


@pytest.fixture
def problem(table: Table) -> Problem:
    return Problem(table, (Objective("acc", "max"), Objective("ms")))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where strategies are that do what a test says, and the table as a file."""
    (tmp_path / "scripted_for_bench.py").write_text(SCRIPTED)
    formulas().to_parquet(tmp_path / "t.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "scripted_for_bench", raising=False)  # another test's, in another folder
    monkeypatch.setenv("COLUMNS", "160")
    return tmp_path
