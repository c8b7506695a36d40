"""The picture of a comparison: whole, in place and readable."""

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from nasflow.bench import Comparison, Problem, compare
from nasflow.bench.curves import LINE, WIDTH, _apart, svg


@pytest.fixture
def found(problem: Problem) -> Comparison:
    return compare(problem, ["random"], evals=40, seeds=3, workers=1)


def test_every_contender_has_its_line_band_and_name(found: Comparison) -> None:
    names = ["random", "a<b(c='d')", *(f"other{number}" for number in range(14))]
    found = replace(found, results=tuple(replace(found.results[0], contender=name) for name in names))
    root = ElementTree.fromstring(svg(found))
    classes = [element.get("class", "") for element in root.iter()]
    for kind in ("middle", "quartiles", "leader", "contender"):
        assert sum(name.startswith(kind) for name in classes) == len(names)
    assert {element.text for element in root.iter()} >= set(names)
    drawn = [
        (e.get("class"), e.get("stroke-dasharray")) for e in root.iter() if e.get("class", "")[:6] == "middle"
    ]
    assert len(set(drawn)) == len(names)


def test_nothing_leaves_the_picture_even_if_all_or_nothing_was_found(found: Comparison) -> None:
    curve = np.vstack([np.zeros(len(found.counts)), np.ones(len(found.counts))])
    found = replace(found, results=(replace(found.results[0], curve=curve, contender="a long name of it"),))
    text = svg(found)
    assert "nan" not in text and "inf" not in text
    for x, y in re.findall(r"[ML](-?[\d.]+),(-?[\d.]+)", text):
        assert 0 <= float(x) <= WIDTH and 0 <= float(y) <= 500


def test_names_do_not_cover_each_other() -> None:
    wanted = [100.0, 101.0, 99.0, 300.0, 310.0, 102.0]
    placed = _apart(wanted)
    assert all(b - a >= LINE - 1e-9 for a, b in pairwise(sorted(placed)))
    assert sorted(range(6), key=placed.__getitem__) == sorted(range(6), key=wanted.__getitem__)
    assert _apart([10.0, 200.0]) == [10.0, 200.0]
    assert np.mean(placed) == pytest.approx(np.mean(wanted))
