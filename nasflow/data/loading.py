"""From settings to data: find it, part it, read the part that is asked for. The test part has its own door."""

from __future__ import annotations

import hashlib
import importlib
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL

from nasflow.data import split
from nasflow.data.container import stamp
from nasflow.data.pixels import Array
from nasflow.data.settings import FORMATS, DataSettings
from nasflow.data.source import Source, merged
from nasflow.data.split import Indices, Labels
from nasflow.data.values import Data, DataError, Preprocess, Split, digest
from nasflow.files import replacing

# What happens to images after they are read, so that changing it leaves kept ones good.
_AFTER_READING = {"augment", "mean", "normalise", "scale", "std", "validation"}
_CACHE_FORMAT = 1
_KEPT = {"cifar", "folder"}  # the other formats are about as quick to read as what would be kept of them
# One independent stream of random numbers a decision, so that one setting does not shift another's draw.
_TEST_SHARE, _LIMIT, _VALIDATION, _TEST_ORDER = range(4)


def load(settings: DataSettings, cache: Path | None = None) -> Data:
    """Training and validation images with what is needed to use them. Nothing of the test part is read.

    In the folder `cache`, images of a slow format (pictures, pickles) are kept and found again as long as files
    and settings stay the same; it may be deleted at any time. Raises DataError.
    """
    pictures = _pictures(settings, cache, test=False)
    try:
        train, validation = split.stratified_split(
            pictures.y, settings.validation, _rng(settings, _VALIDATION)
        )
    except ValueError as error:
        raise DataError(f"{_where(settings)}: {error}") from error
    parts = [Split(pictures.x[part], pictures.y[part]) for part in (train, validation)]
    return Data(
        name=settings.name,
        train=parts[0],
        validation=parts[1],
        classes=pictures.classes,
        preprocess=_preprocess(settings, parts[0].x),
        augment=settings.augment,
        skipped=pictures.skipped,
        sha256=digest(*parts),
    )


def load_test(settings: DataSettings, cache: Path | None = None) -> Split:
    """The images to test on, and no others. To be opened once, after the choice of what ships is on disk.

    Labels are numbered as in `load`. Hash it with `digest`. Raises DataError.
    """
    pictures = _pictures(settings, cache, test=True)
    order = _rng(settings, _TEST_ORDER).permutation(len(pictures.y))
    return Split(pictures.x[order], pictures.y[order], pictures.skipped)


@dataclass(frozen=True, eq=False)
class _Pictures:
    x: Array
    y: Labels
    classes: tuple[str, ...]
    skipped: Mapping[str, int]


def _pictures(settings: DataSettings, cache: Path | None, *, test: bool) -> _Pictures:
    if cache is None or settings.path is None or settings.name not in _KEPT:
        return _read(settings, test=test)
    file = cache / f"{_cache_key(settings, settings.path.expanduser(), test=test)}.npz"
    kept = _kept(file)
    if kept is not None:
        return kept
    pictures = _read(settings, test=test)
    with replacing(file) as part, part.open("wb") as stream:
        np.savez(
            stream,
            x=pictures.x,
            y=pictures.y,
            about=np.array(json.dumps({"classes": pictures.classes, "skipped": dict(pictures.skipped)})),
        )
    return pictures


def _cache_key(settings: DataSettings, path: Path, *, test: bool) -> str:
    key = {
        "format": _CACHE_FORMAT,
        "decoder": PIL.__version__,
        "settings": settings.model_dump(mode="json", exclude=_AFTER_READING | {"path"}),
        "test": test,
        "path": str(path.resolve()),
        "files": stamp(path),
    }
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


