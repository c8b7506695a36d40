"""What `import nasflow` offers: these names, each the thing itself, and none of them paid for before it is used."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import nasflow

STUB = Path(nasflow.__file__).with_name("__init__.pyi")
HEAVY = (
    "torch",
    "optuna",
    "onnxruntime",
    "onnx",
    "mlflow",
    "prefect",
    "pydantic",
    "numpy",
    "sklearn",
    "pymoo",
)


def imported_by(code: str) -> set[str]:
    """The modules that are there after `code` ran in a process of its own."""
    program = f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_all_is_sorted_and_exactly_what_is_public():
    assert nasflow.__all__ == sorted(set(nasflow.__all__))
    submodules = {name for name in vars(nasflow) if f"nasflow.{name}" in sys.modules}
    assert {name for name in dir(nasflow) if not name.startswith("_")} - submodules == set(nasflow.__all__)


def test_no_public_name_hides_a_module():
    modules = {path.stem for path in STUB.parent.glob("*") if path.is_dir() or path.suffix == ".py"}
    assert not modules & set(nasflow.__all__)


def test_type_checkers_see_the_same_names_at_the_same_places():
    stub = ast.parse(STUB.read_text())
    (said,) = (
        ast.literal_eval(node.value)
        for node in stub.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    )
    imports = {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert said == nasflow.__all__ == sorted(imports)
    for name, (module, called) in imports.items():
        assert getattr(nasflow, name) is getattr(importlib.import_module(module), called)


def test_a_star_import_brings_them_all():
    names: dict[str, object] = {}
    exec("from nasflow import *", names)
    assert names.keys() - {"__builtins__"} == set(nasflow.__all__)


def test_importing_nasflow_imports_nothing_else():
    alone = imported_by("import nasflow; assert nasflow.__version__; dir(nasflow)")
    assert {name for name in alone if name.startswith("nasflow")} == {"nasflow"}
    assert not alone & {*HEAVY}


def test_a_search_without_networks_imports_no_torch():
    names = [
        "Space",
        "Choice",
        "Real",
        "Objective",
        "Study",
        "Trial",
        "Evaluate",
        "run",
        "random_search",
        "nsga2",
    ]
    after = imported_by(f"from nasflow import {', '.join(names)}")
    assert not after & {"torch", "onnxruntime", "mlflow", "prefect", "sklearn"}


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'nasflow' has no attribute 'fitt'"):
        nasflow.fitt  # noqa: B018
    assert not hasattr(nasflow, "load")
