import copy
import json

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor

from nasflow.hardware import trees
from nasflow.hardware.trees import Forest

COLUMNS = ("a", "b", "c")


def samples(count, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.uniform(0, 100, (count, 3))
    return x, np.ceil(x[:, 0] / 8) + 0.1 * x[:, 1]


@pytest.fixture(scope="module")
def forest():
    return trees.fit(*samples(200), COLUMNS, trees=8)


def test_a_forest_answers_as_scikit_learns_does(forest):
    x, y = samples(200)
    theirs = RandomForestRegressor(8, random_state=0, max_features=1.0).fit(x, y)
    new = samples(500, seed=1)[0]
    assert np.allclose(forest(new)[0], theirs.predict(new), rtol=1e-12)


def test_a_forest_goes_through_json_exactly(forest):
    back = Forest.from_json(json.loads(json.dumps(forest.to_json())))
    new = samples(100, seed=2)[0]
    assert all((a == b).all() for a, b in zip(forest(new), back(new), strict=True))


def test_the_deviation_fits_the_errors_on_new_samples():
    x, y = samples(400)
    new, true = samples(400, seed=3)
    told, deviation = trees.fit(x, y, COLUMNS)(new)
    assert 0.7 < np.sqrt(np.mean(((told - true) / deviation) ** 2)) < 1.4


def test_a_forest_of_one_answer_is_sure_but_not_of_nothing():
    told, deviation = trees.fit(np.zeros((5, 1)), np.full(5, 2.0), ("a",), trees=4)(np.ones((1, 1)))
    assert told == 2.0 and deviation > 0


@pytest.mark.parametrize(
    ("part", "broken"),
    [
        ("left", lambda old: [0, *old[1:]]),  # in circles
        ("right", lambda old: [10**6, *old[1:]]),
        ("feature", lambda old: [3, *old[1:]]),
        ("feature", lambda old: [0.5, *old[1:]]),
        ("value", lambda old: [float("nan"), *old[1:]]),
        ("threshold", lambda old: old[1:]),
    ],
)
def test_a_malformed_tree_is_refused(forest, part, broken):
    value = copy.deepcopy(forest.to_json())
    value["trees"][0][part] = broken(value["trees"][0][part])
    with pytest.raises(ValueError, match="expected"):
        Forest.from_json(value)


def test_a_forest_without_trees_is_refused(forest):
    with pytest.raises(ValueError, match="at least one tree"):
        Forest.from_json({**forest.to_json(), "trees": []})


def test_rows_of_another_width_are_refused(forest):
    with pytest.raises(ValueError, match="3 columns"):
        forest(np.zeros((2, 4)))
