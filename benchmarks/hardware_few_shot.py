"""How well is a device foretold on which ten architectures were measured, from others on which many were?

    python benchmarks/hardware_few_shot.py
    python benchmarks/hardware_few_shot.py --table ../shared/data/help_fbnet_ofa/data/fbnet
    python benchmarks/hardware_few_shot.py --table TABLE.parquet --known ../shared/data/nasbench201_hardware.parquet

A table is a Parquet or CSV file with a row for each cell of NAS-Bench-201, written in its column `arch_str`, and a
column `...latency_ms` for each device; or a folder of HELP's with arch.pt and latency/DEVICE.pt, as of the FBNet
space. With `--known`, the devices of that table are known ones too, and only those of the first are foretold.

Architectures are split at random, 900 to train and 4,000 of the rest to test, five times. Each device in turn is the
new one: ten of the training architectures are chosen, without looking at it, and are all that is seen of it; of
the others, only the training architectures are seen, and of the test ones only the encoding. The figures are Spearman's
rank correlations on the test architectures, twice: with every other column known, and with none that is of the same
physical device (another batch size or data set, which tells nearly all).

The constants of nasflow/hardware/fewshot.py were chosen on the families in CHOSEN_ON, with an eye on FBNet's;
the mean over the other families is told on its own. Takes a few minutes of one core.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from _results import write
from numpy.typing import NDArray
from scipy.stats import spearmanr

from nasflow.hardware.fewshot import Affine, Known
from nasflow.spaces.nasbench201 import OPERATIONS, cell_features

Floats = NDArray[np.float64]

TABLE = Path(__file__).parents[2] / "shared" / "data" / "nasbench201_hardware.parquet"
GOAL = 0.95
TRAINING, TEST, MEASURED, SPLITS = 900, 4000, 10, 5
CHOSEN_ON = ("2080ti", "eyeriss", "pixel3", "silver_4114")
BLOCKS = 9  # of the FBNet space, in each of its layers


# ---- tables


class Table:
    """`ms` (devices, architectures) with NaN where nothing was measured, and what the architectures are."""

    def __init__(self, file: Path) -> None:
        self.flops: Floats | None = None
        if file.is_dir():
            cells = torch.load(file / "arch.pt", weights_only=True)
            self.keys = ["-".join(map(str, cell)) for cell in cells]
            self.encodings = np.array(
                [[float(b == a) for b in cell for a in range(BLOCKS)] for cell in cells]
            )
            files = sorted((file / "latency").glob("*.pt"))
            self.devices = [one.stem for one in files]
            self.ms = np.array([torch.load(one, weights_only=True) for one in files], dtype=np.float64)
            return
        table = pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
        columns = [name for name in table.columns if name.endswith("latency_ms")]
        if "arch_str" not in table or not columns:
            raise SystemExit(f"{file}: expected a column arch_str and columns that end in latency_ms")
        self.keys = list(table["arch_str"])
        self.encodings = np.array([encoding(key) for key in self.keys])
        self.devices = [name.removesuffix("_latency_ms") for name in columns]
        ms = table[columns].to_numpy(dtype=np.float64).T
        self.ms = np.where(ms > 0, ms, np.nan)  # -1 says that a network did not run
        flops = [name for name in table.columns if "flops" in name]
        self.flops = table[flops[0]].to_numpy(dtype=np.float64) if flops else None


def encoding(cell: str) -> list[float]:
    """The operation on each edge, and what is seen on the cell's paths from input to output."""
    operations = re.findall(r"\|([^|~]+)~", cell)
    return [float(one == other) for one in operations for other in OPERATIONS] + cell_features(operations)


def family(device: str) -> str:
    """The physical device of a column: help_1080ti_32 and help_1080ti_1, cifar10_fpga and cifar100_fpga are one.

    >>> family("cifar100_raspi4"), family("help_titanx_256"), family("help_silver_4114")
    ('raspi4', 'titanx', 'silver_4114')
    """
    device = re.sub(r"^(cifar10|cifar100|ImageNet16-120|help)_", "", device)
    return re.sub(r"_(1|32|64|256)$", "", device)


# ---- trying


