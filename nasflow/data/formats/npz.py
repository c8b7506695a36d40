"""A NumPy .npz file of images and labels: one's own, the MNIST file that Keras uses, MedMNIST."""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nasflow.data.settings import DataSettings
from nasflow.data.source import Source, from_arrays
from nasflow.data.values import Array, DataError

# Names of (images, labels), in lower case, in the order they are looked for.
_TRAIN = (("x_train", "y_train"), ("train_images", "train_labels"), ("x", "y"), ("images", "labels"))
_VALIDATION = (("x_val", "y_val"), ("val_images", "val_labels"))
_TEST = (("x_test", "y_test"), ("test_images", "test_labels"))


def find(settings: DataSettings) -> Source:
    """Validation images, where there are some, join the training part, off which nasflow splits its own."""
    assert settings.path is not None
    path = settings.path.expanduser()
    names = _names(path)
    train, validation, test = (_pair(names, pairs) for pairs in (_TRAIN, _VALIDATION, _TEST))
    if train is None:
        wanted = ", ".join(f"{x} and {y}" for x, y in _TRAIN)
        raise DataError(
            f"{path}: expected arrays called {wanted}, got {', '.join(names) or 'none'}; rename them"
        )

    def both() -> tuple[Array, Array]:
        x, y = _arrays(path, train)
        if validation is None:
            return x, y
        more_x, more_y = _arrays(path, validation)
        if more_x.shape[1:] != x.shape[1:]:
            raise DataError(f"{path}: expected validation images of {x.shape[1:]}, got {more_x.shape[1:]}")
        return np.concatenate([x, more_x]), np.concatenate([y, more_y])

    return from_arrays(str(path), both, None if test is None else lambda: _arrays(path, test), settings)


def _names(path: Path) -> list[str]:
    with _open(path) as file:
        return list(file.files)


def _pair(names: list[str], pairs: tuple[tuple[str, str], ...]) -> tuple[str, str] | None:
    spelt = {name.lower(): name for name in names}
    return next(((spelt[x], spelt[y]) for x, y in pairs if x in spelt and y in spelt), None)


def _arrays(path: Path, names: tuple[str, str]) -> tuple[Array, Array]:
    with _open(path) as file:
        try:
            return file[names[0]], file[names[1]]
        except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(
                f"{path}: expected plain arrays in {' and '.join(names)}, got {error};"
                " save numbers, not Python objects"
            ) from error


@contextlib.contextmanager
def _open(path: Path) -> Iterator[np.lib.npyio.NpzFile]:
    try:
        stream = path.open("rb")
    except FileNotFoundError as error:
        raise DataError(f"expected an .npz file, but {path} does not exist; correct data.path") from error
    except OSError as error:
        raise DataError(f"expected an .npz file, but {path} cannot be opened: {error.strerror}") from error
    with stream:  # opened here, since np.load leaves a file open that turns out to be something else
        try:
            file = np.load(stream, allow_pickle=False)
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"expected an .npz file, got {path}: {error}") from error
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise DataError(
                f"expected an .npz file with images and labels, got one array in {path}; use np.savez"
            )
        with file:
            yield file
