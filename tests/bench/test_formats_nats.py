"""NATS-Bench's files, of which small ones of the same structure are written here."""

from __future__ import annotations

import bz2
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from nasflow.bench.formats import nats
from nasflow.cli import app
from nasflow.evaluators import tabular
from nasflow.evaluators.tabular import TableError

CELLS = [
    f"|{op}~0|+|none~0|skip_connect~1|+|nor_conv_3x3~0|none~1|avg_pool_3x3~2|"
    for op in ("none", "skip_connect", "nor_conv_1x1")
]
SETS = {
    "cifar10-valid": ("x-valid", "ori-test"),
    "cifar10": ("ori-test",),
    "cifar100": ("x-valid", "x-test", "ori-test"),
    "ImageNet16-120": ("x-valid", "x-test", "ori-test"),
}


def trial(dataset: str, seed: int, epochs: int, index: int, last_only: bool) -> dict[str, Any]:
    """What nats_bench.ResultsCount.state_dict() has. Accuracies are epoch + index, for seed 888 also + 2."""
    accuracies = {
        f"{name}@{epoch}": float(epoch + index + 2 * (seed == 888))
        for name in SETS[dataset]
        for epoch in range(epochs)
        if epoch == epochs - 1 or not last_only or name == "ori-test"
    }
    return {
        "name": dataset,
        "net_state_dict": None,
        "train_acc1es": dict.fromkeys(range(epochs), 99.0),
        "train_acc5es": None,
        "train_losses": dict.fromkeys(range(epochs), 0.1),
        "train_times": OrderedDict((epoch, 2.5) for epoch in range(epochs)),
        "arch_config": {"channel": 16, "num_cells": 5, "arch_str": CELLS[index], "class_num": 10},
        "params": 0.5 + index,
        "flop": np.float64(15.25),
        "seed": str(seed),
        "epochs": epochs,
        "latency": [0.015],
        "eval_names": list(SETS[dataset]),
        "eval_acc1es": accuracies,
        "eval_times": dict.fromkeys(accuracies, 0.5),
        "eval_losses": dict.fromkeys(accuracies, 1.0),
    }


def results(index: int) -> OrderedDict[str, Any]:
    """What is said of an architecture: by epochs, ArchResults.state_dict()."""
    seeds = {"12": [777], "200": [777, 888] if index else [888]}
    return OrderedDict(
        (
            hp,
            {
                "arch_index": index,
                "arch_str": CELLS[index],
                "all_results": {
                    (dataset, seed): trial(dataset, seed, int(hp), index, hp == "200" and "100" in dataset)
                    for dataset in SETS
                    for seed in seeds[hp]
                },
                "dataset_seed": dict.fromkeys(SETS, seeds[hp]),
                "clear_net_done": True,
            },
        )
        for hp in seeds
    )


