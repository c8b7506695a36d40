"""Makes the project's own table: every small cell of NAS-Bench-201 without pooling, trained on digits, timed here.

    python benchmarks/make_digits_cells.py train [--seeds 0 1 2] [--out FOLDER]
    python benchmarks/make_digits_cells.py latency [--out FOLDER]
    python benchmarks/zero_cost_scores.py [--out FOLDER]
    python benchmarks/make_digits_cells.py assemble [--out FOLDER]

`train` takes an hour or two of one core, `latency` a quarter of one on a quiet machine. All go on where they were
stopped: what is finished is a line in a file in FOLDER. `assemble` writes nasflow/bench/digits_cells.parquet when
nothing is missing. Of cells that compute the same one is trained. docs/digits-cells.md tells what the table says.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from _results import machine
from torch import nn

from nasflow.data import Data, DataSettings, load
from nasflow.errors import NasflowError
from nasflow.evaluators import counts
from nasflow.export import to_onnx
from nasflow.files import replacing
from nasflow.hardware import connect, load_profile
from nasflow.space import Point
from nasflow.spaces import nasbench201
from nasflow.training import Recipe, seeded, train

TABLE = Path(__file__).parent.parent / "nasflow" / "bench" / "digits_cells.parquet"
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3")
AROUND = {"cells": 2, "channels": 8, "stages": 1}
SHAPE, CLASSES = (1, 8, 8), 10
VALIDATION, BATCH = 0.4, 32
EPOCHS = {"error_ninth": 1, "error_third": 3, "error": 9}  # each with a learning rate that falls to zero
SEEDS = (0, 1, 2)
ROUNDS, CHUNK, BUDGET_S = 3, 40, 0.06


def data() -> Data:
    """The 1,438 images that nasflow trains with by default, 863 to learn from and 575 to be judged on."""
    return load(DataSettings(name="digits", validation=VALIDATION))


def points() -> list[Point]:
    """All 4,096, in the order of the operations."""
    space = nasbench201.space(SHAPE, CLASSES, operations=OPERATIONS, **AROUND)
    cells = itertools.product(OPERATIONS, repeat=len(nasbench201.NAMES))
    found = [{**dict(zip(nasbench201.NAMES, cell, strict=True)), **AROUND} for cell in cells]
    for point in found:
        space.check(point)
    return found


def meaning(point: Point) -> str:
    """The cell that stands for all that compute the same as this point's, as a string."""
    cell = nasbench201.representative(tuple(str(point[name]) for name in nasbench201.NAMES))
    return nasbench201.arch_string(dict(zip(nasbench201.NAMES, cell, strict=True)))


def different() -> list[str]:
    """One cell for each meaning, as strings, in the order of the points."""
    return list(dict.fromkeys(meaning(point) for point in points()))


def network(cell: str, seed: int = 0) -> nn.Module:
    with seeded(seed):
        return nasbench201.build(nasbench201.from_arch_string(cell, **AROUND), SHAPE, CLASSES)


# ---- train


def train_all(folder: Path, seeds: Sequence[int]) -> None:
    """A line in trainings.jsonl for every cell and seed: the errors after all epochs of all three trainings."""
    images, file = data(), folder / "trainings.jsonl"
    done = {(line["cell"], line["seed"]) for line in lines(file)}
    cells = different()
    order = np.random.default_rng(0).permutation(len(cells))  # so that the time left is known early
    open_ = [(cells[i], seed) for seed in seeds for i in order if (cells[i], seed) not in done]
    began = time.perf_counter()
    for number, (cell, seed) in enumerate(open_, start=1):
        line: dict[str, Any] = {"cell": cell, "seed": seed}
        for column, epochs in EPOCHS.items():
            model, start = network(cell, seed), time.process_time()
            told = train(model, images, Recipe(epochs=epochs, batch_size=BATCH), seed=seed)
            line[column] = [100 * epoch.error for epoch in told]
            line[f"{column}_seconds"] = time.process_time() - start
        append(file, line)
        if number % 50 == 0:
            left = (time.perf_counter() - began) / number * (len(open_) - number)
            print(f"{number} of {len(open_)}, {left / 60:.0f} minutes left", flush=True)


# ---- latency


def time_all(folder: Path) -> None:
    """A line in latencies.jsonl for every cell and round: its p50 and that of the reference timed beside it."""
    device, file = connect(load_profile("local-cpu"), budget_s=BUDGET_S), folder / "latencies.jsonl"
    done = {(line["cell"], line["round"]) for line in lines(file)}
    cells = different()
    with tempfile.TemporaryDirectory() as exported:
        paths = {cell: Path(exported) / f"{number}.onnx" for number, cell in enumerate(cells)}
        for cell, path in paths.items():
            to_onnx(network(cell), SHAPE, path)
        for number in range(ROUNDS):
            order = np.random.default_rng(number).permutation(len(cells))
            open_ = [cells[i] for i in order if (cells[i], number) not in done]
            for start in range(0, len(open_), CHUNK):
                chunk = open_[start : start + CHUNK]
                for cell, told in zip(chunk, device.latencies([paths[cell] for cell in chunk]), strict=True):
                    line = {"cell": cell, "round": number, "p50_ms": told.p50_ms}
                    append(file, {**line, "reference_ms": told.reference_ms})
            print(f"round {number + 1} of {ROUNDS}", flush=True)


# ---- assemble


