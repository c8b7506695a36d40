"""Gaussian processes as models of losses: what they learn from a few points, and which kernel is chosen."""

import numpy as np
import pytest

from nasflow.space import Choice, Real, Space
from nasflow.strategies.encoding import Encoder
from nasflow.strategies.gaussian import ADDITIVE, Gaussian, Model

TABLE = Space(tuple(Choice(f"layer{i}", ("a", "b", "c")) for i in range(5)))
COSTS = np.random.default_rng(7).random((5, 3))


def table(point):
    """A sum of one cost for each choice, as latency by a lookup table is."""
    return 10.0 + sum(COSTS[i, "abc".index(point[f"layer{i}"])] for i in range(5))


def drawn(space, count, seed):
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(count)]


def accuracy(space, function, count):
    """The share of the variance of unseen points that is not explained after `count` points."""
    encoder = Encoder(space, seed=0)
    train, test = drawn(space, count, 1), drawn(space, 200, 2)
    model = Model(encoder.described, seed=0)
    process = model.learn(encoder.encode(train), np.array([function(point) for point in train]))
    truth = np.array([function(point) for point in test])
    return np.mean((process.predict(encoder.encode(test))[0] - truth) ** 2) / truth.var()


def test_what_adds_up_choice_by_choice_is_known_after_a_few_points():
    assert accuracy(TABLE, table, 30) < 0.01


def test_what_is_linear_in_numbers_is_known_after_a_few_points():
    space = Space(tuple(Real(f"x{i}", 0.0, 1.0) for i in range(4)))
    assert accuracy(space, lambda point: 3.0 * point["x0"] - 2.0 * point["x1"] + point["x3"], 12) < 0.001


def test_what_is_smooth_is_learned():
    space = Space((Real("x", 0.0, 1.0), Real("y", 0.0, 1.0)))
    assert accuracy(space, lambda point: np.sin(6 * point["x"]) * point["y"], 30) < 0.05


def test_deviations_are_as_large_as_the_errors():
    space = Space((Real("x", 0.0, 1.0), Real("y", 0.0, 1.0), Choice("kind", ("a", "b"))))
    encoder = Encoder(space, seed=0)
    rng = np.random.default_rng(3)

    def noisy(point):
        return np.sin(5 * point["x"]) + point["y"] + (point["kind"] == "a") + 0.1 * rng.normal()

    train, test = drawn(space, 40, 1), drawn(space, 300, 2)
    process = Gaussian(ADDITIVE, encoder.encode(train), np.array([noisy(point) for point in train]))
    mean, deviation = process.predict(encoder.encode(test))
    errors = (mean - np.array([noisy(point) for point in test])) / deviation
    assert 0.7 < errors.std() < 1.4


def test_losses_of_any_unit_are_learned_alike():
    encoder = Encoder(TABLE, seed=0)
    train, test = drawn(TABLE, 20, 1), encoder.encode(drawn(TABLE, 10, 2))
    losses = np.array([table(point) for point in train])
    mean, deviation = Gaussian(ADDITIVE, encoder.encode(train), losses).predict(test)
    large, wide = Gaussian(ADDITIVE, encoder.encode(train), losses * 1e6 - 5.0).predict(test)
    assert large == pytest.approx(mean * 1e6 - 5.0) and wide == pytest.approx(deviation * 1e6)


def test_losses_that_are_all_the_same_are_predicted_so():
    encoder = Encoder(TABLE, seed=0)
    train = encoder.encode(drawn(TABLE, 5, 1))
    mean, deviation = Gaussian(ADDITIVE, train, np.full(5, 3.0)).predict(train)
    assert mean == pytest.approx(3.0) and np.isfinite(deviation).all()


def test_a_model_fits_again_when_there_is_a_tenth_more():
    encoder = Encoder(TABLE, seed=0)
    points = drawn(TABLE, 40, 1)
    encoded, losses = encoder.encode(points), np.array([table(point) for point in points])
    model = Model(encoder.described, seed=0)
    fits = [model.learn(encoded[:count], losses[:count]).parameters for count in (30, 33, 34)]
    assert (fits[0] == fits[1]).all() and (fits[1] != fits[2]).any()


def test_a_model_of_a_space_with_features_takes_the_kernel_that_foretells_best():
    """A loss that depends on a feature alone, among many useless choices."""
    space = Space(TABLE.parameters, features=(lambda point: [float(hash_of(point))],))
    encoder = Encoder(space, seed=0)
    points = drawn(space, 25, 1)
    losses = np.array([np.sin(3 * hash_of(point)) for point in points])
    process = Model(encoder.described, seed=0).learn(encoder.encode(points), losses)
    assert not process.kernel.additive
    assert accuracy(space, lambda point: np.sin(3 * hash_of(point)), 25) < 0.05


def hash_of(point):
    """A number in [0, 1] without any order that choices could tell."""
    digits = "".join(str("abc".index(point[f"layer{i}"])) for i in range(5))
    return int(digits, 3) * 97 % 243 / 243


def test_more_points_than_are_fitted_are_still_known():
    encoder = Encoder(TABLE, seed=0)
    points = drawn(TABLE, 40, 1)
    encoded, losses = encoder.encode(points), np.array([table(point) for point in points])
    process = Model(encoder.described, seed=0, most=15).learn(encoded, losses)
    assert len(process.points) == 40
    assert process.predict(encoded)[0] == pytest.approx(losses, abs=0.1 * losses.std())
