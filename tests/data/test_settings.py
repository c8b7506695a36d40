"""Settings that cannot be are refused with what was expected."""

import pytest
from pydantic import ValidationError

from nasflow.data import AUGMENTATIONS, DataSettings
from nasflow.data.settings import parse_augmentation


def test_the_default_is_data_that_ships_with_a_dependency():
    assert DataSettings().name == "digits"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "digit"}, "did you mean 'digits'"),
        ({"name": "folder"}, "path: expected the folder or file that data folder lies in"),
        ({"name": "digits", "path": "x"}, "path: expected none"),
        ({"name": "my_module:images", "path": "x"}, "path: expected none"),
        ({"resise": 8}, "resise"),
        ({"resize": 0}, "resize"),
        ({"channels": 2}, "1 or 3"),
        ({"validation": 0}, "greater than 0"),
        ({"validation": 1.0}, "less than 1"),
        ({"test": 1.5}, "less than 1"),
        ({"folds": 0}, "folds"),
        ({"train_limit": 0}, "train_limit"),
        ({"seed": True}, "seed"),
        ({"normalise": 1}, "normalise"),
        ({"mean": [0.5]}, "mean: expected mean and std"),
        ({"mean": [0.5], "std": [0.1, 0.2]}, "mean: expected mean and std"),
        ({"mean": [0.5], "std": [0.0]}, "greater than 0"),
        ({"mean": [0.5], "std": [0.1], "normalise": False}, "normalise: expected true"),
        ({"scale": float("nan")}, "finite"),
        ({"augment": ["crp"]}, "did you mean 'crop'"),
        ({"augment": ["crop:x"]}, "a number above 0, such as crop:0.125, got 'x'"),
        ({"augment": ["crop:-1"]}, "a number above 0"),
        ({"augment": ["flip:0.5"]}, "no amount"),
    ],
)
def test_what_cannot_be_is_refused_with_what_was_expected(settings, message):
    with pytest.raises(ValidationError, match=message):
        DataSettings.model_validate(settings)


def test_one_number_resizes_both_sides():
    assert DataSettings(resize=16).resize == (16, 16)  # type: ignore[arg-type]
    assert DataSettings.model_validate({"resize": [16, 24]}).resize == (16, 24)


def test_settings_survive_json():
    settings = DataSettings(name="folder", path="x", resize=(8, 9), augment=("crop:0.25", "flip"))  # type: ignore[arg-type]
    assert DataSettings.model_validate_json(settings.model_dump_json()) == settings


def test_a_function_of_ones_own_needs_not_exist_yet():
    assert DataSettings(name="my_module:images").name == "my_module:images"


@pytest.mark.parametrize("kind", AUGMENTATIONS)
def test_every_augmentation_has_a_usual_amount_or_none(kind):
    assert parse_augmentation(kind) == (kind, AUGMENTATIONS[kind])
