"""The roofline (Williams et al., 2009): its ridge, and that it is a bound."""

import pytest

from nasflow.hardware import roofline
from nasflow.hardware.roofline import Roofline
from nasflow.testing.devices import Simulated, Speeds
from tests.faithful.hardware_networks import networks


def test_the_ridge_is_the_best_rate_over_the_bandwidth():
    board = Roofline(gmacs=100, memory_gbs=20, cache_gbs=20, call_ms=0.01)
    assert board.ridge == 5
    assert board.attainable(2.5) == 50 and board.attainable(5) == board.attainable(50) == 100


def test_no_network_is_faster_than_its_bound(tmp_path):
    device = Simulated(Speeds(gmacs=40, gbytes=12, start_us=0.2))
    found = roofline.measured(device)
    assert found.gmacs == pytest.approx(40, rel=0.05) and found.memory_gbs == pytest.approx(12, rel=0.01)
    for file in networks(tmp_path):
        assert 0.3 * device.true_ms(file) < found.bound_ms(file) <= device.true_ms(file)
