"""HW-NAS-Bench's file, for which one of the same structure is made here, and what all formats share."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from nasflow.bench import formats
from nasflow.bench.formats import hw_nas_bench
from nasflow.cli import app
from nasflow.evaluators import tabular
from nasflow.evaluators.tabular import TableError
from nasflow.spaces import nasbench201

CELLS = [
    nasbench201.arch_string(dict(zip(nasbench201.NAMES, cell, strict=True)))
    for cell in product(("none", "nor_conv_3x3"), repeat=6)
]


def official() -> dict[str, Any]:
    measured = {
        "edgegpu_latency": np.arange(64.0),
        "eyeriss_energy": [np.float64(v) for v in range(64)],
        "eyeriss_arithmetic_intensity": list(range(64)),
        "config": [
            {"name": "infer.tiny", "C": 16, "N": 5, "arch_str": cell, "num_classes": 10} for cell in CELLS
        ],
    }
    return {
        "nasbench201": OrderedDict({"cifar10": measured, "ImageNet16-120": measured}),
        "fbnet": {"x": 1.0},
    }


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_the_file_becomes_a_table(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "hw.pickle").write_bytes(pickle.dumps(official(), protocol))
    found = hw_nas_bench.read(tmp_path / "hw.pickle")
    assert found.arch_str.tolist() == CELLS
    assert found.columns.tolist()[1:4] == [
        "cifar10_edgegpu_latency_ms",
        "cifar10_eyeriss_energy_mJ",
        "cifar10_eyeriss_arithmetic_intensity",
    ]
    assert found.imagenet16_120_edgegpu_latency_ms[5] == 5 and len(found.columns) == 7


def test_the_command_adds_accuracies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hw.pickle").write_bytes(pickle.dumps(official()))
    pd.DataFrame({"cell": CELLS[:40], "acc": np.arange(40.0)}).to_csv("acc.csv", index=False)
    asked = ["bench", "convert", "hw.pickle", "t.parquet", "--with", "acc.csv", "--arch-column", "cell"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0 and "40 architectures, 8 columns" in done.output, done.output
    table = tabular.load("t.parquet")
    assert table.values("acc")[table.row(table.point(CELLS[7]))] == 7
    assert len(table.space.describe(table.at(0))) == 17  # known as cells


class Evil:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit",))


def test_nothing_but_data_is_unpickled(tmp_path: Path) -> None:
    file = tmp_path / "hw.pickle"
    file.write_bytes(pickle.dumps({"nasbench201": Evil()}))
    with pytest.raises(TableError, match=r"the file asks for (builtins|__builtin__)\.exec"):
        hw_nas_bench.read(file)
    file.write_bytes(b"no pickle")
    with pytest.raises(TableError, match="cannot be read as a pickle"):
        hw_nas_bench.read(file)
    file.write_bytes(pickle.dumps({"other": 1}))
    with pytest.raises(TableError, match="with 'nasbench201' in it"):
        hw_nas_bench.read(file)
    file.write_bytes(pickle.dumps(official()))
    pd.DataFrame({"arch_str": ["a", "b"]}).to_csv(tmp_path / "other.csv")
    with pytest.raises(TableError, match="no architecture of 'arch_str' is one of"):
        formats.joined(hw_nas_bench.read(file), tmp_path / "other.csv", "arch_str")


def test_files_are_known_by_their_ending(tmp_path: Path) -> None:
    for name, message in {
        "hw.pickle": "cannot be read as a pickle",
        "NATS.pickle.pbz2": "cannot be read as a pickle",
        "nasbench.tfrecord": "ends within record 0",
        "NAS-Bench-201-v1_1.pth": "expected nasbench_only108.tfrecord or",
    }.items():
        (tmp_path / name).write_bytes(b"other")
        with pytest.raises(TableError, match=message):
            formats.read(tmp_path / name)
    with pytest.raises(TableError, match="no such file"):
        formats.read(tmp_path / "absent.pickle")
