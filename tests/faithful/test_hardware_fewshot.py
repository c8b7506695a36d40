"""Transfer between devices against what holds for any Gaussian process, and the map of one proxy against algebra."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal, spearmanr

from nasflow.hardware import fewshot
from nasflow.hardware.fewshot import Affine, Known, choose, transfer


def some(devices=4, architectures=40, columns=5, seed=0):
    """Encodings, and times of devices that are each a sum over the columns."""
    rng = np.random.default_rng(seed)
    encodings = rng.integers(0, 5, (architectures, columns)).astype(float)
    return encodings, 1 + rng.uniform(0.1, 1, (devices, columns)) @ encodings.T


def test_an_affine_device_is_met_exactly_from_two_measurements():
    proxy = np.array([1.0, 2.5, 4.0, 9.0])
    device = 3 + 0.7 * proxy
    assert Affine.of(proxy[[1, 3]], device[[1, 3]])(proxy) == pytest.approx(device)


def test_the_order_is_right_where_a_device_is_a_monotone_function_of_its_proxy():
    proxy = np.random.default_rng(0).uniform(1, 9, 50)
    device = np.exp(proxy / 3)
    assert spearmanr(Affine.of(proxy[:10], device[:10])(proxy), device).statistic == pytest.approx(1)


def test_a_prediction_is_the_condition_of_a_normal_distribution_and_its_scale_is_that_of_the_measurements():
    encodings, others = some()
    known = Known.of(encodings, others)
    numbers, new = [3, 8, 20, 31], [5, 6]
    ms = np.array([7.0, 3.0, 9.0, 4.0])
    prior, diagonal = known.prior(encodings, encodings)
    assert diagonal == pytest.approx(np.diag(prior))
    gram = prior[np.ix_(numbers, numbers)] + fewshot.NOISE * np.eye(4)
    centred = ms - ms.mean()
    # The scale that makes the measurements most likely, with one degree of freedom for their mean.
    scale = np.sqrt(centred @ np.linalg.inv(gram) @ centred / 3)
    across = prior[np.ix_(new, numbers)]
    left = prior[np.ix_(new, new)] - across @ np.linalg.inv(gram) @ across.T
    mean, deviation = known.transfer(dict(zip(numbers, ms, strict=True))).predict(encodings[new])
    assert mean == pytest.approx(ms.mean() + across @ np.linalg.inv(gram) @ centred)
    assert deviation == pytest.approx(scale * np.sqrt(np.diag(left) + fewshot.NOISE))
    likely = [
        multivariate_normal(cov=s**2 * 3 / 4 * gram).logpdf(centred) for s in scale * np.array([0.9, 1, 1.1])
    ]
    assert np.argmax(likely) == 1


def test_with_nothing_but_mixtures_it_is_bayesian_regression_on_the_known_devices(monkeypatch):
    monkeypatch.setattr(fewshot, "SHARED", 1.0)
    encodings, others = some()
    known = Known.of(encodings, others)
    numbers, ms = [0, 4, 9, 16, 25], np.array([4.0, 6.0, 3.0, 8.0, 5.0])
    standard = ((known.predict(encodings) - known.mean_ms[:, None]) / known.spread_ms[:, None]).T
    columns = np.hstack(
        [standard / np.sqrt(len(others)), np.full((len(encodings), 1), np.sqrt(fewshot.LEVEL))]
    )
    design = columns[numbers]  # loadings of variance 1 each
    loadings = np.linalg.solve(
        design.T @ design + fewshot.NOISE * np.eye(design.shape[1]), design.T @ (ms - ms.mean())
    )
    mean, _ = known.transfer(dict(zip(numbers, ms, strict=True))).predict(encodings)
    assert mean == pytest.approx(ms.mean() + columns @ loadings)


def test_each_choice_leaves_the_least_variance_over_all_architectures():
    encodings, others = some(architectures=12)
    prior, _ = Known.of(encodings, others).prior(encodings, encodings)
    chosen = choose(encodings, others, 4)

    def left(numbers):
        gram = prior[np.ix_(numbers, numbers)] + fewshot.NOISE * np.eye(len(numbers))
        return np.trace(prior) - np.trace(prior[:, numbers] @ np.linalg.solve(gram, prior[numbers]))

    for count in range(4):
        before = chosen[:count]
        best = min(left([*before, one]) for one in range(12) if one not in before)
        assert left(chosen[: count + 1]) == pytest.approx(best)


def test_a_mixture_of_known_devices_is_ordered_rightly_from_ten_measurements():
    encodings, others = some(devices=6, architectures=300)
    device = 0.6 * others[0] + 1.7 * others[3] + 2
    train, test = slice(0, 200), slice(200, 300)
    chosen = choose(encodings[train], others[:, train], 10)
    mean, _ = transfer(encodings[train], others[:, train], {n: device[n] for n in chosen}).predict(
        encodings[test]
    )
    assert spearmanr(mean, device[test]).statistic > 0.99
    assert mean == pytest.approx(device[test], rel=0.05)


def test_nothing_of_the_architectures_that_are_asked_about_is_needed():
    """Known devices with and without the times of some architectures: other predictions for them, so they count;
    and the same if those times are not in the table at all, so what is missing is missing."""
    encodings, others = some(architectures=60)
    measured = {n: float(others[0, n]) for n in (0, 7, 13, 21, 30)}
    gone = others.copy()
    gone[:, 50:] = np.nan
    cut, _ = transfer(encodings[:50], others[:, :50], measured).predict(encodings[50:])
    full, _ = transfer(encodings, others, measured).predict(encodings[50:])
    assert not np.allclose(cut, full)
    known = Known.of(encodings, gone)
    assert (known.coefficients[:, 50:] == 0).all()
    assert known.mean_ms == pytest.approx(others[:, :50].mean(axis=1))
