"""Names in experiment files: built in, the user's own, and the wrong ones."""

import doctest
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasflow import names
from nasflow.names import UnknownName, nearest, resolve


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder; what a test imports from it is forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(names).failed == 0


@pytest.mark.parametrize("kind", names.TABLES)
def test_every_built_in_name_leads_somewhere(kind):
    for name in names.TABLES[kind]:
        found = resolve(kind, name)
        assert callable(found) or callable(found.space)


def test_looking_a_name_up_imports_nothing():
    code = "import sys, nasflow.names as n; n.check('strategy', 'nsga2'); print('optuna' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("ngsa2", "nsga2"), ("Random", "random"), ("tpee", "tpe"), ("pymoo_nsga2", "pymoo-nsga2")],
)
def test_an_unknown_name_is_answered_with_the_nearest_ones_and_the_list(wrong, meant):
    with pytest.raises(UnknownName) as error:
        resolve("strategy", wrong)
    message = str(error.value)
    assert f"unknown strategy {wrong!r}" in message and repr(meant) in message.split("?")[0]
    assert all(name in message for name in names.TABLES["strategy"])
    assert "my_module:strategy" in message


def test_a_name_near_nothing_gets_the_list_alone():
    assert nearest("zzzzzz", ["b", "a"]) == "known: a, b"


def test_a_model_can_only_be_the_users_own():
    with pytest.raises(UnknownName, match="there is none; one of your own is written my_module:model"):
        resolve("model", "resnet")


def test_own_module_attribute_file_and_dotted_module_are_found(folder):
    (folder / "mine.py").write_text("class Box:\n    thing = 3\ndef make():\n    return 7\n")
    (folder / "parts").mkdir()
    (folder / "parts" / "__init__.py").write_text("")
    (folder / "parts" / "inner.py").write_text("value = 5\n")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "other_one.py").write_text("value = 6\n")
    assert resolve("model", "mine:make")() == 7
    assert resolve("model", "mine.py:make") is resolve("model", "mine:make")
    assert resolve("space", "mine:Box.thing") == 3
    assert resolve("space", "parts.inner").value == 5
    assert resolve("space", "elsewhere/other_one.py").value == 6
    assert resolve("space", f"{folder}/elsewhere/other_one.py:value") == 6


def test_own_functions_can_be_sent_to_other_processes(folder):
    (folder / "mine.py").write_text("def make():\n    return 7\n")
    make = resolve("model", "mine.py:make")
    assert pickle.loads(pickle.dumps(make)) is make


def test_the_current_folder_comes_last_so_that_it_cannot_shadow_an_installed_module(folder):
    (folder / "yaml.py").write_text("raise SystemExit('the wrong yaml')\n")
    import yaml

    assert resolve("space", "yaml:safe_load") is yaml.safe_load
    assert sys.path[-1] == str(folder) and str(folder) not in sys.path[:-1]
    with pytest.raises(UnknownName, match=r"'yaml' already is the module .*; rename yaml\.py"):
        resolve("space", "yaml.py:load")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine:mak", "no 'mak' in mine: did you mean 'make'"),
        ("mine.py:mak", r"no 'mak' in mine\.py: did you mean 'make'"),
        ("mime:make", "no module 'mime', neither installed nor in .*: did you mean 'mine'"),
        ("mime.py:make", r"no file mime\.py in .*: did you mean 'mine\.py'"),
        ("nowhere/mine.py:make", r"no file nowhere/mine\.py"),
        ("parts/mine:make", "expected a Python file such as my_file.py, got parts/mine"),
        ("my-file.py:make", r"expected a file named like a variable, got my-file\.py"),
        ("needy:make", "needy imports 'not_there', which is not installed"),
        ("broken:make", r"broken\.py line 2 is not valid Python"),
    ],
)
def test_own_names_that_lead_nowhere_say_what_to_mend(folder, name, message):
    (folder / "mine.py").write_text("def make():\n    return 7\n")
    (folder / "my-file.py").write_text("make = 1\n")
    (folder / "needy.py").write_text("import not_there\n")
    (folder / "broken.py").write_text("x = 1\ndef make(:\n")
    with pytest.raises(UnknownName, match=message):
        resolve("model", name)


def test_an_error_inside_the_users_own_code_is_shown_as_it_is(folder):
    (folder / "wrong.py").write_text("1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        resolve("model", "wrong:make")


# Arguments that come from files


def make(space, objectives, *, seed, population=10, crossover=None):
    return space, objectives, seed, population, crossover


def test_arguments_from_a_file_reach_the_function():
    assert names.call("strategy", "x", make, "s", "o", seed=1, population=3) == ("s", "o", 1, 3, None)


@pytest.mark.parametrize("argument", ["popluation", "space", "objectives"])
def test_an_argument_the_function_does_not_take_from_a_file_is_refused(argument):
    with pytest.raises(
        UnknownName, match=f"strategy 'x' takes no argument '{argument}': .*crossover, population, seed"
    ):
        names.call("strategy", "x", make, "s", "o", seed=1, **{argument: 3})


def test_a_missing_argument_is_named():
    with pytest.raises(UnknownName, match="strategy 'x' needs the argument 'seed', which is not given"):
        names.call("strategy", "x", make, "s", "o")


def test_a_function_that_takes_any_argument_gets_any():
    assert names.call("space", "x", lambda *a, **k: (a, k), 1, b=2) == ((1,), {"b": 2})


def test_an_error_inside_the_function_is_not_taken_for_a_wrong_argument():
    def broken(seed):
        raise TypeError("inside")

    with pytest.raises(TypeError, match="inside"):
        names.call("strategy", "x", broken, seed=1)


def test_a_name_in_capitals_is_still_near():
    assert nearest("NSGA2", ["nsga2", "tpe"]).startswith("did you mean 'nsga2'?")
