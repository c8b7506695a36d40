"""Prefect's form for each flow explains every field, and what it stands for is checked like a file."""

from __future__ import annotations

from typing import get_args

import pytest

from flows import forms
from flows.forms import AS_IT_SAYS, HELP, Strategy, asked, place
from flows.serving import SCHEDULABLE
from nasflow import names
from nasflow.errors import NasflowError


@pytest.mark.parametrize("one", SCHEDULABLE, ids=lambda one: one.name)
def test_every_field_of_every_form_is_explained(one: object) -> None:
    schema = one.parameters.model_dump()  # type: ignore[attr-defined]
    for name, field in schema["properties"].items():
        assert field["description"] == HELP[name]
        assert "anyOf" not in field, "a choice between types is a riddle in Prefect's page"
    assert one.description and "Args" not in one.description  # type: ignore[attr-defined]


def test_strategies_are_offered_by_name_and_exist() -> None:
    search = next(one for one in SCHEDULABLE if one.name == "search")
    field = search.parameters.model_dump()["properties"]["strategy"]
    assert field["enum"] == list(get_args(Strategy))
    assert field["default"] == AS_IT_SAYS
    for name in get_args(Strategy)[1:]:
        names.check("strategy", name)


def test_a_filled_in_form_is_an_experiment() -> None:
    wanted = asked("digits", "tpe", 7, ["retrain.epochs=3"])
    assert (wanted.search.strategy.name, wanted.search.trials, wanted.retrain.epochs) == ("tpe", 7, 3)
    assert str(place(wanted, "")) == "runs/digits"
    assert str(place(wanted, "elsewhere")) == "elsewhere"
    assert asked("digits") == asked("digits", AS_IT_SAYS, 0, [])


def test_a_mistake_in_a_form_is_told_as_in_a_file() -> None:
    with pytest.raises(NasflowError, match=r"retrain\.epoch: unknown key"):
        asked("digits", overrides=["retrain.epoch=3"])


def test_runs_are_named_after_experiment_and_strategy() -> None:
    assert forms.title(asked("digits", "random")) == "digits with random"
