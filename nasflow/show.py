"""A run's result in the terminal: the front, what compression did, what ships and why, and where everything is.

Everything is read from the run's summary (what summary.json holds), whatever state the run is in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from nasflow.report import facts, latency, words

if TYPE_CHECKING:  # slow to import, and not needed to show a run
    from nasflow.plan import Plan

COLOURS = {"done": "green", "failed": "red", "infeasible": "red", "running": "yellow"}


def summary(found: Mapping[str, Any], folder: Path, tracking: str, console: Console) -> None:
    """Print a run's whole result. `folder` is where the run lies, `tracking` the address of its MLflow store."""
    said = facts.plain(found)
    for table in (stages(said), front(said), compression(said), deployed(said)):
        if table.row_count:
            console.print(table)
    console.print(Text(words.answer(said), COLOURS.get(str(said.get("status")), "")))
    for warning in latency.warnings(said):
        console.print(Text(warning, "yellow"))
    console.print()
    for name, place in places(said, folder, tracking).items():
        # Paths and addresses stay whole, to be copied, however narrow the window is.
        console.print(Text.assemble((f"{name:<13}", "bold"), place), soft_wrap=True)


def stages(said: facts.Summary) -> Table:
    """What each stage did, and how long it took."""
    table = framed("Stages", "", Column(justify="right"), "")
    for name, stage in facts.table(said.get("stages")).items():
        status = str(stage.get("status"))
        table.add_row(
            name,
            Text(status, COLOURS.get(status, "dim")),
            words.duration(facts.number(stage.get("seconds"))),
            Text(str(stage.get("message") or "")),
        )
    return table


def front(said: facts.Summary) -> Table:
    """The networks that no other one beats in everything, the most accurate first."""
    members, shipped, doubts = facts.front(said), facts.shipped(said), latency.doubts(said)
    asked = {goal.get("metric") for goal in facts.rows(said.get("objectives"))}
    objectives = [metric for metric in facts.metrics(said) if metric.name in asked]
    titles = (_number(objective.label) for objective in objectives)
    table = framed("Front: no network tried beats these in everything", *titles, "")
    for member in members:
        notes = ["knee"] if member.knee else []
        if shipped and facts.origin(said, shipped.name) == member.name:
            notes.append("ships" if shipped.name == member.name else "origin of what ships")
        bold = "bold" if notes else None
        notes += doubts.get(member.name, [])
        amounts = (words.amount(o.name, member.metrics.get(o.name)) for o in objectives)
        table.add_row(member.name, *amounts, ", ".join(notes), style=bold)
    return table


def compression(said: facts.Summary) -> Table:
    """Every step of compression: kept or refused and why, with its numbers before and after."""
    asked = [str(goal.get("metric")) for goal in facts.rows(said.get("objectives"))]
    metrics = list(dict.fromkeys(["error", *asked, "size_kb"]))
    table = framed("Compression", "", "")
    for step in facts.rows(said.get("compression")):
        before, after = facts.numbers(step.get("before")), facts.numbers(step.get("after"))
        changes = (
            f"{facts.metric(name).label} {words.amount(name, before[name])} → {words.amount(name, after[name])}"
            for name in metrics
            if name in before and name in after
        )
        verdict = Text("kept", "green") if step.get("accepted") else Text("refused", "dim")
        reason = Text(words.capital(str(step.get("reason") or "")))
        if change := words.change(before, after):
            reason = Text("\n").join([reason, Text(change, "bold")])
        policy = (f"{how} {where}" for how, where in words.policy(facts.table(step.get("policy"))))
        details = [Text(line, "dim") for line in ("; ".join(policy), "; ".join(changes)) if line]
        table.add_row(str(step.get("name")), verdict, Text("\n").join([reason, *details]))
    return table


def deployed(said: facts.Summary) -> Table:
    """Every exported file: whether it ships, its error, what it was measured to take on each device, its size."""
    entries = facts.rows(said.get("deployed"))
    devices = list(dict.fromkeys(device for entry in entries for device in facts.table(entry.get("latency"))))
    titles = ["test error", *(f"on {device}" for device in devices), "size"]
    table = framed("Files, as measured", Column(min_width=5), *(_number(title) for title in titles))
    for entry in entries:
        costs = {device: facts.table(cost) for device, cost in facts.table(entry.get("latency")).items()}
        broken = [limit for limit in facts.rows(entry.get("limits")) if not limit.get("holds")]
        notes = [Text("ships")] if entry.get("shipped") else []
        notes += [Text("over a limit", "red")] if broken else []
        notes += [Text(f"noisy on {device}", "yellow") for device, cost in costs.items() if cost.get("noisy")]
        table.add_row(
            str(entry.get("name")),
            Text(", ").join(notes),
            words.amount("error", facts.number(entry.get("test_error"))),
            *(
                words.amount("latency_ms", facts.number(costs.get(device, {}).get("p50_ms")))
                for device in devices
            ),
            words.amount("size_kb", facts.number(entry.get("size_kb"))),
            style="bold" if entry.get("shipped") else None,
        )
    return table


def places(said: facts.Summary, folder: Path, tracking: str) -> dict[str, str]:
    """Where to find what came out: the shipped file, the report, the MLflow store, the run's folder."""
    found = {}
    shipped = next((entry for entry in facts.rows(said.get("deployed")) if entry.get("shipped")), None)
    if shipped is not None:
        found["shipped file"] = str(folder / str(shipped.get("file")))
        found["all files"] = str(folder / "models")
    if (folder / "report.html").is_file():
        found["report"] = str(folder / "report.html")
    found["MLflow"] = f"mlflow ui --backend-store-uri {tracking}"
    found["run folder"] = str(folder)
    return found


def plan(found: Plan, console: Console) -> None:
    """Print what an experiment would do and how long that would take."""
    table = framed(f"{found.name}: what would be done", "", _number("about"))
    for step in found.steps:
        table.add_row(step.stage, Text(step.what), words.duration(step.seconds))
    table.add_section()
    table.add_row("all", "", words.duration(found.seconds), style="bold")
    console.print(table)
    for note in found.notes:
        console.print(Text(note))


def _number(title: str) -> Column:
    return Column(title, justify="right", min_width=9, overflow="fold")


def framed(title: str, *columns: Column | str) -> Table:
    """A table whose first column stays in one piece however narrow the window is."""
    titled = any(column.header if isinstance(column, Column) else column for column in columns)
    made = Table(Column("", no_wrap=True), *columns, box=box.SIMPLE_HEAD, show_header=titled)
    made.title, made.title_justify, made.title_style = title, "left", "bold"
    return made
