"""The example of one's own data runs as it is printed, and its function is short."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from nasflow.data import DataSettings, load

EXAMPLE = Path(__file__).parents[1] / "examples/own_dataset.py"


def test_the_example_runs():
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE)], capture_output=True, text=True, timeout=120, check=True
    )
    assert "('flower', 'temple'), images (3, 16, 16): 1331 to train on, 333 to choose by" in done.stdout
    assert "416 to test on" in done.stdout


def test_its_function_works_by_the_name_of_its_file(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(EXAMPLE.parent)
    monkeypatch.syspath_prepend(EXAMPLE.parent)
    data = load(DataSettings(name="own_dataset.py:patches"))
    assert data.shape == (3, 16, 16) and data.classes == ("flower", "temple")
    sys.modules.pop("own_dataset", None)


def test_ones_own_data_takes_under_ten_lines():
    functions = {
        node.name: node for node in ast.parse(EXAMPLE.read_text()).body if isinstance(node, ast.FunctionDef)
    }
    patches = functions["patches"]
    assert patches.end_lineno is not None and patches.end_lineno - patches.lineno + 1 < 10
