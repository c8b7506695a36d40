"""What a Python file does, as text to compare: it, all modules of nasflow that it rests on, and its libraries."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Iterator
from pathlib import Path


@functools.cache
def code(file: Path) -> str:
    """A digest of `file`, of every module of nasflow that it imports, directly or not, and of the versions of the
    libraries that these import. Another digest means that the file may do something else."""
    digest, seen, libraries, ahead = hashlib.sha256(), {file}, set(), [file]
    while ahead:
        text = ahead.pop().read_bytes()
        digest.update(text)
        for module in _imported(text):
            if module.partition(".")[0] != "nasflow":
                libraries.add(module.partition(".")[0])
            elif (home := _file(module)) is not None and home not in seen:
                seen.add(home)
                ahead.append(home)
    for library in sorted(libraries):
        digest.update(f"{library} {_version(library)}\n".encode())
    return digest.hexdigest()


def _imported(text: bytes) -> Iterator[str]:
    """Names of what is imported anywhere in a file; of `from a import b` both `a` and `a.b`, which may be a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _file(module: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # a name in a module, not a module
        return None
    return Path(spec.origin) if spec is not None and spec.origin else None


def _version(library: str) -> str:
    try:
        return importlib.metadata.version(library)
    except (
        importlib.metadata.PackageNotFoundError
    ):  # of Python's own, or called otherwise than it is imported
        return ""
