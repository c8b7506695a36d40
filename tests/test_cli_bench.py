"""`nasflow bench`: what it prints and writes, what it says of mistakes, and that it needs no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from nasflow import cli

Call = Callable[..., tuple[int, str, str]]
BASE = ("bench", "search", "--table", "t.csv", "--error", "acc:max", "--objective", "ms", "--workers", "1")

STRATEGIES = """
def helped(space, objectives, *, seed=0, size=1, cheap=None, fidelities=()):
    from nasflow.strategies.random import random_search
    return random_search(space, objectives, seed=seed + size)


def interrupted(space, objectives, *, seed=0):
    class Interrupted:
        def ask(self, count):
            raise KeyboardInterrupt
    return Interrupted()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    rows = [(a, b, c) for a in range(4) for b in range(4) for c in range(4)]
    accuracy = [90 - 12 / (1 + a) - 6 / (1 + b) - 3 / (1 + c) for a, b, c in rows]
    latency = [1 + 2 * a + 1.5 * b + c for a, b, c in rows]
    names = [f"{a}-{b}-{c}" for a, b, c in rows]
    frame = pd.DataFrame(
        {"arch_str": names, "acc": accuracy, "ms": latency, "early": [a / 2 for a in accuracy]}
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    (tmp_path / "strategies_of_bench.py").write_text(STRATEGIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "strategies_of_bench", raising=False)
    monkeypatch.setenv("COLUMNS", "180")
    return tmp_path


@pytest.fixture
def nasflow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call the command in this process: (exit code, what it printed, what it said on the error output)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nasflow", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call


def test_a_comparison_is_printed_written_and_drawn_without_torch(folder: Path) -> None:
    (folder / "without/torch").mkdir(parents=True)
    (folder / "without/torch/__init__.py").write_text("raise ImportError('torch is not to be imported')")
    command = [
        *BASE[:-1],
        "2",
        "--strategies",
        "random,nsga2(population=10)",
        "--evals",
        "50",
        "--seeds",
        "4",
    ]
    command += ["--useful-error", "9", "--json", "o.json", "--curves", "o.svg"]
    done = subprocess.run(
        [sys.executable, "-c", "from nasflow.cli import main; main()", *command],
        env={**os.environ, "PYTHONPATH": str(folder / "without")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (
        "acc against ms on t.csv: 64 architectures" in done.stdout
        and "(only acc within 9 of the best" in done.stdout
    )
    for words in (
        "random",
        "nsga2(population=10)",
        "90%",
        "after 50",
        "IGD+",
        "R2",
        "spread",
        "p = ",
        "o.svg",
    ):
        assert words in done.stdout
    said = json.loads((folder / "o.json").read_text())
    assert (
        set(said["strategies"]) == {"random", "nsga2(population=10)"}
        and len(list((folder / "o.runs").iterdir())) == 8
    )
    assert (folder / "o.svg").read_text().startswith("<svg")
    assert done.stderr == ""


def test_cheap_and_low_fidelities_are_shown_beside_the_same_without(nasflow: Call) -> None:
    own = "strategies_of_bench:helped"
    options = (
        "--cheap",
        "ms",
        "--low-fidelity",
        "early:0.25",
        "--evals",
        "10",
        "--seeds",
        "2",
        "--json",
        "o.json",
    )
    code, out, err = nasflow(*BASE, "--strategies", f"{own}(size=2),random", *options)
    assert code == 0, err
    rows = list(json.loads(Path("o.json").read_text())["strategies"])
    assert rows == [f"{own}(size=2)", f"{own}(size=2) +cheap +low-fidelity", "random"]
    assert all(row in out for row in rows)
    assert json.loads(Path("o.json").read_text())["low_fidelities"] == {"early": 0.25}


def test_ctrl_c_says_that_what_is_finished_is_kept(nasflow: Call) -> None:
    options = ("--strategies", "random,strategies_of_bench:interrupted", "--evals", "5", "--seeds", "1")
    code, out, err = nasflow(*BASE, *options, "--json", "o.json")
    assert code == 130 and "run the same command again to go on" in err and out == ""
    assert len(list(Path("o.runs").iterdir())) == 1
    assert "nothing was written" in nasflow(*BASE, *options)[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--table", "no.csv"], "no.csv: no such file; expected a table in .parquet or .csv"),
        (["--arch-column", "arch"], "no column 'arch': did you mean 'arch_str'"),
        (["--error", "accuracy:max"], "no column of numbers 'accuracy'"),
        (["--objective", "mss"], "did you mean 'ms'"),
        (["--cheap", "early"], "'early' cannot be cheap: known: ms"),
        (["--low-fidelity", "early"], "--low-fidelity early: expected COLUMN:COST"),
        (["--low-fidelity", "early:2"], "more than 0 and less than 1"),
        (["--strategies", "ranodm"], "unknown strategy 'ranodm': did you mean 'random'"),
        (["--strategies", "nsga2(pop=3)"], "takes no argument 'pop'"),
        (["--strategies", ","], "no strategies"),
        (["--useful-error", "0.001"], "single architecture"),
    ],
)
def test_a_mistake_is_told_in_one_message(nasflow: Call, options: list[str], message: str) -> None:
    code, out, err = nasflow(*BASE, "--strategies", "random", *options)
    assert code == 2 and message in err and out == "" and "Traceback" not in err


def test_help_names_every_option(nasflow: Call) -> None:
    code, out, _ = nasflow("bench", "search", "--help")
    assert code == 0
    for option in (
        "--table",
        "--error",
        "--objective",
        "--useful-error",
        "--cheap",
        "--low-fidelity",
        "--seen",
        "--json",
    ):
        assert option in out
