"""A comparison of runs in words: a headline and tables, which the terminal and the page both show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Column
from rich.text import Text

from nasflow import show
from nasflow.compare import BEYOND, Comparison, Member, Region
from nasflow.report import facts, words

if TYPE_CHECKING:
    from rich.console import Console

STATES = {"failed": "failed", "refused": "refused", "duplicate": "met before", "pending": "under way"}


@dataclass(frozen=True)
class Sheet:
    """A table in plain text. `lead` is for each row the column whose cell is best, None if none is; `note` says how to
    read it."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    lead: tuple[int | None, ...]
    note: str = ""


def headline(found: Comparison) -> str:
    """The answer in one sentence."""
    ranked = sorted(found.runs, key=lambda side: -side.hypervolume)
    if not found.metrics:
        return "These fronts cannot be compared"
    if not ranked[0].front:
        return "None of these runs has a front yet"
    best, next_best = ranked[0], ranked[1]
    if best.hypervolume == next_best.hypervolume:
        return f"{best.name} and {next_best.name} reach equally far"
    shares = f"{words.share(best.hypervolume)} against {words.share(next_best.hypervolume)}"
    return f"{best.name} reaches further than {next_best.name}: hypervolume {shares}"


def sheets(found: Comparison) -> list[Sheet]:
    """Every table that has something to say."""
    all_sheets = [_effort(found), _fronts(found), _regions(found), _shipped(found)]
    return [sheet for sheet in all_sheets if sheet.rows]


def print_to(console: Console, found: Comparison) -> None:
    """Print the comparison."""
    for sheet in sheets(found):
        table = show.framed(sheet.title, *(Column(name, overflow="fold") for name in sheet.head))
        for row, lead in zip(sheet.rows, sheet.lead, strict=True):
            table.add_row(*(Text(cell, "bold" if at == lead else "") for at, cell in enumerate(row)))
        console.print(table)
        if sheet.note:
            console.print(Text(sheet.note, "dim"))
    for sentence in found.apart:
        console.print(Text(sentence, "yellow"))
    if found.differences:
        console.print(Text("\nWhat else differs", "bold"))
        for sentence in found.differences:
            console.print(Text(f"- {sentence}"))
    console.print()
    console.print(Text(f"{headline(found)}.", "green" if found.metrics else "yellow"))


def _effort(found: Comparison) -> Sheet:
    told: dict[str, list[str]] = {
        "state": [side.status for side in found.runs],
        "strategy": [side.strategy for side in found.runs],
        "space": [side.space for side in found.runs],
        "seed": [str(side.seed) for side in found.runs],
        "full trainings": [f"{side.spent:g} of {side.budget}" for side in found.runs],
        **{
            f"trials {word}": [str(side.trials.get(state, 0)) for side in found.runs]
            for state, word in STATES.items()
            if any(side.trials.get(state) for side in found.runs)
        },
        "time, all stages": [words.duration(side.seconds) for side in found.runs],
    }
    return _sheet("Runs", found, told, {})


def _sheet(
    title: str,
    found: Comparison,
    told: Mapping[str, Sequence[str]],
    lead: Mapping[str, int | None],
    note: str = "",
) -> Sheet:
    """A table with a column for each run, and a row for each thing that is told of them."""
    rows = tuple((name, *cells) for name, cells in told.items())
    head = ("", *(side.name for side in found.runs))
    return Sheet(title, head, rows, tuple(lead.get(name) for name in told), note)


def _fronts(found: Comparison) -> Sheet:
    if not found.metrics:
        return Sheet("Fronts", (), (), ())
    told: dict[str, list[str]] = {
        "networks on the front": [str(len(side.front)) for side in found.runs],
        "hypervolume": [words.share(side.hypervolume) for side in found.runs],
    }
    for j, other in enumerate(found.runs):
        shares = (row[j] for row in found.coverage)
        told[f"covers of {other.name}"] = [
            "" if i == j else words.MISSING if share is None else words.share(share)
            for i, share in enumerate(shares)
        ]
    best = max(side.hypervolume for side in found.runs)
    leading = [place for place, side in enumerate(found.runs) if side.hypervolume == best]
    lead = {"hypervolume": leading[0] + 1 if len(leading) == 1 else None}
    return _sheet("Fronts", found, told, lead, reading(found))


