"""NAS-Bench-101 (Ying et al., ICML 2019): 423,624 modules, each trained three times on CIFAR-10.

`nasbench_only108.tfrecord` holds trainings of 108 epochs, `nasbench_full.tfrecord` also of 4, 12 and 36. A record is
one training, a list in JSON of the module's hash, the epochs, its adjacency matrix row by row, its operations, and a
message ModelMetrics (protocol buffers, in base64) that has

    1   evaluations before, halfway through, and after the training, with
            1 epoch   2 seconds of training   3 training, 4 validation, 5 test accuracy   6 path of a checkpoint
    2   trainable parameters
    3   seconds of all training and evaluation
"""

from __future__ import annotations

import base64
import json
import math
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nasflow.bench import genomes
from nasflow.bench.formats import tfrecord
from nasflow.errors import NasflowError
from nasflow.evaluators.tabular import TableError
from nasflow.spaces import nasbench101

if TYPE_CHECKING:
    import pandas as pd

OPERATIONS = {"conv3x3-bn-relu": "conv3x3", "conv1x1-bn-relu": "conv1x1", "maxpool3x3": "maxpool3x3"}
ACCURACIES = {"val": 4, "test": 5, "train": 3}  # fields of an evaluation
SECONDS = 2


def read(file: Path) -> pd.DataFrame:
    """A row for each module: `arch_str` (see `architecture`), the file's `module_hash`, `cifar10_params_M`, and for
    each number of epochs columns such as `cifar10_val_acc_108`, in %, the mean of `cifar10_val_acc_108_seed0` and so
    on, and `cifar10_train_s_108`, the mean seconds of a training. Raises TableError."""
    import pandas as pd

    rows: dict[str, tuple[str, float]] = {}  # architecture and parameters by hash
    numbers: dict[str, int] = {}
    trainings = array("d")  # row, epochs, the accuracies, seconds
    for number, record in enumerate(tfrecord.records(file)):
        try:
            name, epochs, adjacency, operations, message = json.loads(record)
            fields = list(_fields(base64.b64decode(message)))
            evaluated = dict(_fields([value for field, value in fields if field == 1][2]))
            if name not in rows:
                numbers[name] = len(rows)
                rows[name] = architecture(adjacency, operations.split(",")), dict(fields)[2] / 1e6
            accuracies = (100 * evaluated[field] for field in ACCURACIES.values())
            trainings.extend((numbers[name], epochs, *accuracies, evaluated[SECONDS]))
        except (AttributeError, LookupError, TypeError, ValueError, struct.error, NasflowError) as error:
            raise TableError(f"{file}: record {number} is no training of NAS-Bench-101: {error!r}") from error
    if not rows:
        raise TableError(f"{file}: has no records")
    architectures, parameters = zip(*rows.values(), strict=True)
    columns: dict[str, Any] = {"arch_str": architectures, "module_hash": list(rows)}
    columns["cifar10_params_M"] = parameters
    names = ["row", "epochs", *ACCURACIES, "seconds"]
    found = pd.DataFrame(np.frombuffer(trainings).reshape(-1, len(names)), columns=names)
    for epochs in sorted(found.epochs.unique()):
        trained = found[found.epochs == epochs]
        repeat = trained.groupby("row").cumcount()
        for metric in (*ACCURACIES, "seconds"):
            values = trained.assign(repeat=repeat).pivot(index="row", columns="repeat", values=metric)
            values = values.reindex(range(len(rows)))
            if metric == "seconds":
                columns[f"cifar10_train_s_{epochs:.0f}"] = values.mean(axis=1)
                continue
            column = f"cifar10_{metric}_acc_{epochs:.0f}"
            columns[column] = values.mean(axis=1)
            columns |= {f"{column}_seed{one}": values[one] for one in values.columns}
    return pd.DataFrame(columns)


def architecture(adjacency: str, operations: list[str]) -> str:
    """The module as 26 digits, see genomes.py: of all that mean the same the one to which the space `nasbench101` folds
    them. `adjacency` has one digit for each pair of vertices, row by row. Raises ValueError if it is no module of the
    benchmark.

    >>> architecture("011001000", ["input", "maxpool3x3", "output"])
    '10000100001000000000020000'
    """
    vertices = math.isqrt(len(adjacency))
    if vertices**2 != len(adjacency) or vertices != len(operations) or set(adjacency) - {"0", "1"}:
        raise ValueError(f"{adjacency!r} is no adjacency matrix of {operations}")
    if (operations[0], operations[-1]) != ("input", "output"):
        raise ValueError(f"expected operations from 'input' to 'output', got {operations}")
    edges = tuple(divmod(place, vertices) for place, digit in enumerate(adjacency) if digit == "1")
    said = tuple(OPERATIONS[operation] for operation in operations[1:-1])
    nasbench101.point_of(edges, said)  # no edge leads back, and there are at most 7 vertices
    module = nasbench101.representative(nasbench101.Module(edges, said))
    if len(module.edges) != len(edges) or module.vertices != vertices:
        raise ValueError(
            f"{adjacency!r} has vertices on no path, or more than {nasbench101.MOST_EDGES} edges"
        )
    point = nasbench101.point_of(module.edges, module.operations)
    return "".join(map(str, genomes.encoding("nasbench101").encode(point)))


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Numbers and values of a message's fields: whole numbers, doubles, and bytes for all else."""
    at = 0
    while at < len(message):
        key, at = _whole(message, at)
        kind = key & 7
        if kind == 0:
            value, at = _whole(message, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _whole(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"the message has a field of the unknown kind {kind}")
        if at + size > len(message):
            raise ValueError("the message ends within a field")
        content = message[at : at + size]
        yield key >> 3, struct.unpack("<d", content)[0] if kind == 1 else content
        at += size


def _whole(message: bytes, at: int) -> tuple[int, int]:
    """The whole number that begins at a byte, 7 bits in each, and where it ends."""
    value = shift = 0
    while message[at] & 128:
        value |= (message[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return value | message[at] << shift, at + 1
