"""`nasflow compare` as it is typed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nasflow import cli

SUMMARY = json.loads((Path(__file__).parent / "data" / "summary.json").read_text())


@pytest.fixture(autouse=True)
def two_runs(tmp_path, monkeypatch):
    """runs/one, and runs/two with half as many errors again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    for name, factor in (("one", 1.0), ("two", 1.5)):
        points = [
            {**p, "metrics": {**p["metrics"], "error": factor * p["metrics"].get("error", 0.5)}}
            for p in SUMMARY["points"]
        ]
        folder = Path("runs") / name
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps({**SUMMARY, "points": points}))


def nasflow(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["nasflow", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code or 0


def test_runs_are_compared_by_name_with_a_file_for_programs_and_a_page_for_people(monkeypatch, capsys):
    assert not nasflow(
        monkeypatch, "compare", "one", "runs/two", "--at", "0.05", "--json", "o.json", "--html", "o.html"
    )
    out, err = capsys.readouterr()
    assert "one reaches further than two" in out and "at most 0.05 ms" in out and err == ""
    assert [side["name"] for side in json.loads(Path("o.json").read_text())["runs"]] == ["one", "two"]
    assert Path("o.html").read_text().startswith("<!doctype html>")


def test_one_run_alone_cannot_be_compared(monkeypatch, capsys):
    assert nasflow(monkeypatch, "compare", "one") == cli.MISTAKE
    assert "expected at least two runs to compare, got 1" in capsys.readouterr().err


def test_comparing_finished_runs_loads_neither_torch_nor_optuna():
    code = (
        "import sys; from nasflow.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "finally: print('MODULES', *sys.modules)"
    )
    out = subprocess.check_output([sys.executable, "-c", code, "compare", "one", "two"], text=True)
    assert not {"torch", "optuna", "onnxruntime", "mlflow", "prefect"} & set(
        out.rpartition("MODULES")[2].split()
    )
