"""The examples in docstrings are true."""

import doctest
import importlib
from pathlib import Path

import pytest

import nasflow

ROOT = Path(nasflow.__file__).parent
MODULES = [
    ".".join(("nasflow", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__")
    for path in sorted(ROOT.rglob("*.py"))
    if ">>> " in path.read_text()
]


def test_there_are_examples():
    assert "nasflow.space" in MODULES


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_are_true(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
