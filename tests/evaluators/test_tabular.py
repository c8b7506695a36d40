"""Tables become spaces: strings of every published form, numbers and labels told apart, mistakes explained."""

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nasflow.evaluators.tabular import Table, TableError, cell_operations, load
from nasflow.space import Choice, SpaceError
from nasflow.spaces import nasbench201

MEASURED = Path("../shared/data/nasbench201_hardware.parquet")
OPS = ("none", "skip_connect", "nor_conv_3x3")
CELLS = [f"|{a}~0|+|{b}~0|{c}~1|" for a, b, c in product(OPS, repeat=3)]


def parameters(*architectures: str) -> dict[str, tuple[object, ...]]:
    """Options by name; the order of sizes is said by a leading `ordered`."""
    space = Table("t", architectures, {}).space
    choices = [p for p in space.parameters if isinstance(p, Choice)]
    return {c.name: ("ordered", *c.options) if c.ordered else c.options for c in choices}


@pytest.mark.parametrize(
    ("architectures", "expected"),
    [
        # NATS-Bench's sizes, an encoding by indices, and one written as a Python tuple
        (("8:16:8", "64:16:8", "24:16:16"), {"p1": ("ordered", 8, 24, 64), "p3": (8, 16)}),
        (("0,1,2,0", "1,1,2,0", "2,1,0,0"), {"p1": (0, 1, 2), "p3": (0, 2)}),
        (("(4, 0, 3)", "(2, 0, 3)", "(3, 0, 1)"), {"p1": ("ordered", 2, 3, 4), "p3": (1, 3)}),
        # NAS-Bench-Macro: one character a layer
        (("01200", "21200", "11201"), {"p1": (0, 1, 2), "p5": (0, 1)}),
        (("abc", "abd"), {"p3": ("c", "d")}),
        # TransNAS-Bench-101: the number stays one, the digits of the cell do not
        (
            ("64-41414-1_02_333", "64-41414-3_12_033", "64-41414-2_22_233"),
            {"p3": ("ordered", 1, 2, 3), "p4": (0, 1, 2), "p6": (0, 2, 3)},
        ),
        # numbers with a point or a sign, and numbers of several lengths
        (
            ("0.25;-1;x", "0.5;3;y", "0.75;-1;x"),
            {"p1": ("ordered", 0.25, 0.5, 0.75), "p2": (-1, 3), "p3": ("x", "y")},
        ),
        (("100", "64", "8"), {"p1": ("ordered", 8, 64, 100)}),
    ],
)
def test_places_that_differ_become_parameters(
    architectures: tuple[str, ...], expected: dict[str, tuple[object, ...]]
) -> None:
    assert parameters(*architectures) == expected


def test_a_table_knows_its_rows_points_and_columns(tmp_path: Path) -> None:
    frame = pd.DataFrame({"cell": CELLS, "error": np.arange(27.0), "name": "x", "good": True})
    frame.loc[3, "error"] = np.nan
    frame.to_parquet(tmp_path / "t.parquet")
    table = load(tmp_path / "t.parquet", "cell")
    assert len(table) == 27 and table.columns == ("error", "good") and table.space.size == 27
    assert all(
        table.row(table.at(row)) == row and table.point(CELLS[row]) == table.at(row) for row in range(27)
    )
    np.testing.assert_array_equal(table.values("error"), frame["error"])
    with pytest.raises(TableError, match=r"no column of numbers 'eror': did you mean 'error'"):
        table.values("eror")
    with pytest.raises(TableError, match=r"no column of numbers 'name'"):
        table.values("name")
    with pytest.raises(TableError, match=r"no architecture '\|none~0\|'"):
        table.point("|none~0|")


