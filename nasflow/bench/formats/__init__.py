"""Official files of published benchmarks as tables, one module for each: `read(file)` there, or here for any of them.

None needs the package of the benchmark, and nothing in a file can run: pickles are read by plain_pickle.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nasflow.bench.formats import hw_nas_bench, nasbench101, nats
from nasflow.evaluators.tabular import TableError

if TYPE_CHECKING:
    import pandas as pd


def read(file: Path) -> pd.DataFrame:
    """The table that is in an official file (for NATS-Bench also a folder), known by its ending. Raises TableError."""
    if not file.exists():
        raise TableError(f"{file}: no such file")
    if file.suffix == ".tfrecord":
        return nasbench101.read(file)
    if file.is_dir() or file.suffix == ".pbz2":
        return nats.read(file)
    if file.suffix == ".pickle":
        return hw_nas_bench.read(file)
    raise TableError(
        f"{file}: expected nasbench_only108.tfrecord or nasbench_full.tfrecord of NAS-Bench-101, a file "
        "NATS-*.pickle.pbz2 or a folder NATS-*-simple of NATS-Bench, or HW-NAS-Bench-v1_0.pickle"
    )


def joined(found: pd.DataFrame, table: Path, arch_column: str) -> pd.DataFrame:
    """`found` with the columns of a table of the same architectures, which is a .parquet or .csv file. The table's
    columns stay where both have one; rows that only one of them has are left out."""
    import pandas as pd

    if table.suffix not in (".parquet", ".csv") or not table.is_file():
        raise TableError(f"{table}: expected a table in .parquet or .csv")
    as_text = {arch_column: str}  # also where it is made of digits
    other = pd.read_parquet(table) if table.suffix == ".parquet" else pd.read_csv(table, dtype=as_text)
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
