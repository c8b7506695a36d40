"""Prefect's form for each flow explains every field, and what it stands for is checked like a file."""

from __future__ import annotations

from typing import Any

import pytest
from prefect import Flow

from flows import forms
from flows.forms import AS_IT_SAYS, HELP, asked, place
from flows.serving import declared, flow_of
from nasflow import hardware, names
from nasflow.errors import NasflowError

FORMS: dict[str, Flow[..., Any]] = {one["name"]: flow_of(one["entrypoint"]) for one in declared()}


def fields(name: str) -> dict[str, Any]:
    found: dict[str, Any] = FORMS[name].parameters.model_dump()["properties"]
    return found


@pytest.mark.parametrize("name", FORMS)
def test_every_field_of_every_form_is_explained(name: str) -> None:
    for field, schema in fields(name).items():
        assert schema["description"] == HELP[field]
        assert "anyOf" not in schema, "a choice between types is a riddle in Prefect's page"
    described = str(FORMS[name].description)
    assert described and "Args" not in described


def test_no_explanation_is_left_over() -> None:
    assert set(HELP) == {field for name in FORMS for field in fields(name)}


@pytest.mark.parametrize("name", ["pipeline", "search"])
def test_all_strategies_that_nasflow_knows_are_offered(name: str) -> None:
    field = fields(name)["strategy"]
    assert field["default"] == AS_IT_SAYS
    assert field["enum"] == [AS_IT_SAYS, *names.TABLES["strategy"]]


@pytest.mark.parametrize("name", ["pipeline", "search", "define"])
def test_every_space_that_is_offered_is_one_of_networks(name: str) -> None:
    field = fields(name)["space"]
    assert (field["default"], field["enum"][0]) == (AS_IT_SAYS, AS_IT_SAYS)
    offered = field["enum"][1:]
    assert {part for space in offered for part in space.split(" * ")} == set(names.TABLES["space"])
    for space in offered:
        assert " * ".join(part.name for part in asked("digits", space=space).space) == space


@pytest.mark.parametrize("name", ["pipeline", "search", "define"])
def test_all_devices_that_nasflow_describes_are_offered(name: str) -> None:
    field = fields(name)["devices"]
    assert (field["type"], field["default"]) == ("array", [])
    assert field["items"]["enum"] == fields("profile")["device"]["enum"] == hardware.profiles()


def test_trials_cannot_be_fewer_than_none() -> None:
    assert fields("pipeline")["trials"]["minimum"] == 0


def test_a_filled_in_form_is_an_experiment() -> None:
    wanted = asked("digits", "darts", "tpe", 7, ["local-cpu", "pixel-3"], ["retrain.epochs=3"])
    assert (wanted.search.strategy.name, wanted.search.trials, wanted.retrain.epochs) == ("tpe", 7, 3)
    assert ([part.name for part in wanted.space], wanted.devices) == (["darts"], ("local-cpu", "pixel-3"))
    assert str(place(wanted, "")) == "runs/digits"
    assert str(place(wanted, "elsewhere")) == "elsewhere"
    assert asked("digits") == asked("digits", AS_IT_SAYS, AS_IT_SAYS, 0, [], [])


def test_a_mistake_in_a_form_is_told_as_in_a_file() -> None:
    with pytest.raises(NasflowError, match=r"retrain\.epoch: unknown key"):
        asked("digits", overrides=["retrain.epoch=3"])


def test_runs_are_named_after_experiment_and_strategy() -> None:
    assert forms.title(asked("digits", strategy="random")) == "digits with random"
