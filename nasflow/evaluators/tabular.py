"""Tables of architectures that somebody has trained and measured already: looking up instead of training.

A table is a parquet or CSV file with a column of architecture strings and columns of numbers. The strings are
taken apart into a space, so that any strategy can search a table, without torch. How a string is read:

- Letters, digits and underscores make a word, all else only separates: `|nor_conv_3x3~0|`, `(0, 1, 2)`, `8:16:64`.
  A point between digits and a minus before them belong to the number: `0.25`, `-1`. A word without letters is
  also separated at its underscores: `1_02_333`.
- Digits of one length of which some row starts with a zero are a code, one decision for each character: `02`, `333`
  if another row has `033`. So is a string that is one word of one length in all rows: `01200121`.
- What is the same in all rows is no decision and becomes no parameter.
- Numbers are ordered if there are more than two and they look like sizes (8, 16, 24; 3, 5, 7). Whole numbers
  0, 1, 2, ... without a gap are labels of operations, and so is every character of a code.
- Cells written as NAS-Bench-201 does have its edges as parameters, `2<-1`, and its features (spaces/nasbench201.py).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nasflow import names
from nasflow.errors import NasflowError
from nasflow.space import Choice, Point, Scalar, Space
from nasflow.spaces.nasbench201 import cell_features

if TYPE_CHECKING:
    import pandas as pd

SHIPPED = {"digits-cells": "bench/digits_cells.parquet"}  # inside the package
SAME = {"digits-cells": "cell"}  # the column that says which rows of a shipped table are one network
NAMES = 64  # a single decision with more options than that, another one in every row, is a name
WORD = re.compile(r"(?<![\w.])-?\d+\.\d+(?![\w.])|(?<![\w.])-?\d+(?!\w)|\w+")
WHOLE = re.compile(r"-?[1-9]\d*|0")
NUMBER = re.compile(r"-?\d+(\.\d+)?")
EDGE = re.compile(r"\|([^|~+]+)~(\d+)(?=\|)")

Values = NDArray[np.float64]


class TableError(NasflowError):
    """A table that cannot be read, or something asked of it that it does not hold."""


class Table:
    """The rows of a table: architectures, the space they lie in, and columns of numbers.

    >>> table = Table("two", ["3:8", "5:8"], {"error": np.array([0.2, 0.1])})
    >>> table.space.parameters
    (Choice(name='p1', options=(3, 5), ordered=False),)
    >>> table.row({"p1": 5}), table.point("3:8")
    (1, {'p1': 3})
    """

    def __init__(
        self,
        name: str,
        architectures: Sequence[str],
        columns: Mapping[str, Values],
        same: Values | None = None,
    ) -> None:
        self.name = name
        self.architectures = tuple(architectures)
        self._columns = dict(columns)
        self._choices, self._places = _decisions(name, self.architectures)
        cell = cell_operations(self.architectures[0])
        described = all(choice.name in _edges(len(cell)) for choice in self._choices)
        merged = (_merged(name, self._choices, self._places, columns, same),) if same is not None else ()
        self.space = Space(self._choices, merged, (CellFeatures(tuple(cell)),) if described else ())
        self._place = [{option: place for place, option in enumerate(c.options)} for c in self._choices]
        self._rows = {places: row for row, places in enumerate(self._places)}
        if len(self._rows) < len(self._places):
            one = next(row for row, places in enumerate(self._places) if self._rows[places] != row)
            two = self._rows[self._places[one]]
            raise TableError(
                f"{name}: rows {one} and {two} are the same architecture, {architectures[one]!r} and "
                f"{architectures[two]!r}; expected each once (take the mean of repeated trainings first)"
            )
        self._numbers = {architecture: row for row, architecture in enumerate(self.architectures)}

    def __len__(self) -> int:
        return len(self.architectures)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that hold numbers."""
        return tuple(self._columns)

    def values(self, column: str) -> Values:
        """A column, one number for each row; NaN where the table has none."""
        if column not in self._columns:
            known = names.nearest(column, self._columns)
            raise TableError(f"{self.name} has no column of numbers {column!r}: {known}")
        return self._columns[column]

    def row(self, point: Mapping[str, Scalar]) -> int:
        """The row of a point of the space; TableError if the table has none for it."""
        try:
            places = tuple(place[point[c.name]] for c, place in zip(self._choices, self._place, strict=True))
        except KeyError:
            self.space.check(point)
            raise
        if places not in self._rows:
            raise TableError(f"{self.name} has no row for {dict(point)}")
        return self._rows[places]

    def at(self, row: int) -> Point:
        """The point of a row."""
        return {c.name: c.options[place] for c, place in zip(self._choices, self._places[row], strict=True)}

    def point(self, architecture: str) -> Point:
        """The point of an architecture, written as the table writes it."""
        if architecture not in self._numbers:
            raise TableError(
                f"{self.name} has no architecture {architecture!r}; its first one is {self.architectures[0]!r}"
            )
        return self.at(self._numbers[architecture])