def reading(found: Comparison) -> str:
    """How the numbers of the fronts came about, in words."""
    corners = ", ".join(
        f"{one.label} from {words.amount(one.name, found.ideal[one.name])}"
        f" to {words.amount(one.name, found.reference[one.name])}"
        for one in found.metrics
    )
    return (
        f"Hypervolume: the share that a front dominates of one box for all runs: {corners}. The box reaches from the"
        f" best value on any of the fronts to {BEYOND:.0%} of their span beyond the worst; every metric counts alike."
        " Covers: the share of the other run's front that this one equals or beats in everything. Errors are on"
        " validation data, after the training that the search could afford."
    )


def _regions(found: Comparison) -> Sheet:
    along, judged = found.along, found.judged
    if along is None or judged is None or not found.regions:
        return Sheet("Regions", (), (), ())
    rows = []
    for region in found.regions:
        cells = (_reached(member, judged, along) for member in region.best)
        rows.append((bounded(region, along), *cells, verdict(region, found)))
    lead = tuple(None if region.winner is None else region.winner + 1 for region in found.regions)
    head = (along.label, *(side.name for side in found.runs), f"least {judged.label}")
    note = f"The best network of each front within a bound on {along.label}; the last line is without one."
    if found.images is not None and judged.name == "error":
        note += (
            f" A lead is by chance if it is less than what {found.images:,} validation images give in nineteen"
            " of twenty cases."
        )
    return Sheet(f"Best {judged.label} by what {along.label} may be", head, tuple(rows), lead, note)


def bounded(region: Region, along: facts.Metric) -> str:
    """A region in words: `at most 0.12 ms`."""
    if region.bound is None:
        return "any"
    side = "at least" if along.goal == "max" else "at most"
    return f"{side} {words.bound(along.name, region.bound)}"


def _reached(member: Member | None, judged: facts.Metric, along: facts.Metric) -> str:
    if member is None:
        return words.MISSING
    reached, cost = (words.amount(one.name, member.metrics[one.name]) for one in (judged, along))
    return f"{reached} at {cost} ({member.name})"


def verdict(region: Region, found: Comparison) -> str:
    """Who is best in a region, and whether that means something."""
    reached = sum(member is not None for member in region.best)
    if region.winner is None:
        return "equal" if reached else "nobody"
    name = found.runs[region.winner].name
    if reached == 1:
        return f"{name}, alone"
    return name if region.certain in (True, None) else f"{name}, perhaps by chance"


def _shipped(found: Comparison) -> Sheet:
    ships = [side.shipped for side in found.runs]
    devices = dict.fromkeys(device for one in ships for device in facts.table(one.get("latency")))
    told: dict[str, list[str]] = {
        "network": [str(one.get("name", "nothing yet")) for one in ships],
        "test error": [words.amount("error", facts.number(one.get("test_error"))) for one in ships],
        **{f"on {device}": [_latency(one, device) for one in ships] for device in devices},
        "file": [words.amount("size_kb", facts.number(one.get("size_kb"))) for one in ships],
        "limits": [_limits(one) for one in ships],
    }
    return _sheet("What each ships, as certified", found, told if any(ships) else {}, {})


def _latency(shipped: Mapping[str, Any], device: str) -> str:
    cost = facts.table(facts.table(shipped.get("latency")).get(device))
    return words.amount("latency_ms", facts.number(cost.get("p50_ms")))


def _limits(shipped: Mapping[str, Any]) -> str:
    limits = facts.rows(shipped.get("limits"))
    kept = all(limit.get("holds") for limit in limits)
    return words.MISSING if not limits else "kept" if kept else "broken"
