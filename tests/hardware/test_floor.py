import dataclasses

import pytest

from nasflow.hardware import floor
from nasflow.testing.devices import Simulated
from nasflow.testing.predictors import chain


@pytest.fixture
def measured(tmp_path):
    """Three loads of twelve calls, each of 1 ms."""
    one = Simulated().latency(chain(tmp_path / "network.onnx", 0))
    assert one.loads == (12, 12, 12)
    return dataclasses.replace(one, samples_ms=(1.0,) * 36)


def slowed(measured, *loads):
    """Every call of these loads takes twice as long."""
    samples = [ms * (2.0 if number // 12 in loads else 1.0) for number, ms in enumerate(measured.samples_ms)]
    return dataclasses.replace(measured, samples_ms=tuple(samples))


def test_the_floor_is_the_quickest_call_whatever_the_others_took(measured):
    assert floor.floor_ms(slowed(measured, 0, 1)) == floor.floor_ms(measured) == 1.0


def test_two_loads_that_agree_are_enough_to_be_sure(measured):
    assert not floor.unsure(measured)
    assert not floor.unsure(slowed(measured, 1))
    assert floor.unsure(slowed(measured, 0, 2)), "only one load was not disturbed, and nobody can tell which"
    assert not floor.unsure(slowed(measured, 0, 1, 2)), "what disturbs all loads alike, the anchors show"


def test_a_single_load_is_never_sure(measured):
    assert floor.unsure(dataclasses.replace(measured, loads=(36,)))


def test_without_a_quiet_measurement_the_least_stretched_tells():
    assert floor.stretch([(1.1, True), (1.3, True), (1.2, True), (9.0, False)]) == 1.2
    assert floor.stretch([(9.0, False), (4.0, False)]) == 4.0
    assert floor.stretch([]) == 1.0
