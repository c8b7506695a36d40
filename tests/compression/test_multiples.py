"""The multiple of channels that a device computes whole is found from times alone."""

import doctest
import math

import onnx
import pytest
from tiny import Scripted

from nasflow.compression import multiples
from nasflow.compression.multiples import BASE, STEPS, Multiples, measure


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(multiples).failed == 0


def times(block: int, noise: float = 0.0) -> dict[int, float]:
    """Of a runtime that fills up both sides of a layer to whole blocks."""
    counts = {count for one in STEPS for count in (BASE, BASE - one, BASE - one // 2)}
    full = {count: block * math.ceil(count / block) for count in counts}
    return {count: 0.01 * full[count] ** 2 * (1 + noise * (-1) ** count) for count in sorted(counts)}


@pytest.mark.parametrize("block", STEPS)
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_the_size_of_a_device_s_blocks_is_found(block, noise):
    assert multiples.step(times(block, noise)) == block


def test_where_every_channel_counts_the_smallest_step_is_taken():
    assert multiples.step(times(1)) == min(STEPS)
    assert multiples.step(dict.fromkeys(times(1), 3.0)) == min(STEPS)


def test_a_device_is_asked_with_small_networks_of_these_channels():
    def cost(file):
        weights = [one.dims for one in onnx.load(file).graph.initializer if len(one.dims) == 4]
        return times(16)[weights[0][0]]

    found = measure(Scripted(cost=cost))
    assert found == Multiples(16, times(16))
    assert Multiples.from_json(found.to_json()) == found