def assemble(folder: Path, table: Path = TABLE) -> None:
    """Write the table. Raises NasflowError if a training, a timing or a score is missing."""
    cells, this = different(), Path(__file__).name
    trainings = complete(
        folder / "trainings.jsonl", [(c, n) for c in cells for n in SEEDS], "seed", f"{this} train"
    )
    rounds = [(c, n) for c in cells for n in range(ROUNDS)]
    timings = complete(folder / "latencies.jsonl", rounds, "round", f"{this} latency")
    scores = complete(folder / "scores.jsonl", [(c, None) for c in cells], None, "zero_cost_scores.py")
    reference = statistics.median(line["reference_ms"] for line in timings.values())
    known = {
        cell: row(
            cell,
            [trainings[cell, seed] for seed in SEEDS],
            [timings[cell, number] for number in range(ROUNDS)],
            reference,
        )
        | {f"score_{name.replace('-', '_')}": value for name, value in scores[cell, None]["scores"].items()}
        for cell in cells
    }
    columns: dict[str, list[Any]] = defaultdict(list)
    for point in points():
        cell = meaning(point)
        columns["arch_str"].append(nasbench201.arch_string(point))
        columns["cell"].append(cells.index(cell))
        for name, value in known[cell].items():
            columns[name].append(value)
    types = {"arch_str": pa.string(), "cell": pa.int16()}
    arrays = {name: pa.array(values, types.get(name, pa.float32())) for name, values in columns.items()}
    made = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "trained": {"images": 863, "judged_on": 575, "batch": BATCH, "epochs": EPOCHS, "seeds": len(SEEDS)},
        "network": AROUND,
        "latency": {"rounds": ROUNDS, "reference_ms": reference, "batch": 1, "threads": 1},
        "units": UNITS,
    }
    found = pa.table(arrays).replace_schema_metadata({"digits_cells": json.dumps(made)})
    with replacing(table) as part:
        pq.write_table(found, part, compression="zstd", compression_level=19)
    print(f"{table.name}: {found.num_rows} rows, {table.stat().st_size / 1024:.0f} kB")


UNITS = {
    "error": "% wrong of 575 held-out images after 9 epochs, mean of the seeds",
    "error_third": "the same after 3 epochs",
    "error_ninth": "the same after 1 epoch",
    "train_seconds": "processor seconds of 9 epochs, mean of the seeds; third and ninth likewise",
    "flops": "multiply-adds for one image",
    "params": "numbers that are learned",
    "memory_kb": "weights and intermediate results at worst, by arithmetic",
    "score_*": "zero-cost scores before training, higher is better; -inf: nothing good to tell",
    "latency_ms": "one image, one thread, median of the rounds relative to a reference network, times its median",
}


def row(
    cell: str, trained: Sequence[Mapping[str, Any]], timed: Sequence[Mapping[str, Any]], reference_ms: float
) -> dict[str, float]:
    """The metrics of one cell."""
    found: dict[str, float] = {}
    for column in reversed(EPOCHS):
        last = [line[column][-1] for line in trained]
        found[column] = statistics.mean(last)
        found |= {f"{column}_seed{seed}": value for seed, value in zip(SEEDS, last, strict=True)}
    for column in reversed(EPOCHS):
        name = column.replace("error", "train_seconds")
        found[name] = statistics.mean(line[f"{column}_seconds"] for line in trained)
    model = network(cell)
    found["flops"] = counts.flops(model, SHAPE)
    found["params"] = counts.params(model)
    found["memory_kb"] = counts.peak_memory_kb(model, SHAPE)
    relative = [line["p50_ms"] / line["reference_ms"] for line in timed]
    found["latency_ms"] = statistics.median(relative) * reference_ms
    return found


# ---- files of lines


def complete(
    file: Path, expected: Sequence[tuple[str, int | None]], number: str | None, program: str
) -> dict[tuple[str, int | None], dict[str, Any]]:
    """The lines of a file by cell and `number`, a key of theirs; NasflowError unless all `expected` are there."""
    found = {(line["cell"], line[number] if number else None): line for line in lines(file)}
    missing = [one for one in expected if one not in found]
    if missing:
        raise NasflowError(
            f"{file}: expected {len(expected)} lines, {len(missing)} are missing, the first for {missing[0]}; "
            f"go on with `python benchmarks/{program} --out {file.parent}`"
        )
    return found


def lines(file: Path) -> Iterator[dict[str, Any]]:
    """What is in a file of JSON lines; a last one that a kill cut off is not."""
    if file.exists():
        for text in file.read_text().splitlines(keepends=True):
            if text.endswith("}\n"):
                yield json.loads(text)


def append(file: Path, line: Mapping[str, Any]) -> None:
    """Add a line, after the end of one that a kill cut off."""
    with file.open("ab+") as out:
        if out.tell():
            out.seek(-1, os.SEEK_END)
            whole = out.read() == b"\n"
        else:
            whole = True
        out.write(b"" if whole else b"\n")
        out.write(json.dumps(line).encode() + b"\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("phase", choices=("train", "latency", "assemble"))
    parser.add_argument("--seeds", type=int, nargs="+", choices=SEEDS, default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=Path("runs/digits-cells"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if given.phase == "train":
        train_all(given.out, given.seeds)
    elif given.phase == "latency":
        time_all(given.out)
    else:
        assemble(given.out)


if __name__ == "__main__":
    main()