def load(file: str | Path, arch_column: str = "arch_str", same_column: str | None = None) -> Table:
    """Read a .parquet or .csv file, or a table that comes with nasflow by its name: digits-cells.

    Rows with one number in `same_column` are the same network, trained once and written in several ways; the first of
    them stands for all, so that whoever asks for another has asked for it already.
    """
    same_column = same_column or SAME.get(str(file))
    path = Path(str(files("nasflow") / SHIPPED[str(file)])) if str(file) in SHIPPED else Path(file)
    if not path.is_file():
        raise TableError(
            f"{path}: no such file; expected a table in .parquet or .csv, or the name of one that comes with "
            f"nasflow: {', '.join(SHIPPED)}"
        )
    frame = _read(path, arch_column)
    if arch_column not in frame.columns:
        known = names.nearest(arch_column, map(str, frame.columns))
        raise TableError(f"{path.name} has no column {arch_column!r}: {known}")
    architectures = frame[arch_column].tolist()
    for row, architecture in enumerate(architectures):
        if not isinstance(architecture, str):
            raise TableError(
                f"{path.name}: expected text that describes an architecture in column {arch_column!r}, "
                f"got {architecture!r} in row {row}"
            )
    numbers = frame.drop(columns=arch_column).select_dtypes(["number", "bool"])
    columns = {str(name): numbers[name].to_numpy(dtype=float, na_value=np.nan) for name in numbers.columns}
    table = Table(path.name, architectures, columns)
    return (
        table if same_column is None else Table(path.name, architectures, columns, table.values(same_column))
    )


def _merged(
    name: str,
    choices: Sequence[Choice],
    places: Sequence[tuple[int, ...]],
    columns: Mapping[str, Values],
    same: Values,
) -> Merged:
    first: dict[float, int] = {}
    firsts = [first.setdefault(float(number), row) for row, number in enumerate(same)]
    for column, values in columns.items():
        differing = np.flatnonzero(
            (values != values[firsts]) & ~(np.isnan(values) & np.isnan(values[firsts]))
        )
        if len(differing):
            raise TableError(
                f"{name}: rows {firsts[differing[0]]} and {differing[0]} are said to be the same network but differ in "
                f"column {column!r}"
            )
    stands = {places[row]: places[one] for row, one in enumerate(firsts) if one != row}
    return Merged(tuple(choices), stands)


def cell_operations(architecture: str) -> list[str]:
    """The operations of a cell written as NAS-Bench-201 does (Dong and Yang, ICLR 2020): node by node, one for the
    edge from every earlier node. None at all if the string is written otherwise.

    >>> cell_operations("|none~0|+|skip_connect~0|nor_conv_1x1~1|")
    ['none', 'skip_connect', 'nor_conv_1x1']
    >>> cell_operations("0,1,2")
    []
    """
    operations: list[str] = []
    for node, part in enumerate(architecture.split("+"), 1):
        edges = EDGE.findall(part)
        rewritten = "|" + "".join(f"{operation}~{earlier}|" for operation, earlier in edges)
        if rewritten != part or [earlier for _, earlier in edges] != [str(i) for i in range(node)]:
            return []
        operations += [operation for operation, _ in edges]
    return operations


@dataclass(frozen=True)
class Merged:
    """The fold of a table in which networks are written in several ways: to the first way each is written, both as
    the places of their options."""

    choices: tuple[Choice, ...]
    stands: Mapping[tuple[int, ...], tuple[int, ...]]

    def __call__(self, point: Point) -> Point:
        places = tuple(choice.index(point[choice.name]) for choice in self.choices)
        stands = self.stands.get(places, places)
        return {
            choice.name: choice.options[place] for choice, place in zip(self.choices, stands, strict=True)
        }


