"""CIFAR-10 and CIFAR-100 as Python batches (Krizhevsky, 2009), in a folder or the .tar.gz they come in.

Batches are pickles, and a pickle may run any code; these are opened by a reader that knows arrays, texts, numbers,
lists and dicts and nothing else.
"""

import io
import pickle
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy._core import multiarray, numeric

from nasflow.data.container import Container, open_container
from nasflow.data.settings import DataSettings
from nasflow.data.source import Source, array_part, as_labels
from nasflow.data.values import Array, DataError

_TRAIN = re.compile(r"(?:.*/)?(data_batch_\d+|train)")
_TEST = re.compile(r"(?:.*/)?(test_batch|test)")
_META = re.compile(r"(?:.*/)?(batches\.meta|meta)")


def find(settings: DataSettings) -> Source:
    assert settings.path is not None
    container = open_container(settings.path.expanduser())
    where = f"data cifar in {settings.path}"
    train, test, meta = (
        [name for name in container.files if pattern.fullmatch(name)] for pattern in (_TRAIN, _TEST, _META)
    )
    if not train or len(meta) != 1:
        raise DataError(
            f"{where}: expected data_batch_1, ... and batches.meta, or train and meta,"
            f" got {', '.join(container.files[:10]) or 'nothing'}; unpack one cifar-*-python.tar.gz there"
        )
    classes = _class_names(container, meta[0])

    def part(names: Sequence[str]) -> tuple[Array, Array]:
        batches = [_batch(name, content, len(classes)) for name, content in _read(container, names)]
        return tuple(np.concatenate(arrays) for arrays in zip(*batches, strict=True))  # type: ignore[return-value]

    x, y = part(train)
    return Source(
        classes,
        array_part(where, x, y, settings),
        (lambda: array_part(f"{where}, test part", *part(test), settings)) if test else None,
    )


def _read(container: Container, names: Sequence[str]) -> list[tuple[str, dict[Any, Any]]]:
    contents = dict(container.read(names))
    return [(name, unpickle(contents[position], name)) for position, name in enumerate(names)]


def _class_names(container: Container, name: str) -> tuple[str, ...]:
    ((_, meta),) = _read(container, [name])
    names = meta.get("label_names") or meta.get("fine_label_names")
    if not isinstance(names, list) or not names:
        raise DataError(f"{name}: expected label_names or fine_label_names, got {', '.join(map(str, meta))}")
    return tuple(str(class_name) for class_name in names)


def _batch(name: str, batch: dict[Any, Any], classes: int) -> tuple[Array, Array]:
    """(n, 3, 32, 32) uint8 and (n,) int64 of one file."""
    data, labels = batch.get("data"), batch.get("labels", batch.get("fine_labels"))
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        got = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{name}: expected data of uint8 (n, 3072), 32x32 in three colours, got {got}")
    if not isinstance(labels, list | np.ndarray) or len(labels) != len(data):
        raise DataError(f"{name}: expected {len(data)} labels or fine_labels, got {type(labels).__name__}")
    y = as_labels(np.asarray(labels), name)
    if y.dtype.kind != "i" or not ((y >= 0) & (y < classes)).all():
        raise DataError(f"{name}: expected labels 0 to {classes - 1}, got some outside")
    return data.reshape(-1, 3, 32, 32), y.astype(np.int64)


def unpickle(content: bytes, name: str) -> dict[Any, Any]:
    """The dict in a pickle of plain data, keys as text; DataError if it holds, or asks for, anything else."""
    try:
        # Latin-1, because Python 2 wrote these and its texts are bytes, arrays among them.
        value = _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise DataError(f"{name}: {error}; fetch it again from its source") from error
    except (
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        ImportError,
        MemoryError,
        OverflowError,
        struct.error,
    ) as error:
        raise DataError(f"{name} is not a whole pickle ({error}); fetch it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{name}: expected a dict, got {type(value).__name__}")
    return {key.decode("latin1") if isinstance(key, bytes) else key: entry for key, entry in value.items()}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (found := _ALLOWED.get((module.replace("numpy.core", "numpy._core"), name))) is None:
            raise pickle.UnpicklingError(f"expected plain arrays and lists, but it asks for {module}.{name}")
        return found


def _encode(text: str, encoding: str) -> bytes:
    """How bytes come in pickles that Python 2 can read too."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"expected bytes as latin1, got {encoding}")
    return text.encode("latin1")


_ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("_codecs", "encode"): _encode,
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy._core.multiarray", "_reconstruct"): multiarray._reconstruct,
    ("numpy._core.multiarray", "scalar"): multiarray.scalar,
    ("numpy._core.numeric", "_frombuffer"): numeric._frombuffer,  # type: ignore[attr-defined]
}
