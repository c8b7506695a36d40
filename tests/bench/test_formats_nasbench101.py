"""NAS-Bench-101's files, of which small ones of the same structure are written here, byte by byte."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from nasflow.bench import genomes
from nasflow.bench.formats import nasbench101, tfrecord
from nasflow.cli import app
from nasflow.evaluators import tabular
from nasflow.evaluators.tabular import TableError
from nasflow.spaces import nasbench101 as space

# The published example of the benchmark's package, pruned of its unused vertex, and a module of three vertices.
LARGE = "0111010" + "0000001" + "0000001" + "0000100" + "0000001" * 2 + "0000000"
LARGE_OPERATIONS = "input,conv1x1-bn-relu,conv3x3-bn-relu,conv3x3-bn-relu,conv3x3-bn-relu,maxpool3x3,output"
SMALL, SMALL_OPERATIONS = "011001000", "input,maxpool3x3,output"


def checksum(data: bytes) -> int:
    """The masked CRC-32C, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def framed(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", checksum(length)) + data + struct.pack("<I", checksum(data))


def evaluation(*values: float) -> bytes:
    """An evaluation with epoch, seconds, and training, validation and test accuracy, as field 1."""
    path = b"/path/model.ckpt-1"
    content = b"".join(bytes([8 * n | 1]) + struct.pack("<d", v) for n, v in enumerate(values, start=1))
    content += bytes([6 << 3 | 2, len(path)]) + path
    return bytes([1 << 3 | 2, len(content)]) + content


def training(
    name: str, epochs: int, adjacency: str, operations: str, final: Sequence[float], parameters: bytes
) -> bytes:
    message = evaluation(0, 0, 0.1, 0.1, 0.1) + evaluation(epochs / 2, 5, 0.5, 0.5, 0.5)
    message += evaluation(epochs, *final) + b"\x10" + parameters + b"\x19" + struct.pack("<d", 999.0)
    encoded = base64.encodebytes(message).decode()
    return json.dumps([name, epochs, adjacency, operations, encoded]).encode()


Write = Callable[..., Path]
PARAMETERS = b"\xca\xb9\xa4\x01"  # 2,694,346 in groups of 7 bits, the last first
EXAMPLE = [
    training("a" * 32, 4, LARGE, LARGE_OPERATIONS, (10.0, 0.6, 0.55, 0.5), PARAMETERS),
    training("a" * 32, 108, LARGE, LARGE_OPERATIONS, (300.0, 1.0, 0.9375, 0.93), PARAMETERS),
    training("b" * 32, 108, SMALL, SMALL_OPERATIONS, (100.0, 0.8, 0.75, 0.7), b"\x07"),
    training("a" * 32, 108, LARGE, LARGE_OPERATIONS, (310.0, 1.0, 0.9475, 0.95), PARAMETERS),
]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*records: bytes) -> Path:
        file = tmp_path / "nasbench_full.tfrecord"
        file.write_bytes(b"".join(map(framed, records)))
        return file

    return write


def test_checksums_are_crc32c() -> None:
    check = np.frombuffer(b"123456789" * 2, np.uint8).reshape(2, 9)
    masked = ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF  # its published check value
    assert tfrecord.checksums(check).tolist() == [masked, masked] == [checksum(b"123456789")] * 2


def test_the_file_becomes_a_table(write: Write) -> None:
    found = nasbench101.read(write(*EXAMPLE))
    assert found.module_hash.tolist() == ["a" * 32, "b" * 32]
    assert found.cifar10_params_M.tolist() == [2.694346, 7e-6]
    assert found.cifar10_val_acc_108.tolist() == pytest.approx([94.25, 75])
    assert found.cifar10_val_acc_108_seed1[0] == pytest.approx(94.75)
    assert np.isnan(found.cifar10_val_acc_108_seed1[1])
    assert found.cifar10_test_acc_108.tolist() == pytest.approx([94, 70])
    assert found.cifar10_train_acc_4[0] == 60 and np.isnan(found.cifar10_train_acc_4[1])
    assert found.cifar10_train_s_108.tolist() == [305, 100] and found.cifar10_train_s_4[0] == 10
    assert len(found.columns) == 3 + 3 * 2 + 1 + 3 * 3 + 1


def test_architectures_are_points_of_the_space(write: Write) -> None:
    whole = space.space((3, 32, 32), 10)
    encoding = genomes.encoding("nasbench101")
    for text, adjacency, operations in zip(
        nasbench101.read(write(*EXAMPLE)).arch_str,
        (LARGE, SMALL),
        (LARGE_OPERATIONS, SMALL_OPERATIONS),
        strict=True,
    ):
        point = encoding.decode([int(digit) for digit in text])
        whole.check(point)
        assert whole.canonical(point) == point  # so the row of any point is found by its canonical form
        size = len(operations.split(","))
        edges = tuple(divmod(place, size) for place, digit in enumerate(adjacency) if digit == "1")
        said = tuple(nasbench101.OPERATIONS[operation] for operation in operations.split(",")[1:-1])
        assert space.module_hash(space.module(point)) == space.module_hash(space.Module(edges, said))


def test_the_command_writes_it(write: Write, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "convert", str(write(*EXAMPLE)), str(tmp_path / "t.parquet")])
    assert done.exit_code == 0 and "2 architectures, 20 columns" in done.output, done.output
    table = tabular.load(tmp_path / "t.parquet")
    assert table.values("cifar10_test_acc_4")[table.row(table.at(0))] == 50
    assert "module_hash" not in table.columns


def test_damage_is_found(write: Write) -> None:
    file = write(*EXAMPLE)
    whole = file.read_bytes()
    file.write_bytes(whole[:-7])
    with pytest.raises(TableError, match="ends within record 3, download the file again"):
        nasbench101.read(file)
    file.write_bytes(whole[:100] + b"?" + whole[101:])
    with pytest.raises(TableError, match="record 0 is damaged"):
        nasbench101.read(file)
    file.write_bytes(b"some other file that is long enough")
    with pytest.raises(TableError, match="expected a TFRecord file"):
        nasbench101.read(file)
    file.write_bytes(b"")
    with pytest.raises(TableError, match="has no records"):
        nasbench101.read(file)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"no json", "record 1 is no training of NAS-Bench-101"),
        (b'["hash", 108]', "not enough values to unpack"),
        (training("c", 108, "0" * 9, SMALL_OPERATIONS, (1, 1, 1, 1), b"\x07"), "vertices on no path"),
        (training("c", 108, "0" * 8, SMALL_OPERATIONS, (1, 1, 1, 1), b"\x07"), "no adjacency matrix"),
        (training("c", 108, "001100000", SMALL_OPERATIONS, (1, 1, 1, 1), b"\x07"), "lower to higher"),
        (training("c", 108, SMALL, "input,lstm,output", (1, 1, 1, 1), b"\x07"), "lstm"),
        (training("c", 108, SMALL, "output,maxpool3x3,input", (1, 1, 1, 1), b"\x07"), "from 'input'"),
        (training("c", 108, SMALL, SMALL_OPERATIONS, (1,), b"\x07"), "KeyError"),
        (training("c", 108, SMALL, SMALL_OPERATIONS, (1, 1, 1, 1), b""), "record 1"),
        (b'["c", 108, "011001000", "input,maxpool3x3,output", "CgU="]', "ends within a field"),
        (b'["c", 108, "011001000", "input,maxpool3x3,output", "Cwo="]', "unknown kind 3"),
    ],
)
def test_other_records_are_refused(write: Write, record: bytes, message: str) -> None:
    with pytest.raises(TableError, match=message):
        nasbench101.read(write(EXAMPLE[0], record))