def save(content: Any, file: Path) -> None:
    with bz2.BZ2File(file, "wb") as opened:
        pickle.dump(content, opened, protocol=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "NATS-tss-v1_0-3ffb9-simple"
    made.mkdir()
    meta = {"meta_archs": CELLS, "total_archs": 3, "arch2infos": None, "evaluated_indexes": set()}
    save(meta, made / "meta.pickle.pbz2")
    for index in range(len(CELLS)):
        save(results(index), made / f"{index:06d}.pickle.pbz2")
    return made


def test_the_folder_becomes_a_table(folder: Path) -> None:
    found = nats.read(folder)
    assert found.arch_str.tolist() == CELLS
    assert found.cifar10_val_acc_200.tolist() == [201, 201, 202]  # the mean of the seeds there are
    assert found.cifar10_test_acc_200_seed888.tolist() == [201, 202, 203]
    assert np.isnan(found.cifar10_test_acc_200_seed777[0])
    assert found.cifar10_test_acc_200_at12_seed777.tolist()[1:] == [12, 13]
    assert found.cifar10_val_acc_12.tolist() == found.cifar10_val_acc_12_seed777.tolist() == [11, 12, 13]
    assert found.imagenet16_120_test_acc_200_at12.tolist() == [13, 13, 14]
    assert (
        "cifar100_val_acc_200" in found and "cifar100_val_acc_200_at12" not in found
    )  # the last epoch alone
    assert "cifar10_val_acc_12_at12" not in found
    assert found.cifar10_train_s_200.tolist() == [500] * 3 and found.cifar10_valid_train_s_12[0] == 30
    assert found.cifar100_params_M.tolist() == [0.5, 1.5, 2.5] and found.cifar10_flops_M[0] == 15.25
    assert found.imagenet16_120_latency_ms.tolist() == pytest.approx([15] * 3)


def test_where_seeds_differ_in_costs_one_is_trusted(folder: Path) -> None:
    for index, seed in ((1, 777), (2, 888)):
        other = results(index)
        other["200"]["all_results"]["cifar10", seed]["flop"] = 99.0
        other["12"]["all_results"]["cifar10", 777]["params"] = 99.0  # the longest training counts
        save(other, folder / f"{index:06d}.pickle.pbz2")
    found = nats.read(folder)
    assert found.cifar10_flops_M.tolist() == [15.25, 15.25, 99]
    assert found.cifar10_params_M.tolist() == [0.5, 1.5, 2.5]
    unknown = results(0)
    trials = unknown["200"]["all_results"]
    trials["cifar10", 777] = trials["cifar10", 888] | {"flop": 98.0}
    trials["cifar10", 999] = trials.pop(("cifar10", 888))
    unknown["200"]["dataset_seed"]["cifar10"] = [777, 999]
    save(unknown, folder / "000000.pickle.pbz2")
    assert np.isnan(nats.read(folder).cifar10_flops_M[0])


def test_one_file_says_the_same(folder: Path, tmp_path: Path) -> None:
    everything = {
        "meta_archs": CELLS,
        "total_archs": 3,
        "arch2infos": {index: results(index) for index in range(3)},
        "evaluated_indexes": {0, 1, 2},
    }
    file = tmp_path / "NATS-tss-v1_0-3ffb9.pickle.pbz2"
    save(everything, file)
    assert nats.read(file).equals(nats.read(folder))
    save(everything | {"arch2infos": {0: results(0)}}, file)
    with pytest.raises(TableError, match="expected results of all 3"):
        nats.read(file)


def test_the_command_writes_it(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["bench", "convert", str(folder), str(tmp_path / "t.parquet")])
    assert done.exit_code == 0 and "3 architectures" in done.output, done.output
    table = tabular.load(tmp_path / "t.parquet")
    assert [parameter.name for parameter in table.space.parameters] == ["1<-0"]
    assert table.values("cifar10_params_M")[table.row({"1<-0": "skip_connect"})] == 1.5


def test_damage_is_found(folder: Path) -> None:
    file = folder / "000001.pickle.pbz2"
    whole = file.read_bytes()
    file.write_bytes(whole[:-50])
    with pytest.raises(TableError, match=r"000001.pickle.pbz2: cannot be read as a pickle"):
        nats.read(folder)
    lacking = results(1)
    del lacking["12"]["all_results"]["cifar10", 777]
    save(lacking, file)
    with pytest.raises(
        TableError, match=r"000001.pickle.pbz2: expected the structure of NATS-Bench's results"
    ):
        nats.read(folder)
    save(["a list"], file)
    with pytest.raises(TableError, match="expected the structure"):
        nats.read(folder)
    file.unlink()
    with pytest.raises(TableError, match=r"1 of 3 architectures have no file, the first is 000001"):
        nats.read(folder)
    save({"other": 1}, folder / "meta.pickle.pbz2")
    with pytest.raises(TableError, match="expected a list of architectures under 'meta_archs'"):
        nats.read(folder)
    (folder / "meta.pickle.pbz2").unlink()
    with pytest.raises(TableError, match="cannot be read as a pickle"):
        nats.read(folder)


class Evil:
    def __reduce__(self) -> Any:
        return (exec, ("raise SystemExit",))


def test_nothing_but_data_is_unpickled(folder: Path) -> None:
    save(Evil(), folder / "000000.pickle.pbz2")
    with pytest.raises(TableError, match=r"the file asks for builtins.exec"):
        nats.read(folder)