@dataclass(frozen=True)
class CellFeatures:
    """The features of a point of a table of cells. `cell` has the operations of the edges that are no parameters."""

    cell: tuple[str, ...]

    def __call__(self, point: Mapping[str, Scalar]) -> list[float]:
        edges = _edges(len(self.cell))
        return cell_features([str(point.get(edge, op)) for edge, op in zip(edges, self.cell, strict=True)])


def _edges(count: int) -> list[str]:
    """Names of the edges of a cell that has so many, in the order of its string."""
    edges = ((node, earlier) for node in itertools.count(1) for earlier in range(node))
    return [f"{node}<-{earlier}" for node, earlier in itertools.islice(edges, count)]


def _read(path: Path, arch_column: str) -> pd.DataFrame:
    """The file as it is; architectures of a CSV file stay text, with their leading zeros."""
    if path.suffix not in (".parquet", ".csv"):
        raise TableError(f"{path}: expected a table in .parquet or .csv, got {path.suffix or 'no suffix'}")
    import pandas as pd  # slow to import, and a worker that is given a table needs none of it

    try:
        if path.suffix == ".parquet":
            return pd.read_parquet(path)
        return pd.read_csv(path, dtype={arch_column: str})
    except (
        OSError,
        ValueError,
    ) as error:  # what is wrong with the content is a ValueError in pandas and pyarrow
        raise TableError(f"{path}: cannot be read as {path.suffix[1:]}: {error}") from error


def _decisions(name: str, architectures: Sequence[str]) -> tuple[tuple[Choice, ...], list[tuple[int, ...]]]:
    """A choice for every place at which the strings differ, and for every row the places of its options."""
    if not architectures:
        raise TableError(f"{name} has no rows")
    cells = [cell_operations(architecture) for architecture in architectures]
    parts = cells if all(cells) else [_words(architecture) for architecture in architectures]
    first = len(parts[0])
    for row, words in enumerate(parts):
        if len(words) != first:
            raise TableError(
                f"{name}: expected as many parts in every architecture, but {architectures[0]!r} has {first} "
                f"and {architectures[row]!r} in row {row} has {len(words)}"
            )
    columns: list[Sequence[str]] = []  # at each place, what all rows have there
    codes: list[bool] = []
    column: Sequence[str]
    for column in zip(*parts, strict=True):
        code = not all(cells) and _is_code(column, alone=first == 1)
        columns += zip(*column, strict=True) if code else [column]
        codes += [code] * (len(columns) - len(codes))
    titles = _edges(first) if all(cells) else [f"p{number}" for number in range(1, len(columns) + 1)]
    choices, places = [], []
    for title, column, code in zip(titles, columns, codes, strict=True):
        if len(set(column)) > 1:
            choice, found = _choice(title, column, code)
            choices.append(choice)
            places.append(found)
    if not choices:
        raise TableError(f"{name}: all {len(architectures)} architectures are the same, {architectures[0]!r}")
    if len(choices) == 1 and len(choices[0].options) == len(architectures) > NAMES:
        raise TableError(
            f"{name}: {architectures[0]!r} and all others are names, from which a search learns nothing; "
            "expected strings that say what each architecture is made of"
        )
    return tuple(choices), list(zip(*places, strict=True))


def _words(architecture: str) -> list[str]:
    found: list[str] = WORD.findall(architecture)
    lettered = ([word] if any(map(str.isalpha, word)) else word.split("_") for word in found)
    return [word for words in lettered for word in words if word]


def _is_code(words: Sequence[str], alone: bool) -> bool:
    """Whether every character of these words, the same place of all rows, is a decision of its own."""
    if len({len(word) for word in words}) > 1 or len(words[0]) == 1 or len(set(words)) == 1:
        return False
    return alone or (all(map(str.isdigit, words)) and any(word[0] == "0" for word in words))


def _choice(title: str, words: Sequence[str], code: bool) -> tuple[Choice, list[int]]:
    """The choice between the words at one place of all rows, and the place of each row's among its options."""
    known = sorted(set(words))
    options: dict[str, Scalar] = {word: word for word in known}
    ordered = False
    if all(map(WHOLE.fullmatch, known)):
        options = {word: int(word) for word in sorted(known, key=int)}
        labels = list(options.values()) == list(range(len(known)))
        ordered = len(known) > 2 and not labels and not code
    elif all(map(NUMBER.fullmatch, known)) and len(set(map(float, known))) == len(known):
        options = {word: float(word) for word in sorted(known, key=float)}
        ordered = len(known) > 2
    place = {word: index for index, word in enumerate(options)}
    return Choice(title, tuple(options.values()), ordered), [place[word] for word in words]
