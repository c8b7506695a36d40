"""docs/spaces.md tells the truth about every built-in space and every published network."""

import inspect
import re
from pathlib import Path

import pytest

import nasflow
from nasflow import names
from nasflow.evaluators import counts
from nasflow.space import Choice
from nasflow.spaces import published
from nasflow.spaces.published import PUBLISHED

DOCUMENT = Path(__file__).parents[2] / "docs/spaces.md"
TEXT = DOCUMENT.read_text()


def rows(columns: int) -> dict[str, list[str]]:
    """The rows of the table with so many columns, by the name in the first one."""
    cells = [line.strip("|").split("|") for line in TEXT.splitlines() if line.startswith("| `")]
    return {row[0].strip(" `"): [cell.strip() for cell in row] for row in cells if len(row) == columns}


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([\w-]+)`", cell)


def test_every_space_and_every_published_network_is_told() -> None:
    assert rows(8).keys() == names.TABLES["space"].keys()
    assert rows(5).keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", names.TABLES["space"])
def test_a_space_is_as_told(name: str) -> None:
    module = names.resolve("space", name)
    space = module.space((3, 32, 32), 10) if hasattr(module, "build") else module.space()
    free = [p for p in space.parameters if not (isinstance(p, Choice) and len(p.options) == 1)]
    keywords = [
        parameter.name
        for parameter in inspect.signature(module.space).parameters.values()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    *_, points, choices, settings, folds, known = rows(8)[name]
    assert (points, choices) == (f"{space.size:.3g}", str(len(free)))
    assert quoted(settings) == keywords
    assert (folds == "nothing" or folds.startswith("nothing:")) is (not space.folds)
    assert quoted(known) == list(published.points(name))


@pytest.mark.parametrize("name", PUBLISHED)
def test_counts_are_as_told(name: str) -> None:
    one = PUBLISHED[name]
    network = names.resolve("space", one.space).build(one.point, one.shape, one.classes)
    _, params, published_params, flops, published_flops = rows(5)[name]
    assert params == f"{counts.params(network):,.0f}"
    if flops:
        assert flops == f"{counts.flops(network, one.shape):,.0f}"
    exact = "" if one.params is None else f"{one.params:,}"
    assert published_params in (exact, f"{(one.params or 0) / 1e6:.3f} M")
    assert published_flops == ("" if one.flops is None else f"{one.flops:,}")


def test_the_python_runs_and_the_experiment_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for block in re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        exec(compile(block, str(DOCUMENT), "exec"), {})
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        Path("it.yaml").write_text(block)
        nasflow.load_experiment("it.yaml")
