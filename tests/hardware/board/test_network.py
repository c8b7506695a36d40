import numpy as np
import pytest

from nasflow.hardware.board.network import CannotRun, random_input, samples, timed


def test_inputs_are_real_numbers_of_the_right_kind():
    draw = np.random.default_rng(0)
    image = random_input("x", ["batch", 3, 4, 4], "float32", 2, draw)
    assert image.shape == (2, 3, 4, 4) and image.dtype == np.float32 and 0.5 < image.std() < 1.5
    assert set(random_input("x", [None, 9], "int64", 1, draw).ravel()) <= {0, 1}
    assert random_input("x", [5, 2], "uint8", 1, draw).shape == (5, 2)
    assert random_input("x", [-1, 2], "float16", 3, draw).shape == (3, 2)
    assert random_input("x", [], "float32", 3, draw).shape == ()
    with pytest.raises(
        CannotRun, match=r"'x': expected fixed sizes but for the first axis, got \['b', 'h'\]"
    ):
        random_input("x", ["b", "h"], "float32", 1, draw)
    with pytest.raises(CannotRun, match="expected numbers, got string"):
        random_input("x", [1], "string", 1, draw)


def test_a_block_times_every_call():
    times = iter(range(0, 100, 7))
    assert timed(lambda: None, lambda: next(times))(3) == [7, 7, 7]


def test_samples_are_counted_by_the_first_axis():
    assert samples([np.zeros((4, 3)), np.zeros(2)]) == 4
    assert samples([np.zeros(())]) == samples([]) == 1
