"""A data set before its images are read: what the labels are, and how to get at the images one asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from nasflow.data.pixels import channels_first, resized, storable, with_channels
from nasflow.data.settings import DataSettings
from nasflow.data.split import Indices, Labels
from nasflow.data.values import Array, DataError

NOT_FINITE = "pixels that are not numbers (NaN or infinite)"


@dataclass(frozen=True, eq=False)
class Images:
    """Images that were read: `x` (m, channels, height, width); `kept` says which of those asked for, m positions."""

    x: Array
    kept: Indices
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Part:
    """The training or the test part: all its labels, numbered by `Source.classes`, and a way to read images.

    `read` takes rising positions. `skipped` counts what was passed over while listing, by reason.
    """

    y: Labels
    read: Callable[[Indices], Images]
    skipped: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Source:
    """What a format finds. The test part is a function, so that nothing of it is opened before it is called."""

    classes: tuple[str, ...]
    train: Part
    test: Callable[[], Part] | None = None


def from_arrays(
    where: str,
    train: Callable[[], tuple[Array, Array]],
    test: Callable[[], tuple[Array, Array]] | None,
    settings: DataSettings,
) -> Source:
    """The source that arrays of (images, labels) make. `where` begins the error messages."""
    x, y = train()
    labels = as_labels(y, where)
    names, codes = np.unique(labels, return_inverse=True)

    def open_test() -> Part:
        assert test is not None
        x, y = test()
        return array_part(f"{where}, test part", x, numbered(as_labels(y, where), names, where), settings)

    return Source(
        classes=tuple(str(name) for name in names),
        train=array_part(where, x, codes.astype(np.int64), settings),
        test=None if test is None else open_test,
    )


def array_part(where: str, x: Array, y: Labels, settings: DataSettings) -> Part:
    """The part that images in memory make, any layout that `channels_first` takes."""
    if x.ndim == 0 or len(x) != len(y):
        raise DataError(
            f"{where}: expected one label an image, got images of shape {x.shape} and {len(y)} labels"
        )
    try:
        x = channels_first(x)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from error

    def read(indices: Indices) -> Images:
        try:
            images = storable(x[indices])
            if settings.channels is not None:
                images = with_channels(images, settings.channels)
        except ValueError as error:
            raise DataError(f"{where}: {error}") from error
        finite: Array = np.ones(len(images), dtype=bool)
        if images.dtype != np.uint8:
            finite = np.asarray(np.isfinite(images).all(axis=(1, 2, 3)))
        lost = int(np.sum(~finite))
        images = images[finite] if lost else images
        if settings.resize is not None:
            images = resized(images, settings.resize)
        return Images(images, np.flatnonzero(finite), {NOT_FINITE: lost} if lost else {})

    return Part(y, read)


def as_labels(y: Array, where: str) -> Array:
    """Labels as one axis of whole numbers or texts; an error for anything else."""
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise DataError(
            f"{where}: expected one label an image, got labels of shape {y.shape};"
            " of one-hot labels take y.argmax(axis=1)"
        )
    if y.dtype.kind == "O" and all(isinstance(label, str) for label in y):
        return y.astype(str)
    if y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.rint(y)).all():
        return y.astype(np.int64)
    if y.dtype.kind in "biuU":
        return y
    raise DataError(f"{where}: expected labels that are whole numbers or texts, got {y.dtype}; convert them")


def numbered(y: Array, names: Array, where: str) -> Labels:
    """The position of each label in the sorted `names` of the training part."""
    if unknown := sorted(set(y.tolist()) - set(names.tolist())):
        raise DataError(
            f"{where}: expected test labels that training has too ({', '.join(map(str, names[:10]))}, ...),"
            f" got {', '.join(map(str, unknown[:10]))}; remove those images or add some to the training part"
        )
    return np.searchsorted(names, y).astype(np.int64)


def merged(*counts: Mapping[str, int]) -> dict[str, int]:
    """Counts by reason, added up."""
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)
