"""A folder or a .tar(.gz) archive, seen the same way: the names of its files, and their bytes one at a time."""

import gzip
import os
import posixpath
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from nasflow.data.values import DataError

_ARCHIVES = (".tar", ".tar.gz", ".tgz")


class Container(Protocol):
    """Names are relative, with forward slashes, sorted; hidden files, which systems leave about, are not listed."""

    @property
    def files(self) -> tuple[str, ...]: ...

    @property
    def folders(self) -> tuple[str, ...]: ...

    def read(self, names: Sequence[str]) -> Iterator[tuple[int, bytes]]:
        """(position in `names`, content) in whatever order is quickest to read."""
        ...


@dataclass(frozen=True)
class Folder:
    path: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]

    def read(self, names: Sequence[str]) -> Iterator[tuple[int, bytes]]:
        for position, name in enumerate(names):
            try:
                yield position, (self.path / name).read_bytes()
            except OSError as error:
                raise _unreadable(self.path / name, error) from error


@dataclass(frozen=True)
class Archive:
    path: Path
    files: tuple[str, ...]
    folders: tuple[str, ...]
    places: dict[str, tuple[int, int]]  # name -> (offset, bytes) in the unpacked stream

    def read(self, names: Sequence[str]) -> Iterator[tuple[int, bytes]]:
        # Unpacking goes forward only, so files are read as they lie, and never more than one at a time.
        order = sorted(range(len(names)), key=lambda position: self.places[names[position]])
        with _unpacked(self.path) as stream:
            for position in order:
                offset, size = self.places[names[position]]
                try:
                    stream.seek(offset)
                    content = stream.read(size)
                except (EOFError, OSError, zlib.error) as error:
                    raise _damaged(self.path, str(error)) from error
                if len(content) < size:
                    raise _damaged(self.path, f"{names[position]} is cut short")
                yield position, content


def open_container(path: Path) -> Container:
    """List what is in a folder or an archive. Nothing is unpacked to disk."""
    if path.is_dir():
        return _list_folder(path)
    if path.name.lower().endswith(_ARCHIVES) and path.is_file():
        return _list_archive(path)
    raise DataError(
        f"expected a folder or a file ending in {', '.join(_ARCHIVES)}, got {path}"
        f"{'' if path.exists() else ', which does not exist'}; correct data.path"
    )


def stamp(path: Path) -> list[tuple[str, int, int]]:
    """(name, bytes, time of change in ns) of every file there is: changes when what is in there does."""
    names = _list_folder(path).files if path.is_dir() else ("",)
    stamps = []
    for name in names:
        try:
            stat = (path / name).stat()
        except OSError as error:
            raise _unreadable(path / name, error) from error
        stamps.append((name, stat.st_size, stat.st_mtime_ns))
    return stamps


def _list_folder(path: Path) -> Folder:
    files, folders, seen = [], [], set()
    # Class folders often are links to another disk, so links are followed, once each lest they go round in circles.
    for parent, children, names in os.walk(path, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            children.clear()
            continue
        seen.add(real)
        relative = Path(parent).relative_to(path).as_posix()
        prefix = "" if relative == "." else f"{relative}/"
        children[:] = [name for name in children if not _is_hidden(name)]
        folders += [f"{prefix}{name}" for name in children]
        files += [f"{prefix}{name}" for name in names if not _is_hidden(name)]
    return Folder(path, tuple(sorted(files)), tuple(sorted(folders)))


def _list_archive(path: Path) -> Archive:
    places: dict[str, tuple[int, int]] = {}
    folders = []
    try:
        with _unpacked(path) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                name = posixpath.normpath(member.name)
                if any(_is_hidden(part) for part in name.split("/") if part != "."):
                    continue
                if member.isdir() and name != ".":
                    folders.append(name)
                elif member.isreg() and not member.issparse():
                    places[name] = (member.offset_data, member.size)
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise _damaged(path, str(error)) from error
    return Archive(path, tuple(sorted(places)), tuple(sorted(folders)), places)


def _unpacked(path: Path) -> BinaryIO:
    packed = path.name.lower().endswith("gz")
    return cast(BinaryIO, gzip.open(path)) if packed else path.open("rb")


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(f"{path} cannot be read: {error.strerror}; mend or remove it, or correct data.path")


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"{path} cannot be read as an archive ({reason}); fetch it again")


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
