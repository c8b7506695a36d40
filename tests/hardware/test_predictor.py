import json
import math

import numpy as np
import pytest
from scipy import stats

from nasflow.hardware import predictor
from nasflow.hardware.predictor import Accuracy, Correction, Prediction


def test_accuracy_by_hand():
    found = Accuracy.of([1.04, 1.0, 3.3, 8.0], [1.0, 2.0, 3.0, 4.0])
    assert (found.count, found.within_5.value, found.within_10.value) == (4, 0.25, 0.5)
    assert found.mape.value == pytest.approx((0.04 + 0.5 + 0.1 + 1.0) / 4)
    assert found.kendall.value == pytest.approx(4 / 6)


def test_rank_correlations_are_scipys_ties_included():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = rng.integers(1, 6, (2, 12)).astype(float)
        assert predictor.kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)
        assert predictor.spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_an_order_that_is_not_there_is_not_told():
    assert (
        predictor.kendall(np.ones(3), np.arange(3.0)) == 0 == predictor.spearman(np.ones(3), np.arange(3.0))
    )


def test_intervals_hold_their_value_and_narrow_with_networks():
    rng, widths = np.random.default_rng(0), []
    for count in (20, 200):
        true = rng.uniform(1, 9, count)
        found = Accuracy.of(true * np.exp(rng.normal(0, 0.1, count)), true)
        for name in ("within_5", "within_10", "mape", "spearman", "kendall"):
            figure = getattr(found, name)
            assert figure.low <= figure.value <= figure.high
        widths.append(found.mape.high - found.mape.low)
    assert widths[1] < widths[0] / 2


def test_accuracy_goes_through_json():
    found = Accuracy.of([1.0, 2.0, 3.5], [1.1, 2.0, 3.0])
    assert Accuracy.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(("p", "m"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([1.0], [math.nan])])
def test_what_is_no_time_has_no_accuracy(p, m):
    with pytest.raises(ValueError, match="expected"):
        Accuracy.of(p, m)


def test_a_correction_finds_a_scale_and_a_slope_despite_bad_measurements():
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 50, 200)
    y = 1.3 * x**0.9
    y[:20] *= 5
    found = Correction.of(x, y)
    assert found(Prediction(10.0, 1.0)).p50_ms == pytest.approx(1.3 * 10**0.9, rel=0.02)


def test_one_measurement_moves_a_correction_half_the_way_in_logarithms():
    assert Correction.of([1.0], [4.0]).factor == pytest.approx(2.0)


def test_no_measurement_changes_nothing():
    before = Prediction(3.0, 0.2, (("Conv", 1.0), ("Gemm", 2.0)))
    assert Correction.of([], [])(before) == before


def test_parts_still_add_up_after_a_correction():
    after = Correction.of([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])(
        Prediction(3.0, 0.0, (("Conv", 1.0), ("Gemm", 2.0)))
    )
    assert sum(ms for _, ms in after.parts) == pytest.approx(after.p50_ms)


def test_corrections_follow_one_another():
    first, second = Correction(2.0, 0.9), Correction(0.5, 1.1)
    one = Prediction(7.0, 0.0)
    assert second.after(first)(one).p50_ms == pytest.approx(second(first(one)).p50_ms)


def test_a_correction_knows_what_it_leaves_unsure():
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 50, 400)
    found = Correction.of(x, x * np.exp(rng.normal(0, 0.05, 400)))
    assert found(Prediction(10.0, 0.0)).deviation_ms == pytest.approx(0.5, rel=0.15)
