"""The fusion rule of nn-Meter (Zhang et al., 2021), by the numbers of card 31.10."""

import pytest

from nasflow.hardware.fusion import fused


@pytest.mark.parametrize(("times", "expected"), [((10, 2, 10.5), True), ((10, 2, 11.5), False)])
def test_two_operators_are_fused_if_they_save_more_than_half_of_the_shorter(times, expected):
    assert fused(*times) is expected


def test_saving_just_half_of_the_shorter_is_not_enough():
    assert not fused(10, 2, 11) and fused(10, 2, 11, alpha=0.4)
