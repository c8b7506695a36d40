"""NATS-Bench (Dong et al., TPAMI 2021): the 15,625 cells of NAS-Bench-201 (tss) and 32,768 sizes (sss), trained anew.

A folder `NATS-*-simple` has `meta.pickle.pbz2` with the architectures' strings under "meta_archs", and a file for
each of them by its number, `000000.pickle.pbz2`. A file `NATS-*.pickle.pbz2` has all of it, under "meta_archs" and
"arch2infos". What is said of an architecture is, as nats_bench.api_utils (1.8) writes it,

    {hp: {"dataset_seed": {dataset: [seed, ...]}, "all_results": {(dataset, seed): trial}}}

`hp` being the epochs of the training ("12", "200"). Of a trial these are read: "epochs", "eval_acc1es" by "set@epoch"
(epochs from 0), "train_times" by epoch, "params" and "flop" in millions, "latency" in seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nasflow.bench.formats import plain_pickle
from nasflow.evaluators.tabular import TableError

if TYPE_CHECKING:
    import pandas as pd

ACCURACIES = (  # column, data set, and set in which it is, as the benchmark's package chooses them
    ("cifar10_val", "cifar10-valid", "x-valid"),
    ("cifar10_test", "cifar10", "ori-test"),
    ("cifar100_val", "cifar100", "x-valid"),
    ("cifar100_test", "cifar100", "x-test"),
    ("imagenet16_120_val", "ImageNet16-120", "x-valid"),
    ("imagenet16_120_test", "ImageNet16-120", "x-test"),
)
COSTS = ("cifar10", "cifar100", "ImageNet16-120")
TRUSTED = 888  # the seed whose costs are right where seeds differ
EARLY = 12  # epochs after which a longer training is also looked at


def read(path: Path) -> pd.DataFrame:
    """A row for each architecture, its string in `arch_str`, and where the file has them: accuracies in %, as
    `cifar10_val_acc_200` after 200 epochs and `cifar10_val_acc_200_at12` after the 12th of them, each the mean of
    `.._seed777` and so on; mean `cifar10_train_s_200`, all seconds of a training; `cifar10_params_M`,
    `cifar10_flops_M`, `cifar10_latency_ms` for a batch. Raises TableError."""
    import pandas as pd

    rows = []
    for architecture, file, found in _architectures(path):
        try:
            columns = _columns(found)
        except (AttributeError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise TableError(
                f"{file}: expected the structure of NATS-Bench's results for {architecture!r}: {error!r}"
            ) from error
        rows.append({"arch_str": architecture, **columns})
    return pd.DataFrame(rows)


def _architectures(path: Path) -> Iterator[tuple[str, Path, Any]]:
    """Each architecture, the file that has its results, and these."""
    file = path / "meta.pickle.pbz2" if path.is_dir() else path
    found = plain_pickle.load(file)
    architectures = found.get("meta_archs") if isinstance(found, Mapping) else None
    if not isinstance(architectures, Sequence) or not architectures:
        raise TableError(f"{file}: expected a list of architectures under 'meta_archs', as NATS-Bench has it")
    if path.is_dir():
        files = [path / f"{number:06d}.pickle.pbz2" for number in range(len(architectures))]
        missing = [one.name for one in files if not one.is_file()]
        if missing:
            raise TableError(
                f"{path}: {len(missing):,} of {len(files):,} architectures have no file, the first is {missing[0]}; "
                "unpack the archive again"
            )
        yield from ((a, one, plain_pickle.load(one)) for a, one in zip(architectures, files, strict=True))
        return
    results = found.get("arch2infos")
    if not isinstance(results, Mapping) or any(number not in results for number in range(len(architectures))):
        raise TableError(f"{file}: expected results of all {len(architectures):,} under 'arch2infos'")
    yield from ((architecture, file, results[number]) for number, architecture in enumerate(architectures))


def _columns(results: Mapping[str, Any]) -> dict[str, float]:
    """The columns of one architecture; costs that do not depend on the epochs are those of the longest training."""
    columns: dict[str, float] = {}
    for hp, result in sorted(results.items(), key=lambda item: int(item[0])):
        for column, dataset, which in ACCURACIES:
            trials = _trials(result, dataset)
            columns |= _accuracies(f"{column}_acc_{hp}", trials, which, -1)
            if int(hp) > EARLY:
                columns |= _accuracies(f"{column}_acc_{hp}_at{EARLY}", trials, which, EARLY - 1)
        for dataset in result["dataset_seed"]:
            times = [t["train_times"] for t in _trials(result, dataset).values() if t["train_times"]]
            if times:
                columns[f"{_name(dataset)}_train_s_{hp}"] = _mean([sum(time.values()) for time in times])
        for dataset in COSTS:
            if trials := _trials(result, dataset):
                columns[f"{_name(dataset)}_params_M"] = _cost(trials, "params")
                columns[f"{_name(dataset)}_flops_M"] = _cost(trials, "flop")
            latencies = [_mean(t["latency"]) for t in trials.values() if t["latency"]]
            if latencies:
                columns[f"{_name(dataset)}_latency_ms"] = 1000 * _mean(latencies)
    return columns


def _trials(result: Mapping[str, Any], dataset: str) -> dict[int, Mapping[str, Any]]:
    """The trainings on a data set, by seed."""
    seeds = result["dataset_seed"].get(dataset, ())
    return {int(seed): result["all_results"][dataset, seed] for seed in seeds}


def _accuracies(
    column: str, trials: Mapping[int, Mapping[str, Any]], which: str, epoch: int
) -> dict[str, float]:
    """The accuracy on a set after an epoch (-1: the last), of each seed that has it, and their mean."""
    found: dict[str, float] = {}
    for seed, trial in trials.items():
        value = trial["eval_acc1es"].get(f"{which}@{epoch % trial['epochs']}")
        if value is not None:
            found[f"{column}_seed{seed}"] = float(value)
    return {column: _mean(list(found.values())), **found} if found else {}


def _cost(trials: Mapping[int, Mapping[str, Any]], cost: str) -> float:
    """What all trainings of a network say of it. Some in the files are wrong; where they differ, the one with seed 888
    is right, as the benchmark's package has it, and without that one nothing is known (NaN)."""
    said = {seed: float(trial[cost]) for seed, trial in trials.items()}
    if len({round(value, 5) for value in said.values()}) == 1:
        return next(iter(said.values()))
    return said.get(TRUSTED, math.nan)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _name(dataset: str) -> str:
    return dataset.lower().replace("-", "_")
