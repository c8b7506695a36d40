"""Targets of compression: read as people write them, and turned into limits."""

import doctest

import pytest

from nasflow import target as module
from nasflow.target import Target


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(module).failed == 0


@pytest.mark.parametrize(
    ("text", "metric", "limit"),
    [
        ("latency_ms=0.6x@local-cpu", "latency_ms@local-cpu", 1.2),
        ("latency_ms=1.5@local-cpu", "latency_ms@local-cpu", 1.5),
        ("flops=0.5x", "flops", 500.0),
        ("size_kb=1e2", "size_kb", 100.0),
    ],
)
def test_a_target_is_times_the_original_or_an_amount(text, metric, limit):
    target = Target.parse(text)
    assert target.metric == metric
    objective = target.objective({"latency_ms@local-cpu": 2.0, "flops": 1000.0, "size_kb": 400.0})
    assert (objective.metric, objective.goal, objective.optimise) == (metric, "min", False)
    assert objective.limit == pytest.approx(limit)
    assert Target.parse(str(target)) == target


@pytest.mark.parametrize(
    "text", ["", "latency_ms", "latency_ms=x", "flops=-1x", "flops=0x", "flops=1..2", "0.6x"]
)
def test_what_is_no_target_is_told_what_one_looks_like(text):
    with pytest.raises(ValueError, match=r"expected a target such as latency_ms=0\.6x@local-cpu.*got"):
        Target.parse(text)
