"""Lookup tables: exact where a device is additive, and seen not to be where it is not (card 31.2, 31.10)."""

import pytest

from nasflow.hardware import table
from nasflow.hardware.fusion import UNFUSED
from nasflow.testing.devices import FUSING, Simulated, Speeds
from tests.faithful.hardware_networks import networks


def checked(device, rules, files):
    built = table.build(device, files, rules, inside=False)
    truth = [device.true_ms(file) for file in files]
    predicted = [one.p50_ms for one in built.predict(files)]
    return predicted, truth, table.additivity(built, list(zip(files, truth, strict=True)))


def test_a_table_of_an_additive_device_is_exact(tmp_path):
    device = Simulated()
    predicted, truth, told = checked(device, UNFUSED, networks(tmp_path))
    assert predicted == pytest.approx(truth, rel=1e-9)
    assert told.holds and told.r2 == pytest.approx(1) and told.mape < 1e-9
    assert told.intercept_ms == pytest.approx(device.call_ms)


def test_a_table_of_operators_is_seen_to_fail_on_a_device_that_fuses(tmp_path):
    predicted, truth, told = checked(Simulated(Speeds(gmacs=50.0), FUSING), UNFUSED, networks(tmp_path))
    assert all(p > 1.05 * t for p, t in zip(predicted, truth, strict=True))
    assert not told.holds


def test_a_table_of_kernels_is_exact_on_a_device_that_fuses(tmp_path):
    predicted, truth, told = checked(Simulated(rules=FUSING), FUSING, networks(tmp_path))
    assert predicted == pytest.approx(truth, rel=1e-9) and told.holds
