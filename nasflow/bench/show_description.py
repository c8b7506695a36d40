"""A description of a table in the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from nasflow.bench.describe import Description, Front, Locality

POINTS = 12  # of a front, at most


def description(found: Description, console: Console) -> None:
    """Print all of it."""
    console.print(Text(about(found)))
    console.print()
    for table in tables(found):
        console.print(table)


def about(found: Description) -> str:
    """Rows, space and redundancy in words."""
    table, same = found.table, found.redundancy
    parameters = len(table.space.parameters)
    said = (
        f"{table.name}: {len(table):,} architectures of {table.space.size:,.0f} in the space, {parameters} parameters "
        f"with {found.options} options, {found.mean_neighbours:.1f} neighbours each (one edit away). "
        f"{same.numbers:,} differ in the columns below"
    )
    if same.meanings is not None:
        said += f", {same.meanings:,} compute different things; up to {same.largest} rows compute the same"
    said += "."
    if found.left_out:
        said += f" {found.left_out} more columns are not described: name those that matter with --objective."
    if found.front is None:
        said += " Name the error and the costs with --error and --objective to see their front."
    return said


def tables(found: Description) -> Iterator[Table]:
    """Everything else."""
    if found.front is not None:
        yield front(found, found.front)
    if found.correlations:
        yield correlations(found)
    yield locality(found)
    yield importance(found)
    if found.noise:
        yield noise(found)


def front(found: Description, front: Front) -> Table:
    """The front from its best error on; if it is long, points evenly over it."""
    shown = _spread(len(front.rows), POINTS)
    title = (
        f"{len(front.rows)} points on the front"
        + (f", {len(shown)} of them" if len(shown) < len(front.rows) else "")
        + f"; {front.local:.1%} of all rows are not dominated by a neighbour"
    )
    made = _table(title, "architecture")
    for o in front.objectives:
        made.add_column(o.metric + (" (max)" if o.goal == "max" else ""), justify="right")
    if front.alone is not None:
        made.add_column("hypervolume it alone has", justify="right")
    for place in shown:
        row = front.rows[place]
        cells = [f"{found.table.values(o.metric)[row]:.6g}" for o in front.objectives]
        if front.alone is not None:
            cells.append(f"{front.alone[place]:.3%}")
        made.add_row(Text(found.table.architectures[row]), *cells)
    return made


def correlations(found: Description) -> Table:
    """A triangle of Spearman's above and one of Kendall's below."""
    made = _table("Rank correlations: Spearman's above the diagonal, Kendall's below", "")
    for number, _ in enumerate(found.columns, start=1):
        made.add_column(str(number), justify="right")
    said = {(a, b): rho for a, b, rho, _ in found.correlations} | {
        (b, a): tau for a, b, _, tau in found.correlations
    }
    for number, a in enumerate(found.columns, start=1):
        made.add_row(Text(f"{number} {a}"), *(f"{said[a, b]:.2f}" if a != b else "" for b in found.columns))
    return made


def locality(found: Description) -> Table:
    """How far a look at a column reaches."""
    made = _table("How far a look reaches: rank correlation of rows so many edits apart; local optima", "")
    for title in ("neighbours", "2 edits", "3 edits", "4 edits", "steps a walk remembers", "local optima"):
        made.add_column(title, justify="right")
    for name in found.columns:
        made.add_row(Text(name), *_reach(found.locality[name]))
    return made


def importance(found: Description) -> Table:
    """The parameters that decide a column most."""
    made = _table("What decides a column: the share of variance that a parameter explains alone", "")
    for title in ("first", "second", "third"):
        made.add_column(title)
    made.add_column("all, added", justify="right")
    for name in found.columns:
        said = found.importance[name]
        ranked = sorted(said.alone.items(), key=lambda item: -item[1])[:3]
        cells = [f"{parameter} {share:.0%}" for parameter, share in ranked]
        made.add_row(
            Text(name), *(Text(cell) for cell in [*cells, *[""] * (3 - len(cells))]), f"{said.together:.0%}"
        )
    return made


def noise(found: Description) -> Table:
    """What the same thing is twice."""
    made = _table("Noise: how much the same thing differs", "")
    for title in ("standard deviation", "share of variance", "rank correlation"):
        made.add_column(title, justify="right")
    for one in found.noise:
        correlation = "" if one.correlation is None else f"{one.correlation:.3f}"
        made.add_row(Text(one.what), f"{one.spread:.4g}", f"{one.share:.2%}", correlation)
    return made


def _reach(said: Locality) -> list[str]:
    edits = [*said.by_edits, None, None, None, None][1:4]
    known = ["" if value is None else f"{value:.2f}" for value in (said.neighbours, *edits)]
    remembers = f"> {len(said.walk)}" if said.length is None else f"{said.length - 1}"
    return [*known, remembers, "" if said.optima is None else f"{said.optima:.2%}"]


def _spread(count: int, most: int) -> Sequence[int]:
    if count <= most:
        return range(count)
    return sorted({round(place * (count - 1) / (most - 1)) for place in range(most)})


def _table(title: str, first: str) -> Table:
    return Table(
        Column(first, overflow="fold"),
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
    )
