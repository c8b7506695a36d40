import pytest

from nasflow.hardware.energy_model import modelled


def test_it_says_that_it_is_a_model():
    assert modelled(10, 10).source.startswith("model")


def test_it_adds_up_operations_and_bytes():
    one = modelled(macs=10**9, dram_bytes=10**6, sram_bytes=10**6, dtype="int8")
    assert one.arithmetic_mj == pytest.approx(0.23)
    assert one.memory_mj == pytest.approx(0.16 + 0.0025)
    assert one.energy_mj == one.arithmetic_mj + one.memory_mj


def test_what_it_does_not_know_is_an_error():
    with pytest.raises(ValueError, match="expected a type of int8, float16, float32, got 'int4'"):
        modelled(1, 1, dtype="int4")
    with pytest.raises(ValueError, match="at least 0, got -1"):
        modelled(-1, 1)
