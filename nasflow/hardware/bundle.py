"""The program that measures on a board, as one file that Python runs: the same bytes from the same source."""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from pathlib import Path

NAME = "runner.pyz"
FOLDER = Path(__file__).with_name("board")
PACKAGE = (
    "nasflow_board"  # its modules are in a package of this name, so that they hide no module of the board's
)
START = f"from {PACKAGE}.__main__ import main\n\nmain()\n"
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the earliest time a zip file can tell


@functools.cache
def bundle() -> bytes:
    """Everything in board/ as a zip file with a __main__.py: `python runner.pyz spec.json`."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        files = {"__main__.py": START.encode()}
        for file in sorted(FOLDER.rglob("*.py")):
            files[f"{PACKAGE}/{file.relative_to(FOLDER).as_posix()}"] = file.read_bytes()
        for name, source in files.items():
            entry = zipfile.ZipInfo(name, LONG_AGO)
            entry.create_system = 3  # Unix, wherever it is made
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, source)
    return content.getvalue()


def digest() -> str:
    """The SHA-256 of the bundle: which program measured."""
    return hashlib.sha256(bundle()).hexdigest()
