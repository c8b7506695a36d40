"""Rounding to few bits against arithmetic: the bounds that it cannot leave, in simulation and as files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nasflow import export
from nasflow.compression import calibrate, fakequant, precision, qdq, quantize
from nasflow.compression.calibrate import METHODS, Grid
from nasflow.compression.lsq import rounded

torch.set_num_threads(1)

SHAPE = (3, 8, 8)
IMAGES = torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_symmetric_rounding_errs_by_half_a_step_at_most(bits):
    grid = Grid.symmetric(bits)
    values = torch.linspace(-3, 3, 10001)
    step = torch.tensor(3 / grid.high)
    error = (rounded(values, step, grid) - values).abs()
    assert float(error.max()) <= float(step) / 2 * (1 + 1e-5)
    assert float(error.max()) > float(step) / 2 * 0.99


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_each_bit_halves_the_step_that_covers_a_range(bits):
    grid, step = Grid.covering(-1.0, 3.0, bits)
    assert grid.high - grid.low == 2**bits - 1
    assert step * (2**bits - 1) == pytest.approx(4.0)
    assert grid.low <= 0 <= grid.high


@pytest.mark.parametrize("bits", [4, 8])
def test_a_linear_layer_errs_within_the_bound_of_its_two_roundings(bits):
    """|y' - y| <= sum |x| |dw| + |w| |dx| + |dx| |dw|, with half a step for each d."""
    layer = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    policy = {"weight_bits.1": bits, "activation_bits.1": bits}
    made = fakequant.simulate(policy, layer, SHAPE, IMAGES)
    how = fakequant.roundings(made)["1"]
    weight, x = layer[1].weight.detach().abs(), IMAGES.flatten(1).abs()
    dw, dx = how.steps / 2, float(how.step)  # inputs at the very ends may be cut by up to one half step more
    bound = x.sum(1, keepdim=True) * dw + weight.sum(1) * dx + 192 * dx * dw
    error = (made(IMAGES) - layer(IMAGES)).abs()
    assert (error <= bound * (1 + 1e-5)).all()
    assert error.max() > 0


def test_a_real_int8_layer_is_within_its_rounding_of_the_simulated_one(tmp_path: Path):
    layer = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    made = fakequant.simulate({"weight_bits.1": 7, "activation_bits.1": 8}, layer, SHAPE, IMAGES)
    file = qdq.export(made, SHAPE, IMAGES.numpy(), tmp_path / "int8.onnx")
    assert quantize.int8_share(file) == 1
    with torch.no_grad():
        ours = made(IMAGES).numpy()
    step = (ours.max() - ours.min()) / 255  # of the file's output
    assert np.abs(export.predict(file, IMAGES.numpy()) - ours).max() <= step


def test_fewer_bits_are_fewer_bytes_and_int8_files_smaller_than_fp32(tmp_path: Path):
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.Flatten(), nn.Linear(1024, 10)
    )
    layers = precision.layers(model, SHAPE)
    sizes = [
        precision.size_bytes(
            layers, precision.uniform(precision.space(model, SHAPE, bits=(bits,), edges=bits), bits)
        )
        for bits in range(2, 9)
    ]
    whole = precision.size_bytes(layers, {})
    assert sizes == sorted(set(sizes))
    assert sizes[-1] < whole / 3.5
    export.to_onnx(model, SHAPE, tmp_path / "fp32.onnx")
    file = quantize.int8(tmp_path / "fp32.onnx", IMAGES.numpy(), tmp_path / "int8.onnx")
    assert file.stat().st_size < 0.4 * (tmp_path / "fp32.onnx").stat().st_size


def test_mse_calibration_has_the_least_squared_error_of_all_methods():
    values = torch.randn(20000, generator=torch.Generator().manual_seed(0)).relu() ** 2
    seen = calibrate.Seen(1)
    seen.add(values)

    def error(method: calibrate.Method) -> float:
        grid, step = Grid.covering(*calibrate.limits(seen, method, 4), 4)
        return float((rounded(values, torch.tensor(step), grid) - values).square().mean())

    errors = {method: error(method) for method in METHODS}
    assert min(errors, key=lambda method: errors[method]) == "mse"
    assert errors["mse"] < 0.7 * errors["minmax"]


def test_entropy_calibration_is_the_least_divergence_by_brute_force():
    """Against the definition written out: cut the histogram, merge what is left into levels, compare."""
    values = np.abs(np.random.default_rng(0).standard_t(3, 5000)).astype(np.float32)
    seen = calibrate.Seen(1)
    seen.add(torch.from_numpy(values))
    counts = np.histogram(values, calibrate.BINS, (0, values.max()))[0].astype(float)
    counts[0] = counts[1]

    def divergence(kept: int) -> float:
        whole = counts[:kept].copy()
        whole[-1] += counts[kept:].sum()
        merged = np.zeros(kept)
        for level in range(16):
            members = [bin for bin in range(kept) if bin * 16 // kept == level]
            used = [bin for bin in members if counts[bin]]
            for bin in used:
                merged[bin] = sum(counts[member] for member in members) / len(used)
        p, q = whole / whole.sum(), merged / merged.sum()
        return sum(a * np.log(a / max(b, calibrate.TINY)) for a, b in zip(p, q, strict=True) if a)

    tried = [calibrate.BINS - 16 * i for i in range(0, 127, 6)]
    low, high = calibrate.limits(seen, "entropy", 4)
    chosen = round(high / float(values.max()) * calibrate.BINS)
    assert low == 0
    assert chosen < calibrate.BINS
    assert divergence(chosen) <= min(divergence(kept) for kept in tried) + 1e-9
