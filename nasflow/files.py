"""Files that are either whole or absent: atomic writing, hashing and a lock that dies with its holder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nasflow.errors import NasflowError


class FolderError(NasflowError):
    """A folder that cannot be written to, or that another run is using."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; on success what was written there takes its place at once,
    synced to disk; on an error it is removed and `path` stays as it was."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
    except OSError as error:
        raise FolderError(
            f"cannot write {path}: {error.strerror}; choose another folder with --out"
        ) from error
    part = Path(name)
    try:
        yield part
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.chmod(0o644)
        part.replace(path)
    except OSError as error:
        raise FolderError(f"cannot write {path}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    with replacing(path) as part:
        part.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON for people and machines: indented, no NaN (which JSON does not know)."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """What `path` holds; a clear error if it is not JSON, since nasflow never leaves half a file."""
    try:
        return json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FolderError(
            f"{path}: expected JSON, got something else ({error}); delete the file or use --fresh"
        ) from error


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sweep(folder: Path) -> None:
    """Remove the temporary files that a killed process left anywhere under `folder`. Hold the lock first."""
    for part in folder.rglob(".*.part"):
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False, poll_s: float = 0.5) -> Iterator[None]:
    """Hold `path` as a lock; the system frees it if this process dies. A second holder waits or is refused."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise FolderError(
            f"cannot write in {path.parent}: {error.strerror}; choose another folder with --out"
        ) from error
    with file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not wait:
                    file.seek(0)
                    raise FolderError(
                        f"{path.parent} is in use by process {file.read().strip() or 'unknown'}: "
                        "wait for it to end, give --wait, or choose another folder with --out"
                    ) from None
                time.sleep(poll_s)
        file.seek(0)
        file.truncate()
        file.write(str(os.getpid()))
        file.flush()
        yield
