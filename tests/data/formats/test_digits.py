"""The digits that ship with scikit-learn come out whole."""

import numpy as np
from sklearn.datasets import load_digits

from nasflow.data import DataSettings, load, load_test


def test_every_digit_is_in_exactly_one_part():
    data, test = load(DataSettings()), load_test(DataSettings())
    assert data.shape == (1, 8, 8) and data.classes == tuple("0123456789")
    assert (len(data.train), len(data.validation), len(test)) == (1150, 288, 359)
    levels = np.rint(np.arange(17) * 255 / 16).astype(np.uint8)
    images, labels = load_digits(return_X_y=True)
    expected = sorted(
        (levels[image.astype(int)].tobytes(), y) for image, y in zip(images, labels, strict=True)
    )
    parts = (data.train, data.validation, test)
    assert (
        sorted((image.tobytes(), y) for part in parts for image, y in zip(part.x, part.y, strict=True))
        == expected
    )
