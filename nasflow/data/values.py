"""What a loaded data set is: labelled images to train on, others to judge by, and how both become floats."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from nasflow.data.pixels import resized
from nasflow.data.split import stratified_folds
from nasflow.errors import NasflowError

Array = npt.NDArray[Any]
_CHUNK = 1024  # images turned into floats at once where the whole set would fill the memory


class DataError(NasflowError):
    """Data that cannot be used as it is; the message says what was expected, what came and what to do."""


@dataclass(frozen=True, eq=False)
class Split:
    """Images and the number of the class each one shows.

    `x` is (n, channels, height, width), uint8 or float32; `y` is (n,), int64. The order is random and fixed by
    the seed, so the first hundred are a fair sample. `skipped` counts what was left out, by reason; the counts of
    training and validation together stand in `Data.skipped`.
    """

    x: Array
    y: npt.NDArray[np.int64]
    skipped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.x.ndim != 4 or self.x.dtype not in (np.uint8, np.float32):
            raise DataError(
                f"expected images (n, channels, height, width) of uint8 or float32,"
                f" got {self.x.shape} of {self.x.dtype}"
            )
        if self.y.shape != self.x.shape[:1] or self.y.dtype != np.int64:
            raise DataError(
                f"expected {len(self.x)} labels of int64, one an image, got {self.y.shape} of {self.y.dtype}"
            )

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True)
class Preprocess:
    """Turns stored images into what a network eats: `(x * scale - mean) / std`, one mean and std a channel.

    `fitted` says that mean and std were computed from the training images, so folds compute theirs anew.
    Images of another size than `resize` (height, width) are brought to it; those of `Data` already have it.
    """

    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize: tuple[int, int] | None = None
    fitted: bool = False

    def __call__(self, x: Array) -> npt.NDArray[np.float32]:
        """(n, channels, height, width) of any number type -> the same shape (or `resize`) of float32."""
        if x.ndim != 4 or x.shape[1] != len(self.mean):
            raise DataError(
                f"expected images (n, {len(self.mean)}, height, width), got {x.shape};"
                " give a batch, with as many channels as the training images have"
            )
        if self.resize is not None and x.shape[2:] != self.resize:
            x = resized(x, self.resize)
        mean, std = (np.asarray(values).reshape(1, -1, 1, 1) for values in (self.mean, self.std))
        out = x.astype(np.float32)
        out *= (self.scale / std).astype(np.float32)
        out -= (mean / std).astype(np.float32)
        return out

    def fit(self, x: Array) -> Preprocess:
        """The same with mean and std of these images, which should be those trained on and no others."""
        total = np.zeros(x.shape[1])
        squares = np.zeros(x.shape[1])
        for chunk in _chunks(x):
            values = chunk.astype(np.float64) * self.scale
            total += values.sum(axis=(0, 2, 3))
            squares += np.square(values).sum(axis=(0, 2, 3))
        count = x.size / x.shape[1]
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - np.square(mean), 0.0))
        # A channel that never varies says nothing: leave its scale alone instead of dividing by nothing.
        std = np.where(std > 1e-6 * np.maximum(1.0, np.abs(mean)), std, 1.0)
        return dataclasses.replace(self, mean=tuple(mean.tolist()), std=tuple(std.tolist()), fitted=True)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set ready for search, compression and retraining. What it is tested on is not in here.

    `classes` names what the labels 0, 1, ... mean; `augment` names the random changes to make while training
    (see augment.py); `skipped` counts the images left out by reason; `sha256` is over the images and labels of
    training and validation, and folds keep that of the data they came from.
    """

    name: str
    train: Split
    validation: Split
    classes: tuple[str, ...]
    preprocess: Preprocess
    augment: tuple[str, ...]
    skipped: Mapping[str, int]
    sha256: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of one image."""
        channels, height, width = self.train.x.shape[1:]
        return channels, height, width

    def folds(self, k: int, seed: int) -> list[Data]:
        """k ways to part training and validation images anew; every image is validated on exactly once.

        Each fold holds its own copy of the images.
        """
        x = np.concatenate([self.train.x, self.validation.x])
        y = np.concatenate([self.train.y, self.validation.y])
        counts = np.bincount(y, minlength=len(self.classes))
        if k < 2 or counts.min() < k:
            rarest = self.classes[counts.argmin()]
            raise DataError(
                f"expected 2 folds or more and as many images of every class, got {k} folds"
                f" and {counts.min()} images of class {rarest!r}; ask for fewer folds or add images"
            )
        rng = np.random.default_rng(seed)
        folds = []
        for held_out in stratified_folds(y, k, rng):
            rest = rng.permutation(np.setdiff1d(np.arange(len(y)), held_out))
            train = Split(x[rest], y[rest])
            preprocess = self.preprocess.fit(train.x) if self.preprocess.fitted else self.preprocess
            validation = Split(x[held_out], y[held_out])
            folds.append(dataclasses.replace(self, train=train, validation=validation, preprocess=preprocess))
        return folds


def digest(*splits: Split) -> str:
    """sha256 over images and labels, their order, shapes and number types included."""
    content = hashlib.sha256()
    for split in splits:
        for array in (split.x, split.y):
            content.update(f"{array.dtype.str}{array.shape}".encode())
            content.update(np.ascontiguousarray(array).data)
    return content.hexdigest()


def _chunks(x: Array) -> Iterator[Array]:
    return (x[start : start + _CHUNK] for start in range(0, len(x), _CHUNK))
