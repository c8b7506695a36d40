"""Arrays of images of any common layout come out as one."""

import numpy as np
import pytest
from PIL import Image

from nasflow.data.pixels import channels_first, resized, storable, with_channels


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((5, 8, 9), (5, 1, 8, 9)),
        ((5, 8, 9, 3), (5, 3, 8, 9)),
        ((5, 8, 9, 1), (5, 1, 8, 9)),
        ((5, 3, 8, 9), (5, 3, 8, 9)),
        ((5, 7, 8, 9), (5, 7, 8, 9)),
        ((5, 3, 8, 3), (5, 3, 8, 3)),
    ],
)
def test_layouts_become_channels_first(shape, expected):
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    out = channels_first(x)
    assert out.shape == expected and np.shares_memory(out, x)
    if shape == (5, 8, 9, 3):
        assert np.array_equal(out[:, 2], x[..., 2])


@pytest.mark.parametrize(
    ("given", "kept"), [("i8", "u1"), ("u2", "u1"), ("f8", "f4"), ("f2", "f4"), ("f4", "f4")]
)
def test_numbers_become_bytes_or_float32(given, kept):
    x = np.full((2, 3, 4), 9, given)
    out = storable(x)
    assert out.dtype == np.dtype(kept) and (out == 9).all()


@pytest.mark.parametrize(
    "x",
    [
        np.full((2, 4, 4), 256),
        np.full((2, 4, 4), -1),
        np.zeros((2, 4, 4), complex),
        np.zeros((2, 4, 4), object),
        np.zeros((2, 4, 4), bool),
    ],
)
def test_other_numbers_are_refused_with_what_to_do(x):
    with pytest.raises(ValueError, match=r"expected .*, got .*; convert them"):
        storable(x)


@pytest.mark.parametrize("shape", [(5,), (5, 64), (5, 0, 8), (5, 1, 8, 8, 2)])
def test_other_layouts_are_refused_with_what_to_do(shape):
    with pytest.raises(ValueError, match=r"expected images .*, got .*; reshape them"):
        channels_first(np.zeros(shape))


def test_what_does_not_fit_float32_becomes_infinite_without_a_warning():
    assert np.isinf(storable(np.full((1, 2, 2), 1e300))).all()


def test_grey_and_colour_become_each_other_as_in_pillow():
    colour = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6), dtype=np.uint8)
    grey = with_channels(colour, 1)
    pillow = np.stack(
        [np.asarray(Image.fromarray(image.transpose(1, 2, 0)).convert("L")) for image in colour]
    )
    assert np.abs(grey[:, 0].astype(int) - pillow).max() <= 1
    assert np.array_equal(with_channels(grey, 3), np.repeat(grey, 3, axis=1))
    assert with_channels(colour, 3) is colour
    assert with_channels(colour.astype(np.float32), 1).dtype == np.float32


def test_channels_that_are_no_colours_are_not_mixed():
    with pytest.raises(ValueError, match="expected images of 1 or 3 channels"):
        with_channels(np.zeros((1, 4, 2, 2), np.uint8), 1)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_resizing_keeps_the_number_type_and_averages_what_falls_together(dtype):
    x = np.zeros((2, 3, 8, 8), dtype)
    x[1, 2, :, ::2] = 200
    out = resized(x, (2, 4))
    assert out.shape == (2, 3, 2, 4) and out.dtype == dtype
    assert not out[0].any() and not out[1, :2].any()
    assert np.abs(out[1, 2].astype(float) - 100).max() < 30
    assert resized(x, (8, 8)) is x
