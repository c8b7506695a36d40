"""YAML files that people write, for any model: what is wrong is said in their words."""

import doctest
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from nasflow import yamlfile
from nasflow.yamlfile import FileError, check, override, read, shown_path


class Wheel(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    inches: int = Field(ge=10, le=29)
    tubeless: bool = False


class Bicycle(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    wheels: list[Wheel] = []
    frame: Literal["steel", "wood"] = "steel"
    weight: Annotated[float, Field(gt=0)] | Literal["unknown"] = "unknown"
    spare: Wheel | None = None
    prices: dict[str, int] = {}

    @model_validator(mode="after")
    def _spare_fits(self):
        if self.spare and self.wheels and self.spare.inches != self.wheels[0].inches:
            raise ValueError("spare: expected as many inches as the wheels")
        return self


def mistakes(raw, *overrides):
    for text in overrides:
        override(raw, text)
    with pytest.raises(FileError) as error:
        check(Bicycle, raw, "bike.yaml", overrides)
    return str(error.value)


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(yamlfile).failed == 0


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"wheels": [{"inches": 26}, {"inches": 9}]}, "wheels.1.inches: expected an integer >= 10 and <= 29, got 9"),
        ({"wheels": [{}]}, "wheels.0.inches: expected an integer >= 10 and <= 29, got nothing"),
        ({"wheels": [{"inch": 9, "inches": 26}]},
         "wheels.0.inch: unknown key: did you mean 'inches'? Known: inches, tubeless"),
        ({"wheels": 2}, "wheels: expected a list of entries, got 2"),
        ({"wheels": [2]}, "wheels.0: expected a section with inches, tubeless, got 2"),
        ({"frame": "gold"}, "frame: expected steel or wood, got 'gold'"),
        ({"weight": "heavy"}, "weight: expected a number > 0 or unknown, got 'heavy'"),
        ({"weight": -1.0}, "weight: expected a number > 0 or unknown, got -1.0"),
        ({"spare": {"inches": True}}, "spare.inches: expected an integer >= 10 and <= 29, got true"),
        ({"spare": "old"}, "spare: expected a section with inches, tubeless, got 'old'"),
        ({"wheels": [{"inches": 26}], "spare": {"inches": 20}}, "spare: expected as many inches as the wheels"),
        ({"prices": {"bell": "3"}}, "prices.bell: expected an integer, got '3'"),
        ({"prices": 3}, "prices: expected a section, got 3"),
        ({"fram": "steel"}, "fram: unknown key: did you mean 'frame'? Known: frame, prices, spare, weight, wheels"),
        ({"frame": "x" * 200}, f"frame: expected steel or wood, got '{'x' * 56}..."),
    ],
)  # fmt: skip
def test_each_mistake_is_one_line_with_its_key(raw, said):
    assert mistakes(raw) == f"bike.yaml: {said}"


def test_what_is_right_comes_back_as_the_model():
    raw = {"wheels": [{"inches": 26}], "weight": 12.5, "prices": {"bell": 3}}
    assert check(Bicycle, raw, "bike.yaml") == Bicycle(
        wheels=[Wheel(inches=26)], weight=12.5, prices={"bell": 3}
    )


def test_an_override_is_named_where_it_is_to_blame_and_only_there():
    said = mistakes({"wheels": [{"inches": 9}]}, "frame=gold", "spare.inches=3", "spare.tubeless=true")
    assert said.splitlines() == [
        "bike.yaml: 3 problems",
        "  wheels.0.inches: expected an integer >= 10 and <= 29, got 9",
        "  --set frame=gold: frame: expected steel or wood, got 'gold'",
        "  --set spare.inches=3: spare.inches: expected an integer >= 10 and <= 29, got 3",
    ]


def test_an_override_makes_the_sections_it_needs_and_leaves_the_rest():
    raw = {"spare": None, "frame": "wood"}
    override(raw, "spare.inches=26")
    override(raw, "prices.bell = 3")
    assert raw == {"spare": {"inches": 26}, "frame": "wood", "prices": {"bell": 3}}


def test_paths_are_shown_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert shown_path(tmp_path / "a" / "b.yaml") == "a/b.yaml"
    assert shown_path(tmp_path.parent / "b.yaml") == str(tmp_path.parent / "b.yaml")


def test_a_file_that_cannot_be_opened_says_why(tmp_path):
    with pytest.raises(FileError, match=r"gone\.yaml: cannot be read: No such file"):
        read(tmp_path / "gone.yaml")
    with pytest.raises(FileError, match=r"cannot be read: Is a directory"):
        read(tmp_path)