def attempt(table: Table, new: int, known: list[int], seed: int) -> dict[str, float]:
    """One device foretold from `known` ones on one split: what came of each method."""
    runs = np.flatnonzero(~np.isnan(table.ms[new]))
    order = np.random.default_rng(seed).permutation(len(runs))
    training, test = runs[order[:TRAINING]], runs[order[TRAINING : TRAINING + TEST]]
    encodings = table.encodings[training]
    devices = Known.of(encodings, table.ms[np.ix_(known, training)])
    chosen = devices.choose(MEASURED)
    seen = table.ms[new, training[chosen]]
    measured = dict(zip(chosen, seen.tolist(), strict=True))
    mean, deviation = devices.transfer(measured).predict(table.encodings[test])
    truth = table.ms[new, test]
    at_seen = devices.predict(encodings[chosen])
    nearest = int(np.argmax([np.corrcoef(one, seen)[0, 1] for one in at_seen]))
    proxy = devices.predict(table.encodings[test])[nearest]
    mapped = Affine.of(at_seen[nearest], seen)(proxy)
    # No map of one device can be better than the one whose own times rank the test architectures best.
    best = max(ranked(one, truth) for one in table.ms[np.ix_(known, test)])
    return {
        "spearman": ranked(mean, truth),
        "median_error_percent": 100 * float(np.median(np.abs(mean - truth) / truth)),
        "within_two_deviations_percent": 100 * float(np.mean(np.abs(mean - truth) < 2 * deviation)),
        "affine_proxy": ranked(mapped, truth),
        "affine_proxy_median_error_percent": 100 * float(np.median(np.abs(mapped - truth) / truth)),
        "best_proxy_in_hindsight": best,
        **({"flops": ranked(table.flops[test], truth)} if table.flops is not None else {}),
    }


def ranked(predicted: Floats, truth: Floats) -> float:
    there = ~np.isnan(predicted)
    return float(spearmanr(predicted[there], truth[there]).statistic)


def tried(
    table: Table, targets: list[int], splits: int, *, families_apart: bool
) -> dict[str, dict[str, float]]:
    """The mean over the splits of each figure, for each device."""
    found = {}
    for new in targets:
        name = table.devices[new]
        known = [
            other
            for other, device in enumerate(table.devices)
            if other != new and not (families_apart and family(device) == family(name))
        ]
        attempts = [attempt(table, new, known, seed) for seed in range(splits)]
        found[name] = {figure: float(np.mean([one[figure] for one in attempts])) for figure in attempts[0]}
        shown = "  ".join(f"{figure} {value:.3f}" for figure, value in found[name].items())
        print(f"{name:24}{shown}", flush=True)
    return found


def over_families(found: dict[str, dict[str, float]], figure: str) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for device, figures in found.items():
        if figure in figures:
            values.setdefault(family(device), []).append(figures[figure])
    return {name: float(np.mean(many)) for name, many in values.items()}


def summary(found: dict[str, dict[str, float]]) -> dict[str, Any]:
    figures = list(next(iter(found.values())))
    families = over_families(found, "spearman")
    unseen = [value for name, value in families.items() if name not in CHOSEN_ON]
    return {
        "mean_over_devices": {
            one: float(np.mean([figures[one] for figures in found.values()])) for one in figures
        },
        "mean_over_families": {
            one: float(np.mean(list(over_families(found, one).values()))) for one in figures
        },
        "mean_over_families_nothing_was_chosen_on": float(np.mean(unseen)) if unseen else None,
        "lowest_family": min(families, key=lambda name: families[name]),
        "devices": found,
    }


def joined(table: Table, more: Table) -> None:
    """Add the devices of `more`, which are measured on the same architectures in any order."""
    at = {key: number for number, key in enumerate(more.keys)}
    order = np.array([at.get(key, -1) for key in table.keys])
    if (order < 0).all():
        raise SystemExit("--known: expected a table of the same architectures as --table")
    table.devices += [device for device in more.devices if device not in table.devices]
    new = [number for number, device in enumerate(more.devices) if device in table.devices[len(table.ms) :]]
    table.ms = np.vstack([table.ms, np.where(order >= 0, more.ms[np.ix_(new, order)], np.nan)])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--known", type=Path, action="append", default=[])
    parser.add_argument("--splits", type=int, default=SPLITS)
    given = parser.parse_args()
    started = time.process_time()
    table = Table(given.table)
    targets = list(range(len(table.devices)))
    for file in given.known:
        joined(table, Table(file))
    found = {}
    for name, apart in (("no_other_column_of_the_family_known", True), ("all_other_columns_known", False)):
        print(f"\n{name.replace('_', ' ')}")
        found[name] = summary(tried(table, targets, given.splits, families_apart=apart))
    value = found["no_other_column_of_the_family_known"]["mean_over_devices"]["spearman"]
    for name, part in found.items():
        of, over = part["mean_over_devices"], part["mean_over_families"]
        print(f"\n{name.replace('_', ' ')}: mean over devices, over families")
        print("\n".join(f"  {one:36}{of[one]:8.3f}{over[one]:8.3f}" for one in of))
    named = "few_shot" if given.table.resolve() == TABLE.resolve() else f"few_shot-{given.table.stem}"
    write(
        f"hardware-{named}",
        goal=f"Spearman >= {GOAL}, mean over the devices of {given.table.name}, each foretold from {MEASURED}"
        f" measurements and devices of other families, mean of {given.splits} splits",
        value=value,
        holds=value >= GOAL,
        training_architectures=TRAINING,
        test_architectures=TEST,
        measured=MEASURED,
        splits=given.splits,
        constants_chosen_on=list(CHOSEN_ON),
        cpu_seconds=round(time.process_time() - started),
        **found,
    )


if __name__ == "__main__":
    main()
