"""HW-NAS-Bench (Li et al., ICLR 2021): latencies and energies of NAS-Bench-201's cells on six devices."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasflow.bench.formats import plain_pickle
from nasflow.evaluators.tabular import TableError

if TYPE_CHECKING:
    import pandas as pd

UNITS = {"latency": "_ms", "energy": "_mJ", "intensity": ""}  # by the last word of a metric's name


def read(file: Path) -> pd.DataFrame:
    """The part of `HW-NAS-Bench-v1_0.pickle` that is about NAS-Bench-201: a row for each cell, its string in `arch_str`
    and columns such as `cifar10_edgegpu_latency_ms`. Raises TableError."""
    import pandas as pd

    metrics = _mapping(file, plain_pickle.load(file), "nasbench201")
    columns: dict[str, Any] = {}
    for dataset, measured in metrics.items():
        architectures = [config["arch_str"] for config in _mapping(file, metrics, dataset)["config"]]
        if columns.setdefault("arch_str", architectures) != architectures:
            raise TableError(
                f"{file}: expected the same cells in the same order for each data set, not so {dataset}"
            )
        for metric, values in measured.items():
            unit = UNITS.get(metric.rpartition("_")[2])
            if unit is not None:
                name = str(dataset).lower().replace("-", "_")
                columns[f"{name}_{metric}{unit}"] = [float(value) for value in values]
    return pd.DataFrame(columns)


def _mapping(file: Path, found: Any, key: Any) -> Mapping[Any, Any]:
    if not isinstance(found, Mapping) or not isinstance(found.get(key), Mapping):
        raise TableError(f"{file}: expected the structure of HW-NAS-Bench-v1_0.pickle, with {key!r} in it")
    inner: Mapping[Any, Any] = found[key]
    return inner
