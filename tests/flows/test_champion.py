"""The champion of a device is the best that ever shipped, and gives way only to what is better beyond doubt."""

from __future__ import annotations

import doctest
from typing import Any

import pytest

from flows import champion
from flows.champion import better
from nasflow.experiment import ShipRule

Certificate = dict[str, Any]


def certificate(error: float, ms: float, **changes: Any) -> Certificate:
    """A file with this validation error that takes this long, give or take a tenth."""
    cost = {"p50_ms": ms, "ci": [0.9 * ms, 1.1 * ms], "environment": {"cpu": "A53", "load_average": ms}}
    return {
        "validation_error": error,
        "latency": {"pi": cost},
        "limits": [{"metric": "flops", "holds": True}],
        "data": {"sha256": "d" * 64},
        **changes,
    }


def rule(text: str) -> ShipRule:
    return ShipRule.model_validate(text)


OLD = certificate(0.10, 1.0)
BROKEN = [{"metric": "flops", "holds": False}]


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(champion).failed == 0


@pytest.mark.parametrize("text", ["knee", "best error", "fastest within 2 points"])
def test_a_file_never_takes_the_place_of_its_equal(text: str) -> None:
    assert not better(OLD, OLD, "pi", rule(text))[0]
    assert not better(certificate(0.10, 0.95), OLD, "pi", rule(text))[0], (
        "as fast, as far as anybody can tell"
    )


@pytest.mark.parametrize(
    ("error", "ms", "knee", "best_error", "fastest"),
    [
        (0.09, 0.5, True, True, True),  # better in both
        (0.09, 1.0, True, True, True),  # better in one, as good in the other
        (0.10, 0.5, True, True, True),
        (0.09, 2.0, False, True, False),  # a trade
        (0.11, 0.5, False, False, True),
        (0.13, 0.5, False, False, False),  # more than two points worse
        (0.07, 2.0, False, True, True),  # the champion is more than two points worse
        (0.11, 2.0, False, False, False),
    ],
)
def test_each_rule_has_its_own_idea_of_better(
    error: float, ms: float, knee: bool, best_error: bool, fastest: bool
) -> None:
    new = certificate(error, ms)
    said = [better(new, OLD, "pi", rule(t))[0] for t in ("knee", "best error", "fastest within 2 points")]
    assert said == [knee, best_error, fastest]


@pytest.mark.parametrize("text", ["knee", "best error", "fastest within 2 points"])
def test_no_two_files_take_turns(text: str) -> None:
    """Whatever beats another is not beaten by it: the alias cannot go back and forth."""
    some = [certificate(error, ms) for error in (0.08, 0.10, 0.11, 0.13) for ms in (0.5, 0.95, 1.0, 2.0)]
    assert not [
        (a, b)
        for a in some
        for b in some
        if better(a, b, "pi", rule(text))[0] and better(b, a, "pi", rule(text))[0]
    ]


def test_limits_come_first() -> None:
    assert not better(certificate(0.01, 0.1, limits=BROKEN), OLD, "pi", rule("knee"))[0]
    wins, why = better(certificate(0.5, 9.0), certificate(0.1, 1.0, limits=BROKEN), "pi", rule("knee"))
    assert wins and why == "it keeps its limits, the other does not"


def test_what_cannot_be_compared_changes_nothing() -> None:
    best = certificate(0.01, 0.1)
    other_data = {**best, "data": {"sha256": "e" * 64}}
    assert better(other_data, OLD, "pi", rule("knee")) == (False, "it was certified on other data")
    other_machine = {**best, "latency": {"pi": {**best["latency"]["pi"], "environment": {"cpu": "A76"}}}}
    wins, why = better(other_machine, OLD, "pi", rule("knee"))
    assert not wins and "cpu is A76, was A53" in why
    elsewhere = {**best, "latency": {"phone": best["latency"]["pi"]}}
    assert better(elsewhere, OLD, "phone", rule("knee")) == (False, "the other was not measured on phone")


def test_the_reason_has_both_numbers() -> None:
    _, why = better(certificate(0.09, 0.5), OLD, "pi", rule("best error"))
    assert why == "by the rule best error: validation error 9.0 % against 10.0 %, 0.500 ms against 1.00 ms"
