"""Pickles of plain data: numbers, text, and lists, dictionaries and arrays of them. Nothing in them can run."""

from __future__ import annotations

import bz2
import pickle
from pathlib import Path
from typing import Any

from nasflow.evaluators.tabular import TableError

CORES = ("numpy.core", "numpy._core")  # before and since numpy 2
PLAIN = {
    ("_codecs", "encode"),  # bytes, in old pickles
    ("collections", "OrderedDict"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"{core}.multiarray", name) for core in CORES for name in ("_reconstruct", "scalar")),
    *((f"{core}.numeric", "_frombuffer") for core in CORES),
}
BROKEN = (  # what the library raises for content that is no pickle
    *(OSError, EOFError, pickle.UnpicklingError),
    *(AttributeError, ImportError, LookupError, TypeError, ValueError),
)


def load(file: Path) -> Any:
    """What is in a pickle, also one that is compressed (.pbz2). Raises TableError if it is broken or asks for more
    than plain data."""
    try:
        with bz2.open(file) if file.suffix == ".pbz2" else file.open("rb") as content:
            return _Plain(content).load()
    except BROKEN as error:
        raise TableError(f"{file}: cannot be read as a pickle: {error}") from error


class _Plain(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PLAIN:
            raise TableError(f"expected numbers and text alone, but the file asks for {module}.{name}")
        return super().find_class(module, name)
