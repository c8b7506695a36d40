"""docs/methods.md says what there is and what was measured: every method has a row, every number is a result's."""

import inspect
import json
import re
from pathlib import Path

import pytest
import yaml

from nasflow import experiment, names
from nasflow.evaluators.zero_cost import SCORES
from nasflow.spaces import mobile
from nasflow.study import Objective

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs/methods.md"
HOW_TO = ROOT / "docs/how-to.md"


@pytest.fixture
def measured(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import measured

    return measured


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its own headings."""
    _, _, rest = DOCUMENT.read_text().partition(f"\n## {heading}\n")
    table = re.findall(r"^\|(.*)\|$", rest.partition("\n## ")[0], re.MULTILINE)
    return [[cell.strip() for cell in line.split("|")] for line in table[2:]]


def named(heading: str) -> list[str]:
    return [name for cells in rows(heading) for name in re.findall(r"`([^`]+)`", cells[0])]


def cells_of(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_every_strategy_and_every_score_has_one_row():
    assert sorted(named("Strategies")) == sorted(names.TABLES["strategy"])
    assert sorted(named("Zero-cost scores")) == sorted(SCORES)


@pytest.mark.parametrize("heading", ["Strategies", "Zero-cost scores"])
def test_every_row_is_whole_and_links_a_check(heading):
    found = rows(heading)
    assert len({len(cells) for cells in found}) == 1
    for cells in found:
        assert "](../tests/" in "".join(cells), cells[0]


def test_strategies_of_a_row_are_the_same_and_what_they_need_is_said():
    for cells in rows("Strategies"):
        places = {names.TABLES["strategy"][name] for name in re.findall(r"`([^`]+)`", cells[0])}
        assert len(places) == 1, cells[0]
        name = re.findall(r"`([^`]+)`", cells[0])[0]
        takes = inspect.signature(names.resolve("strategy", name)).parameters
        assert ("fidelities" in takes) == ("fidelities" in cells[3]), name
        assert ("cheap" in takes) == ("cheap" in cells[3] or "score" in cells[3]), name


def test_the_numbers_are_those_of_the_results(measured):
    assert measured.filled(DOCUMENT.read_text()) == DOCUMENT.read_text(), "run: python docs/measured.py"


def test_results_are_told_in_their_rows_and_nowhere_else(measured, tmp_path):
    shares = {"50": 0.8349, "100": 0.9, "200": 0.961}
    strategies = {
        "random": {"shares": shares},
        "nsga2": {"shares": shares, "wins": 18, "losses": 2, "beats_random": True},
        "optuna-qmc": {"shares": shares, "wins": 9, "losses": 11, "beats_random": False},
        "pymoo-agemoea": {"beats_random": None, "note": "not installed"},
    }
    said = {
        "search-own_table": {"strategies": strategies},
        "search-auto": {"value": 0.451, "worst": 0.9, "on_columns_not_chosen_on": None},
        "search-estimators": {"estimators": {"grad_norm": {"kendall": 0.234}, "naswot": {"kendall": 0.6}}},
    }
    for name, result in said.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    before = measured.filled(DOCUMENT.read_text(), tmp_path / "none")
    after = measured.filled(before, tmp_path)
    assert cells_of(after, "random")[-2:] == ["83 / 90 / 96", "it is random"]
    assert cells_of(after, "nsga2")[-2:] == ["83 / 90 / 96", "better, 18 : 2"]
    assert cells_of(after, "optuna-qmc")[-2:] == ["83 / 90 / 96", "not better, 9 : 11"]
    assert cells_of(after, "search-auto")[-3:] == ["0.45", "0.90", "-"]
    assert cells_of(after, "grad-norm")[-1] == "0.23"
    told = ("random", "nsga2", "optuna-qmc", "search-auto", "grad-norm", "naswot")
    changed = {a for a, b in zip(after.splitlines(), before.splitlines(), strict=True) if a != b}
    assert all(any(line.startswith(f"| `{name}`") for name in told) for line in changed)
    assert len(changed) == len(told)
    assert measured.filled(after, tmp_path / "none") == before


def test_the_searches_of_the_how_to_can_be_made():
    (block,) = re.findall(r"^```yaml\n(search: .*?)^```$", HOW_TO.read_text(), re.MULTILINE | re.DOTALL)
    objectives = (Objective("error"), Objective("flops"))
    knowledge = {"cheap": lambda point: {"synflow": 0.0}, "fidelities": (1 / 9, 1 / 3, 1.0)}
    for line in block.splitlines():
        chosen = experiment.from_mapping(
            {"name": "it", "data": "digits", **yaml.safe_load(line)}, "how-to"
        ).search.strategy
        make = names.resolve("strategy", chosen.name)
        told = {
            name: value for name, value in knowledge.items() if name in inspect.signature(make).parameters
        }
        space = mobile.space((1, 8, 8), 10)
        made = names.call("strategy", chosen.name, make, space, objectives, **chosen.arguments, **told)
        assert made.ask(1), line
