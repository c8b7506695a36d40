"""A comparison in the terminal: how fast, how good in the end, and whether the differences are more than chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from nasflow.bench.comparison import TARGETS, Comparison, Result

# What is told of the fronts in the end: title, format, and whether higher is better.
INDICATORS = {
    "hypervolume": ("hypervolume", "{:.1%}", True),
    "igd": ("IGD", "{:.4f}", False),
    "igd_plus": ("IGD+", "{:.4f}", False),
    "epsilon": ("epsilon", "{:.4f}", False),
    "coverage": ("coverage", "{:.1%}", True),
    "r2": ("R2", "{:.4f}", False),
    "spread": ("spread", "{:.3f}", False),
}


def comparison(found: Comparison, console: Console) -> None:
    """Print everything that was compared."""
    console.print(Text(about(found)))
    console.print()
    for table in (speed(found), final(found), tests(found)):
        if table.row_count:
            console.print(table)


def about(found: Comparison) -> str:
    """What was searched and what it is judged by."""
    said, costs = found.problem, ", ".join(o.metric for o in found.problem.objectives[1:])
    error = said.objectives[0].metric
    useful = f" (only {error} within {said.useful_error:g} of the best counts)" if said.useful_error else ""
    seen = f", which sees {said.seen} in place of {error}" if said.seen else ""
    batch = f", {found.batch} at a time" if found.batch > 1 else ""
    return (
        f"{error} against {costs} on {said.table.name}: {len(said.table):,} architectures, "
        f"{len(found.judge.front)} on the true front{useful}. "
        f"{len(found.seeds)} searches by each strategy{seen}, {found.evals} evaluations each{batch}."
    )


def speed(found: Comparison) -> Table:
    """Evaluations to shares of the true front's hypervolume, and the share after some evaluations."""
    results, counts = found.results, list(found.results[0].shares)
    titles = [f"{target:.0%}" for target in TARGETS] + [f"after {count}" for count in counts]
    columns = [
        _best([result.median(target) for result in results], [_reached(result, target) for result in results])
        for target in TARGETS
    ]
    for count in counts:
        shares = [float(np.median(result.shares[count])) for result in results]
        columns.append(_best([-share for share in shares], [f"{share:.1%}" for share in shares]))
    title = "Median evaluations to a share of the true front's hypervolume; shares on the way"
    return _table(title, results, titles, columns)


def final(found: Comparison) -> Table:
    """Indicators of what was found in the end, and what it took."""
    results = found.results
    titles = [title for title, _, _ in INDICATORS.values()] + ["s a search", "ms a proposal"]
    columns = []
    for name, (_, written, higher) in INDICATORS.items():
        middles = [float(np.median(result.final[name])) for result in results]
        ranked = [-middle if higher else middle for middle in middles]
        columns.append(_best(ranked, [written.format(middle) for middle in middles]))
    columns.append([Text(f"{np.median(result.seconds):.2f}") for result in results])
    columns.append([Text(f"{1000 * np.median(result.thinking):.2f}") for result in results])
    return _table(f"After {found.evals} evaluations (medians)", results, titles, columns)


def tests(found: Comparison) -> Table:
    """The first contender against each other one."""
    first, *others = found.results
    titles = list(dict.fromkeys(test.measure for test in found.tests))
    mine = {(test.measure, test.b): test for test in found.tests if test.a == first.contender}
    columns = []
    for measure in titles:
        paired = [mine[measure, other.contender] for other in others]
        columns.append([Text(f"{test.wins} : {test.losses}   p = {test.p:.2g}") for test in paired])
    title = (
        f"{first.contender} against each: seeds on which it is better : worse (Wilcoxon's signed rank test)"
    )
    return _table(title, others, titles, columns)


def _reached(result: Result, target: float) -> str:
    """The median, and how many runs got there if not all did."""
    each, median = result.reached[target], result.median(target)
    got = sum(reached is not None for reached in each)
    middle = "-" if median is None else f"{median:.0f}"
    return middle if got in (0, len(each)) else f"{middle} ({got}/{len(each)})"


def _best(values: Sequence[float | None], texts: Sequence[str]) -> list[Text]:
    """The texts, the one with the lowest value in bold."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    styles = ["bold" if known and value == min(known) else "" for value in values]
    return [Text(text, style) for text, style in zip(texts, styles, strict=True)]


def _table(
    title: str, results: Sequence[Result], titles: Sequence[str], columns: Sequence[Sequence[Text]]
) -> Table:
    made = Table(
        Column("", no_wrap=True), box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold"
    )
    for name in titles:
        made.add_column(name, justify="right")
    for row, result in enumerate(results):
        made.add_row(Text(result.contender), *(column[row] for column in columns))
    return made
