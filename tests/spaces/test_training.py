"""What the training space promises."""

import json

import numpy as np
import pytest

from nasflow.space import Choice, Real, SpaceError
from nasflow.spaces import mobile, training
from nasflow.training import Recipe, TrainingError


def test_every_name_is_a_field_of_the_recipe_behind_the_prefix():
    names = [parameter.name for parameter in training.space().parameters]
    assert all(name.startswith("train.") for name in names)
    assert {name.removeprefix("train.") for name in names} <= Recipe.__dataclass_fields__.keys()


def test_samples_belong_survive_json_and_make_recipes():
    space, rng = training.space(), np.random.default_rng(0)
    recipes = set()
    for _ in range(50):
        point = json.loads(json.dumps(space.sample(rng)))
        assert point in space
        recipes.add(training.recipe(point, Recipe()))
    assert len(recipes) == 50
    assert {recipe.optimizer for recipe in recipes} == {"adamw", "sgd"}


def test_what_the_point_says_replaces_what_the_base_says_and_nothing_else():
    base = Recipe(epochs=3, clip=2.0)
    point = {"train.learning_rate": 0.02, "train.weight_decay": 0.1, "train.batch_size": 32,
             "train.label_smoothing": 0.1, "train.optimizer": "sgd"}  # fmt: skip
    assert training.recipe(point, base) == Recipe(3, 0.02, 0.1, 32, 0.1, "sgd", clip=2.0)


def test_names_without_the_prefix_say_nothing_about_training():
    assert training.recipe({"stage1.depth": 2, "learning_rate": 1.0}, Recipe()) == Recipe()


def test_multiplies_with_an_architecture_and_parts_again():
    architecture = mobile.space((1, 8, 8), 10)
    both = architecture * training.space()
    point = both.sample(np.random.default_rng(1))
    assert training.without(point) in architecture
    assert both.canonical(point) in both
    assert training.recipe(point, Recipe()).batch_size == point["train.batch_size"]


def test_settings_fix_or_narrow():
    space = training.space(learning_rate=[0.01], weight_decay=[0.001, 0.01], batch_size=[16], optimizer=["sgd"],
                           label_smoothing=[0])  # fmt: skip
    assert space["train.learning_rate"] == Choice("train.learning_rate", (0.01,))
    assert space["train.weight_decay"] == Real("train.weight_decay", 0.001, 0.01, log=True)
    assert space["train.batch_size"].options == (16,)
    assert space["train.label_smoothing"].options == (0.0,)
    assert space["train.optimizer"].options == ("sgd",)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"learning_rate": 0.01}, SpaceError, "learning_rate is \\[lowest, highest\\]"),
        ({"learning_rate": [1, 2, 3]}, SpaceError, "learning_rate is \\[lowest, highest\\]"),
        ({"learning_rate": [0.1, 0.01]}, SpaceError, "low < high"),
        ({"weight_decay": ["a", "b"]}, SpaceError, "expected a number"),
        ({"batch_size": 32}, SpaceError, "batch_size is a list"),
        ({"batch_size": [0]}, TrainingError, "batch_size to be 1 or more"),
        ({"batch_size": ["a"]}, SpaceError, "expected numbers"),
        ({"label_smoothing": [1.0]}, TrainingError, "label_smoothing to be"),
        ({"optimizer": ["adam"]}, TrainingError, "optimizer to be one of adamw, sgd"),
    ],
)
def test_impossible_settings_are_told(settings, error, message):
    with pytest.raises(error, match=message):
        training.space(**settings)


def test_points_that_no_recipe_has_are_told():
    with pytest.raises(SpaceError, match="no \\['speed'\\]"):
        training.recipe({"train.speed": 1}, Recipe())
    with pytest.raises(SpaceError, match="expected numbers"):
        training.recipe({"train.batch_size": "32"}, Recipe())
    with pytest.raises(SpaceError, match="expected numbers"):
        training.recipe({"train.optimizer": 3}, Recipe())
