"""Official files of published benchmarks as tables.

Only HW-NAS-Bench (Li et al., ICLR 2021), whose file holds plain numbers. Those of NAS-Bench-101, NAS-Bench-201 and
NATS-Bench are read by their own packages; docs/tables.md says how a table is made with them.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasflow.evaluators.tabular import TableError

if TYPE_CHECKING:
    import pandas as pd

UNITS = {"latency": "_ms", "energy": "_mJ", "intensity": ""}  # by the last word of a metric's name
CORES = ("numpy.core", "numpy._core")  # before and since numpy 2
PLAIN = {
    ("_codecs", "encode"),  # bytes, in old pickles
    ("collections", "OrderedDict"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    *((f"{core}.multiarray", name) for core in CORES for name in ("_reconstruct", "scalar")),
    *((f"{core}.numeric", "_frombuffer") for core in CORES),
}


def hw_nas_bench(file: Path) -> pd.DataFrame:
    """The part of `HW-NAS-Bench-v1_0.pickle` that is about NAS-Bench-201: a row for each cell, its string in `arch_str`
    and columns such as `cifar10_edgegpu_latency_ms`. Whatever is not plain data is not unpickled. Raises TableError."""
    import pandas as pd

    metrics = _mapping(file, _unpickled(file), "nasbench201")
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


def joined(found: pd.DataFrame, table: Path, arch_column: str) -> pd.DataFrame:
    """`found` with the columns of a table of the same architectures, which is a .parquet or .csv file. The table's
    columns stay where both have one; rows that only one of them has are left out."""
    import pandas as pd

    if table.suffix not in (".parquet", ".csv") or not table.is_file():
        raise TableError(f"{table}: expected a table in .parquet or .csv")
    other = pd.read_parquet(table) if table.suffix == ".parquet" else pd.read_csv(table)
    if arch_column not in other.columns:
        raise TableError(f"{table}: no column {arch_column!r}; it has {', '.join(map(str, other.columns))}")
    other = other.rename(columns={arch_column: "arch_str"})
    new = ["arch_str", *(name for name in found.columns if name not in other.columns)]
    both = other.merge(found[new], on="arch_str", validate="one_to_one")
    if both.empty:
        raise TableError(
            f"{table}: no architecture of {arch_column!r} is one of {found.arch_str[0]!r} and the like"
        )
    return both


class _Plain(pickle.Unpickler):
    """Makes numbers, text, lists, dictionaries and arrays of them, and nothing that could run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PLAIN:
            raise TableError(f"expected numbers and text alone, but the file asks for {module}.{name}")
        return super().find_class(module, name)


def _unpickled(file: Path) -> Any:
    try:
        with file.open("rb") as content:
            return _Plain(content).load()
    except (OSError, EOFError, pickle.UnpicklingError) as error:
        raise TableError(f"{file}: cannot be read as a pickle: {error}") from error


def _mapping(file: Path, found: Any, key: Any) -> Mapping[Any, Any]:
    if not isinstance(found, Mapping) or not isinstance(found.get(key), Mapping):
        raise TableError(f"{file}: expected the structure of HW-NAS-Bench-v1_0.pickle, with {key!r} in it")
    inner: Mapping[Any, Any] = found[key]
    return inner
