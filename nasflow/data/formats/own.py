"""The user's own data: a function that returns (x, y), or (x, y, x_test, y_test) where there is a test part."""

import numpy as np

from nasflow.data.settings import DataSettings
from nasflow.data.source import Source, from_arrays
from nasflow.data.values import DataError
from nasflow.names import resolve


def find(settings: DataSettings) -> Source:
    function = resolve("data", settings.name)
    if not callable(function):
        raise DataError(
            f"data {settings.name}: expected a function that returns (x, y), got {type(function).__name__};"
            " name it as my_module:function"
        )
    returned = function()
    if not isinstance(returned, tuple) or len(returned) not in (2, 4):
        got = f"a tuple of {len(returned)}" if isinstance(returned, tuple) else type(returned).__name__
        raise DataError(f"data {settings.name}: expected (x, y) or (x, y, x_test, y_test) from it, got {got}")
    try:
        x, y, *test = (np.asarray(array) for array in returned)
    except ValueError as error:
        raise DataError(
            f"data {settings.name}: expected arrays, got lists of uneven lengths ({error});"
            " bring images to one size"
        ) from error
    return from_arrays(
        f"data {settings.name}", lambda: (x, y), (lambda: (test[0], test[1])) if test else None, settings
    )
