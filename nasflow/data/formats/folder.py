"""A folder of class folders of PNG and JPEG pictures, or a .tar(.gz) of one.

Either `train/<class>/...` and `test/<class>/...`, or `<class>/...` with no test part; folders around that do not
matter. `val/` or `validation/` beside `train/` joins it: nasflow splits off its own. Pictures are taken as stored:
a note in the file to show it rotated (EXIF) is not followed.
"""

import io
import struct
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from nasflow.data.container import Container, open_container
from nasflow.data.settings import DataSettings
from nasflow.data.source import Images, Part, Source
from nasflow.data.values import Array, DataError

_TRAIN = {"train", "training", "val", "valid", "validation"}
_TEST = {"test", "testing"}
_PICTURES = (".png", ".jpg", ".jpeg")
_OTHER_PICTURES = (".bmp", ".gif", ".tif", ".tiff", ".webp")
_GREY = {"1", "L", "LA", "I", "F"}
_LOOKED_AT = 1000  # headers of that many pictures decide the size and the colour of all

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
NOT_DECODED = "that cannot be decoded"
NOT_PICTURE = "that are neither PNG nor JPEG"
NO_CLASS = "in no class folder of a part"


def find(settings: DataSettings) -> Source:
    assert settings.path is not None
    where = f"data folder in {settings.path}"
    container = open_container(settings.path.expanduser())
    layout = _layout(container)
    if not layout.train:
        raise DataError(
            f"{where}: expected PNG or JPEG files in one folder a class, got none; check data.path"
        )
    classes = tuple(sorted(layout.classes))
    numbers = {name: number for number, name in enumerate(classes)}
    form = _form(where, container, [name for name, _ in layout.train], settings)
    if extra := sorted({label for _, label in layout.test} - set(classes)):
        raise DataError(
            f"{where}: expected the classes of training in test, got {', '.join(extra[:10])} as well"
        )

    def part(pictures: Sequence[tuple[str, str]], skipped: Counter[str]) -> Part:
        names = [name for name, _ in pictures]
        return Part(
            np.array([numbers[label] for _, label in pictures], dtype=np.int64),
            lambda indices: _decode_all(container, [names[index] for index in indices], form),
            skipped,
        )

    return Source(
        classes,
        part(layout.train, layout.skipped_train),
        (lambda: part(layout.test, layout.skipped_test)) if layout.test else None,
    )


@dataclass(frozen=True)
class _Layout:
    """Pictures as (file, class) of each part; classes are the class folders of training, empty ones included."""

    train: list[tuple[str, str]]
    test: list[tuple[str, str]]
    classes: set[str]
    skipped_train: Counter[str]
    skipped_test: Counter[str]


def _layout(container: Container) -> _Layout:
    pictures = [name.split("/") for name in container.files if name.lower().endswith(_PICTURES)]
    around = _folders_around(pictures)
    parted = any(parts[len(around)].lower() in ("train", "training") for parts in pictures)
    depth = len(around) + (1 if parted else 0)  # where class folders are
    layout = _Layout([], [], _empty_folders(container, around, depth), Counter(), Counter())
    for name in container.files:
        parts = name.split("/")
        if not name.lower().endswith((*_PICTURES, *_OTHER_PICTURES)):
            continue
        place = parts[len(around)].lower() if parted and parts[: len(around)] == around else "train"
        skipped = layout.skipped_test if place in _TEST else layout.skipped_train
        if len(parts) < depth + 2 or parts[: len(around)] != around or place not in _TRAIN | _TEST:
            skipped[NO_CLASS] += 1
        elif not name.lower().endswith(_PICTURES):
            skipped[NOT_PICTURE] += 1
        elif place in _TEST:
            layout.test.append((name, parts[depth]))
        else:
            layout.train.append((name, parts[depth]))
            layout.classes.add(parts[depth])
    return layout


def _folders_around(pictures: list[list[str]]) -> list[str]:
    """The folders that every picture is in, down to where parts or classes branch."""
    around: list[str] = []
    while pictures and all(
        len(parts) > len(around) + 2 and parts[len(around)] == pictures[0][len(around)] for parts in pictures
    ):
        around.append(pictures[0][len(around)])
    return around


def _empty_folders(container: Container, around: list[str], depth: int) -> set[str]:
    """Class folders with nothing in them; those with other than pictures, notes say, are no class folders."""
    inside = {"/".join(name.split("/")[: depth + 1]) for name in container.files}
    empty = (name.split("/") for name in container.folders if name not in inside)
    return {
        parts[depth]
        for parts in empty
        if len(parts) == depth + 1
        and parts[: len(around)] == around
        and (depth == len(around) or parts[len(around)].lower() in _TRAIN)
    }


@dataclass(frozen=True)
class _Form:
    """What every picture becomes. Those of another size are stretched, or else left out."""

    channels: int
    height: int
    width: int
    stretch: bool


def _form(where: str, container: Container, names: Sequence[str], settings: DataSettings) -> _Form:
    """What settings leave open is decided by the training pictures: the commonest size; colour if any has it."""
    if settings.resize is not None and settings.channels is not None:
        return _Form(settings.channels, *settings.resize, stretch=True)
    sample = np.unique(np.linspace(0, len(names) - 1, _LOOKED_AT).astype(int))
    sizes: Counter[tuple[int, int]] = Counter()
    colour = False
    for _, content in container.read([names[index] for index in sample]):
        try:
            with _open(content) as picture:
                sizes[picture.height, picture.width] += 1
                colour = colour or picture.mode.partition(";")[0] not in _GREY
        except _BROKEN:
            continue
    if not sizes:
        raise DataError(f"{where}: expected PNG or JPEG pictures, but none of {len(sample)} can be opened")
    channels = settings.channels or (3 if colour else 1)
    if settings.resize is not None:
        return _Form(channels, *settings.resize, stretch=True)
    return _Form(channels, *sizes.most_common(1)[0][0], stretch=False)


def _decode_all(container: Container, names: Sequence[str], form: _Form) -> Images:
    x = np.empty((len(names), form.channels, form.height, form.width), dtype=np.uint8)
    kept = np.ones(len(names), dtype=bool)
    skipped: Counter[str] = Counter()
    for position, content in container.read(names):
        picture = _decode(content, form)
        if isinstance(picture, str):
            kept[position] = False
            skipped[picture] += 1
        else:
            x[position] = picture
    return Images(x if kept.all() else x[kept], np.flatnonzero(kept), skipped)


def _decode(content: bytes, form: _Form) -> Array | str:
    """(channels, height, width) uint8, or why the picture is left out."""
    try:
        with _open(content) as picture:
            if not form.stretch and (picture.height, picture.width) != (form.height, form.width):
                return f"of another size than {form.height}x{form.width}"
            pixels: Array = np.asarray(_eight_bits(picture, form))
    except _BROKEN:
        return NOT_DECODED
    return pixels[None] if form.channels == 1 else pixels.transpose(2, 0, 1)


def _eight_bits(picture: Image.Image, form: _Form) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 bits; Pillow's own conversion cuts off what is above 255
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    picture.info.pop("transparency", None)  # or Pillow warns that it is lost
    picture = picture.convert("L" if form.channels == 1 else "RGB")
    return picture.resize((form.width, form.height), Image.Resampling.BILINEAR) if form.stretch else picture


def _open(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=("PNG", "JPEG"))
