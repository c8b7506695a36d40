import numpy as np
import pytest
import torch

from nasflow.compression.calibrate import METHODS, SAMPLE, CalibrationError, Grid, Seen, limits, weight_shares

torch.set_num_threads(1)


def seen(*batches: torch.Tensor) -> Seen:
    one = Seen(len(batches))
    for batch in batches:
        one.add(batch)
    return one


def normal(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 3.0), (-1.0, 3.0), (-3.0, 0.0), (1.0, 3.0), (-3.0, -1.0), (0.0, 0.0)]
)
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_grids_have_all_their_numbers_and_zero_among_them(low, high, bits):
    grid, step = Grid.covering(low, high, bits)
    assert grid.high - grid.low == 2**bits - 1
    assert grid.low <= 0 <= grid.high
    assert step > 0
    assert grid.top > 0
    assert grid.low * step <= low + step
    assert grid.high * step >= high - step


def test_the_widest_range_is_that_of_all_batches():
    one = seen(torch.tensor([1.0, 2.0]), torch.tensor([[-5.0], [1.0]]))
    assert limits(one, "minmax", 4) == (-5, 2)


def test_what_is_remembered_stays_small_and_is_the_same_every_time():
    batches = [normal(3 * SAMPLE, seed) for seed in range(3)]
    first, second = seen(*batches), seen(*batches)
    assert len(first.sample) <= SAMPLE
    np.testing.assert_array_equal(first.sample, second.sample)
    assert first.sample.std() == pytest.approx(1, abs=0.02)
    assert first.high == max(float(batch.max()) for batch in batches)


def test_outliers_are_cut_off_by_all_but_minmax():
    values = normal(50_000).abs()
    values[7] = 300.0
    tops = {method: limits(seen(values), method, 4)[1] for method in METHODS}
    assert tops.pop("minmax") == 300
    assert all(2 < top < 30 for top in tops.values()), tops


@pytest.mark.parametrize("method", METHODS)
def test_values_of_one_sign_keep_it(method):
    assert limits(seen(normal(5000).abs()), method, 4)[0] == pytest.approx(0, abs=1e-3)
    assert limits(seen(-normal(5000).abs()), method, 4)[1] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_one_value_has_a_range(method):
    grid, step = Grid.covering(*limits(seen(torch.zeros(100)), method, 8), 8)
    assert np.isfinite(step)
    assert grid.low == 0


def test_weights_are_covered_whole_except_for_least_error():
    weights = torch.stack([normal(400), normal(400, 1)])
    weights[0, 0] = 12.0
    grid = Grid.symmetric(4)
    assert weight_shares(weights, "percentile", grid).tolist() == [1, 1]
    shares = weight_shares(weights, "mse", grid)
    assert shares[0] < 0.9 * shares[1] < 0.9


def test_bad_data_and_methods_are_refused():
    with pytest.raises(CalibrationError, match="finite values"):
        seen(torch.tensor([1.0, float("nan")]))
    with pytest.raises(CalibrationError, match="minmax, percentile, mse, entropy, got 'kl'"):
        limits(seen(torch.ones(3)), "kl", 8)