def test_rows_of_one_network_are_one_point_in_meaning(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("arch_str,error,id\n0:0,3,1\n0:1,2,2\n1:0,2,2\n1:1,1,3\n")
    plain, merged = load(tmp_path / "t.csv"), load(tmp_path / "t.csv", same_column="id")
    one, two = merged.at(1), merged.at(2)
    assert plain.space.key(one) != plain.space.key(two)
    assert merged.space.key(one) == merged.space.key(two) and merged.space.canonical(two) == one
    assert len({merged.space.key(merged.at(row)) for row in range(4)}) == 3
    (tmp_path / "t.csv").write_text("arch_str,error,id\n0:0,3,1\n0:1,2,2\n1:0,4,2\n")
    with pytest.raises(
        TableError, match="rows 1 and 2 are said to be the same network but differ in column 'error'"
    ):
        load(tmp_path / "t.csv", same_column="id")


def test_a_csv_file_keeps_leading_zeros(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("arch_str,error\n001,1\n010,2\n110,\n")
    table = load(tmp_path / "t.csv")
    assert table.architectures == ("001", "010", "110") and table.space.size == 8
    assert np.isnan(table.values("error")[2])


def test_cells_have_the_edges_and_features_of_their_space() -> None:
    table = Table("t", CELLS, {})
    assert [p.name for p in table.space.parameters] == ["1<-0", "2<-0", "2<-1"]
    point = table.point("|nor_conv_3x3~0|+|none~0|skip_connect~1|")
    assert table.space.describe(point) == nasbench201.cell_features(["nor_conv_3x3", "none", "skip_connect"])
    fixed = Table("t", [cell for cell in CELLS if cell.startswith("|skip_connect~0|")], {})
    assert [p.name for p in fixed.space.parameters] == ["2<-0", "2<-1"]
    point = fixed.point("|skip_connect~0|+|none~0|nor_conv_3x3~1|")
    assert fixed.space.describe(point) == nasbench201.cell_features(["skip_connect", "none", "nor_conv_3x3"])
    full = "|none~0|+|none~0|none~1|+|{}~0|none~1|none~2|"
    points = Table("t", [full.format(op) for op in OPS], {})
    assert (
        points.point(full.format("none")).items() <= nasbench201.from_arch_string(full.format("none")).items()
    )


@pytest.mark.parametrize("text", ["|a~0|b~1|", "|a~1|", "|a~0|+|b~0|", "|a~0|+|b~1|c~0|", "a~0", "||~0|", ""])
def test_what_is_no_cell_is_read_as_anything_else(text: str) -> None:
    assert cell_operations(text) == []


def test_a_point_without_a_row_says_so() -> None:
    table = Table("t", ["0,1", "1,0", "1,1"], {})
    with pytest.raises(TableError, match=r"t has no row for \{'p1': 0, 'p2': 0\}"):
        table.row({"p1": 0, "p2": 0})
    with pytest.raises(SpaceError, match="expected one of"):
        table.row({"p1": 7, "p2": 0})
    with pytest.raises(SpaceError, match="missing"):
        table.row({"p1": 0})


@pytest.mark.parametrize(
    ("architectures", "message"),
    [
        ([], "no rows"),
        (["0,1", "0,1"], "all 2 architectures are the same"),
        (["0,1", "1,1", "0;1"], r"rows 0 and 2 are the same architecture, '0,1' and '0;1'"),
        (["0,1", "1,1,2"], r"'0,1' has 2 and '1,1,2' in row 1 has 3"),
        ([f"net{number}" for number in range(100)], "names, from which a search learns nothing"),
    ],
)
def test_tables_that_make_no_space(architectures: list[str], message: str) -> None:
    with pytest.raises(TableError, match=message):
        Table("t", architectures, {})


def test_files_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"nowhere.parquet: no such file.*digits-cells"):
        load(tmp_path / "nowhere.parquet")
    (tmp_path / "t.xlsx").write_text("x")
    with pytest.raises(TableError, match=r"expected a table in .parquet or .csv, got .xlsx"):
        load(tmp_path / "t.xlsx")
    (tmp_path / "t.parquet").write_text("x")
    with pytest.raises(TableError, match="cannot be read as parquet"):
        load(tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("arch,error\n0,1\n")
    with pytest.raises(TableError, match="no column 'arch_str': did you mean 'arch'"):
        load(tmp_path / "t.csv")
    pd.DataFrame({"arch_str": [1, 2]}).to_parquet(tmp_path / "n.parquet")
    with pytest.raises(TableError, match=r"expected text .* got 1 in row 0"):
        load(tmp_path / "n.parquet")


@pytest.mark.skipif(not MEASURED.is_file(), reason=f"needs {MEASURED}, which is not part of the project")
def test_the_measured_table_opens_as_it_is() -> None:
    table = load(MEASURED)
    assert len(table) == table.space.size == 15625
    assert {"cifar10_test_acc_200", "cifar10_raspi4_latency_ms"} <= set(table.columns)
