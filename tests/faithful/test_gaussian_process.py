"""The Gaussian process against the book (Rasmussen and Williams, 2006): what holds for any, whatever its kernel."""

import numpy as np
import pytest
from scipy.stats import norm

from nasflow.space import Choice, Real, Space
from nasflow.strategies.encoding import Encoder
from nasflow.strategies.gaussian import ADDITIVE, SMOOTH, Gaussian

SPACE = Space(
    (
        Choice("kind", ("a", "b", "c")),
        Choice("other", ("a", "b", "c")),
        Real("x", 0.0, 1.0),
        Real("y", 0.0, 1.0),
    )
)
ENCODER = Encoder(SPACE, seed=0)
QUIET = -30.0  # the logarithm of next to no noise


def some(count, seed=0):
    """Points and their losses."""
    rng = np.random.default_rng(seed)
    points = [SPACE.sample(rng) for _ in range(count)]
    losses = [np.sin(5 * p["x"]) + p["y"] ** 2 + {"a": 0.0, "b": 0.4, "c": 1.0}[p["kind"]] for p in points]
    return ENCODER.encode(points), np.array(losses)


def parameters(points, kernel, noise, weights=-1.0):
    width = points.numbers.shape[1] + (points.categories.shape[1] if kernel.additive else 0)
    return np.concatenate([np.full(width, weights), [0.0, -1.0, -1.0, noise]])


@pytest.fixture(params=[ADDITIVE, SMOOTH], ids=["additive", "smooth"])
def kernel(request):
    return request.param


def test_without_noise_it_interpolates(kernel):
    points, losses = some(12)
    process = Gaussian(kernel, points, losses, parameters(points, kernel, QUIET, weights=2.0), fitted=False)
    mean, deviation = process.predict(points, noise=False)
    assert mean == pytest.approx(losses, abs=1e-3) and (deviation < 5e-3 * losses.std()).all()


def test_prediction_is_the_textbook_formula(kernel):
    points, losses = some(15)
    process = Gaussian(kernel, points, losses, parameters(points, kernel, np.log(0.1)), fitted=False)
    new, _ = some(7, seed=1)
    targets = (losses - losses.mean()) / losses.std()
    gram = process._covariance(points, points) + (0.1 + 1e-6) * np.eye(15)
    across = process._covariance(new, points)
    mean, deviation = process.predict(new)
    assert mean == pytest.approx(across @ np.linalg.solve(gram, targets) * losses.std() + losses.mean())
    variance = np.diag(process._covariance(new, new) - across @ np.linalg.solve(gram, across.T)) + 0.1
    assert deviation == pytest.approx(np.sqrt(variance) * losses.std())
    assert process.predict(new, noise=False)[1] ** 2 == pytest.approx(deviation**2 - 0.1 * losses.var())


def test_far_from_all_it_knows_it_is_unsure(kernel):
    points, losses = some(10)
    process = Gaussian(kernel, points, losses)
    _, known = process.predict(points)
    _, new = process.predict(some(50, seed=3)[0])
    assert new.max() > known.max()


def test_left_out_is_what_a_process_without_the_observation_says_of_it(kernel):
    points, losses = some(9)
    fixed = parameters(points, kernel, np.log(0.05))
    process = Gaussian(kernel, points, losses, fixed, fitted=False)
    targets = (losses - losses.mean()) / losses.std()
    gram = process._covariance(points, points) + (0.05 + 1e-6) * np.eye(9)
    expected = 0.0
    for one in range(9):
        rest = np.arange(9) != one
        weights = np.linalg.solve(gram[np.ix_(rest, rest)], gram[rest, one])
        mean, variance = weights @ targets[rest], gram[one, one] - weights @ gram[rest, one]
        expected += norm.logpdf(targets[one], mean, np.sqrt(variance)) + 0.5 * np.log(2 * np.pi)
    assert process.left_out() == pytest.approx(expected)


def density(process, points, losses, parameters):
    """The logarithm of the likelihood, by its definition, and the prior of the parameters, both negative."""
    targets = (losses - losses.mean()) / losses.std()
    one = Gaussian(process.kernel, points, losses, parameters, fitted=False)
    gram = one._covariance(points, points) + (np.exp(parameters[-1]) + 1e-6) * np.eye(len(losses))
    likelihood = 0.5 * targets @ np.linalg.solve(gram, targets) + 0.5 * np.linalg.slogdet(gram)[1]
    width = len(parameters) - 4
    medians = np.concatenate([np.full(width, np.log(0.3 / width)), np.log([0.5, 0.5, 0.5]), [-4.0]])
    spreads = np.concatenate([np.ones(width), [1.0, 1.5, 1.5, 1.5]])
    return likelihood + 0.5 * np.sum(((parameters - medians) / spreads) ** 2)


def test_the_fit_ends_where_no_parameter_can_be_improved(kernel):
    """Finite differences of the posterior density, written down anew, vanish where the fit with gradients ended."""
    points, losses = some(20)
    fitted = Gaussian(kernel, points, losses)
    fitted = Gaussian(
        kernel, points, losses, fitted.parameters
    )  # a second run, in case the steps did not suffice
    for index in range(len(fitted.parameters)):
        step = np.zeros(len(fitted.parameters))
        step[index] = 1e-4
        up, down = (density(fitted, points, losses, fitted.parameters + sign * step) for sign in (1, -1))
        assert (up - down) / 2e-4 == pytest.approx(0.0, abs=0.02)


def test_draws_have_the_mean_and_the_covariance_of_the_prediction(kernel):
    points, losses = some(10)
    process = Gaussian(kernel, points, losses, parameters(points, kernel, np.log(0.1)), fitted=False)
    new, _ = some(4, seed=1)
    draws = process.draw(new, 20_000, np.random.default_rng(0))
    mean, deviation = process.predict(new, noise=False)
    assert draws.shape == (20_000, 4)
    assert draws.mean(axis=0) == pytest.approx(mean, abs=0.03 * losses.std())
    assert draws.std(axis=0) == pytest.approx(deviation, rel=0.03)


def test_believing_is_being_told(kernel):
    points, losses = some(12)
    first = Gaussian(kernel, points[:8], losses[:8])
    both = first.believing(points[8:], losses[8:])
    told = Gaussian(kernel, points, losses, first.parameters, fitted=False)
    new, _ = some(5, seed=2)
    assert both.predict(new)[0] == pytest.approx(told.predict(new)[0])
