"""The 1,797 handwritten digits of 8x8 pixels that ship with scikit-learn (Alpaydin and Kaynak, UCI, 1998)."""

import numpy as np

from nasflow.data.settings import DataSettings
from nasflow.data.source import Source, from_arrays
from nasflow.data.values import Array


def find(settings: DataSettings) -> Source:
    return from_arrays("data digits", _digits, None, settings)


def _digits() -> tuple[Array, Array]:
    from sklearn.datasets import load_digits  # a second to import, so only when asked for

    x, y = load_digits(return_X_y=True)
    # 17 levels of grey, 0 to 16, spread over a byte; no two fall together.
    return np.rint(x.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), y
