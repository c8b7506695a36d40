"""Files of records as TensorFlow writes them, read without it.

A record is its length (8 bytes, little-endian), the checksum of these bytes (4), its content, and the checksum of
that (4). A checksum is a CRC-32C (polynomial 0x1EDC6F41, reflected) whose bits are rotated by 15 and to which a
constant is added.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from nasflow.evaluators.tabular import TableError

POLYNOMIAL = np.uint32(0x82F63B78)
MASK = np.uint32(0xA282EAD8)
LOW = np.uint32(255)
BATCH = 2**14  # records that are checked at once


def records(file: Path) -> Iterator[bytes]:
    """The contents of all records, in order. Raises TableError where the file is cut off or damaged."""
    with file.open("rb") as content:
        framed = enumerate(_framed(file, content))
        while batch := list(itertools.islice(framed, BATCH)):
            same_length: dict[int, list[tuple[int, bytes, int]]] = defaultdict(list)
            for number, (data, checksum) in batch:
                same_length[len(data)].append((number, data, checksum))
            for length, group in same_length.items():
                whole = np.frombuffer(b"".join(data for _, data, _ in group), np.uint8)
                found = checksums(whole.reshape(len(group), length))
                for (number, _, checksum), said in zip(group, found, strict=True):
                    if checksum != said:
                        raise TableError(f"{file}: record {number} is damaged, download the file again")
            yield from (data for _, (data, _) in batch)


def checksums(rows: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """The checksum of each row of bytes, shape (rows, length) to (rows,)."""
    table = _table()
    crcs = np.full(len(rows), 0xFFFFFFFF, np.uint32)
    for column in np.ascontiguousarray(rows.T):
        crcs = table[(crcs ^ column) & LOW] ^ (crcs >> np.uint32(8))
    crcs = ~crcs
    masked: NDArray[np.uint32] = ((crcs >> np.uint32(15)) | (crcs << np.uint32(17))) + MASK
    return masked


def _framed(file: Path, content: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Contents and what the file says their checksums are."""
    for number in itertools.count():
        head = content.read(12)
        if not head:
            return
        length, checksum = struct.unpack("<QI", head) if len(head) == 12 else (0, -1)
        if len(head) == 12 and _checksum(head[:8]) != checksum:
            raise TableError(f"{file}: expected a TFRecord file, but record {number} does not begin like one")
        data, tail = content.read(length), content.read(4)
        if len(head) < 12 or len(tail) < 4:
            raise TableError(f"{file}: ends within record {number}, download the file again")
        yield data, int.from_bytes(tail, "little")


@functools.lru_cache(maxsize=2**12)  # most records have one of few lengths
def _checksum(data: bytes) -> int:
    return int(checksums(np.frombuffer(data, np.uint8).reshape(1, -1))[0])


@functools.cache
def _table() -> NDArray[np.uint32]:
    """What a byte does to a CRC, for each byte."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ (POLYNOMIAL * (table & np.uint32(1)))
    return table
