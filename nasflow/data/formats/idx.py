"""IDX, the format of MNIST, Fashion-MNIST, KMNIST and EMNIST: an array behind a short header (LeCun, 1998)."""

import gzip
import math
import re
import struct
import zlib

import numpy as np

from nasflow.data.container import Container, open_container
from nasflow.data.settings import DataSettings
from nasflow.data.source import Source, from_arrays
from nasflow.data.values import Array, DataError

# train-images-idx3-ubyte.gz, t10k-labels.idx1-ubyte, emnist-letters-test-images-idx3-ubyte, ...
_NAME = re.compile(r"(?:.*[-/])?(train|t10k|test)-(images|labels)[-.]idx\d-\w+(?:\.gz)?", re.IGNORECASE)
_TYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def find(settings: DataSettings) -> Source:
    """Images and labels in files called as MNIST's are, in a folder or an archive; each may end in .gz."""
    assert settings.path is not None
    container = open_container(settings.path.expanduser())
    where = f"data idx in {settings.path}"
    names: dict[tuple[str, str], str] = {}
    for name in container.files:
        if match := _NAME.fullmatch(name):
            key = ("train" if match[1].lower() == "train" else "test", match[2].lower())
            if key in names:
                raise DataError(
                    f"{where}: expected one file of {key[0]} {key[1]}, got {names[key]} and {name};"
                    " put each data set into a folder of its own"
                )
            names[key] = name
    if missing := [kind for kind in ("images", "labels") if ("train", kind) not in names]:
        raise DataError(
            f"{where}: expected train-images-idx3-ubyte and train-labels-idx1-ubyte, each maybe with .gz;"
            f" no training {' and '.join(missing)} there, only {', '.join(container.files[:10]) or 'nothing'}"
        )

    def arrays(part: str) -> tuple[Array, Array]:
        return _array(container, names[part, "images"]), _array(container, names[part, "labels"])

    has_test = ("test", "images") in names and ("test", "labels") in names
    return from_arrays(
        where, lambda: arrays("train"), (lambda: arrays("test")) if has_test else None, settings
    )


def _array(container: Container, name: str) -> Array:
    _, content = next(container.read([name]))
    if name.lower().endswith(".gz"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{name} cannot be unpacked ({error}); fetch it again") from error
    # Two zeros, the number type, the number of axes; then the length of each axis, four bytes, highest first.
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise DataError(
            f"{name}: expected an IDX file, which begins with 0 0, got {content[:4].hex(' ') or 'nothing'};"
            " fetch it again"
        )
    axes, dtype = content[3], np.dtype(_TYPES[content[2]])
    start = 4 + 4 * axes
    if len(content) < start:
        raise DataError(f"{name}: expected a header of {start} bytes, got {len(content)}; fetch it again")
    shape = struct.unpack(f">{axes}I", content[4:start])
    expected = start + math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise DataError(
            f"{name}: expected {expected} bytes for an array of {shape}, got {len(content)}; fetch it again"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