def _kept(file: Path) -> _Pictures | None:
    """What an earlier call kept; None where there is nothing, or nothing whole."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            about = json.loads(str(arrays["about"]))
            return _Pictures(arrays["x"], arrays["y"], tuple(about["classes"]), about["skipped"])
    except (FileNotFoundError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None


def _read(settings: DataSettings, *, test: bool) -> _Pictures:
    """Choose among the labels first, then read the chosen images only."""
    where = _where(settings)
    source = _source(settings)
    y = source.train.y
    splits_off = source.test is None
    part, limit, least = source.train, settings.train_limit, max(2, settings.folds)
    _check_classes(where, y, source.classes, least + 1 if splits_off else least)
    rest = np.arange(len(y))
    if splits_off:
        rest, held = split.stratified_split(y, settings.test, _rng(settings, _TEST_SHARE), keep=least)
    if test:
        part = source.train if source.test is None else source.test()
        rest = held if splits_off else np.arange(len(part.y))
        limit, least = settings.test_limit, 1
    chosen = _limited(where, part.y, np.sort(rest), limit, least, settings)
    if not len(chosen):
        raise DataError(f"{where}: expected images to test on, got none; add some")
    images = part.read(chosen)
    _check_losses(where, len(chosen), images.skipped)
    labels = part.y[chosen][images.kept]
    if not test:
        _check_classes(f"{where}, without those that cannot be used", labels, source.classes, least)
    return _Pictures(images.x, labels, source.classes, merged(part.skipped, images.skipped))


def _limited(
    where: str, y: Labels, among: Indices, limit: int | None, least: int, settings: DataSettings
) -> Indices:
    """At most `limit` of the positions `among`, rising; at least `least` of every class."""
    if limit is None or limit >= len(among):
        return among
    try:
        return np.sort(among[split.stratified_sample(y[among], limit, _rng(settings, _LIMIT), least=least)])
    except ValueError as error:
        classes = len(np.unique(y[among]))
        raise DataError(
            f"{where}: a limit of {limit} images is too small for {classes} classes"
            f" with at least {least} images each; set it to {classes * least} or more"
        ) from error


def _check_classes(where: str, y: Labels, classes: tuple[str, ...], least: int) -> None:
    if not len(y):
        raise DataError(f"{where}: expected images, got none; check data.path and data.name")
    if len(classes) < 2:
        raise DataError(
            f"{where}: expected at least two classes to tell apart, got {len(classes)}"
            f" ({', '.join(classes)}) with {len(y)} images"
        )
    counts = np.bincount(y, minlength=len(classes))
    if (counts < least).any():
        few = [f"{classes[label]!r} has {counts[label]}" for label in np.flatnonzero(counts < least)]
        raise DataError(
            f"{where}: expected at least {least} images of every class, so that every part and fold gets one,"
            f" but {', '.join(few[:10])}; add images or remove the class"
        )


def _check_losses(where: str, asked: int, skipped: Mapping[str, int]) -> None:
    lost = sum(skipped.values())
    if 2 * lost > asked:
        reasons = ", ".join(f"{count} {reason}" for reason, count in skipped.items())
        sizes = any("size" in reason for reason in skipped)
        advice = "bring them to one size with data.resize" if sizes else "mend them"
        raise DataError(
            f"{where}: expected usable images, but {lost} of {asked} are not ({reasons}); {advice}"
        )


def _source(settings: DataSettings) -> Source:
    """What the format of that name finds: nasflow/data/formats/<name>.py, function `find`."""
    module = settings.name if settings.name in FORMATS else "own"
    find: Callable[[DataSettings], Source] = importlib.import_module(f"nasflow.data.formats.{module}").find
    return find(settings)


def _preprocess(settings: DataSettings, x: Array) -> Preprocess:
    channels = x.shape[1]
    scale = settings.scale if settings.scale is not None else (1 / 255 if x.dtype == np.uint8 else 1.0)
    if settings.mean is not None and settings.std is not None:
        if len(settings.mean) != channels:
            raise DataError(
                f"{_where(settings)}: expected mean and std of {channels} numbers, one a channel,"
                f" got {len(settings.mean)}"
            )
        return Preprocess(scale, settings.mean, settings.std, settings.resize)
    plain = Preprocess(scale, (0.0,) * channels, (1.0,) * channels, settings.resize)
    return plain.fit(x) if settings.normalise else plain


def _where(settings: DataSettings) -> str:
    return f"data {settings.name}" if settings.path is None else f"data {settings.name} in {settings.path}"


def _rng(settings: DataSettings, stream: int) -> np.random.Generator:
    return np.random.default_rng((settings.seed, stream))
