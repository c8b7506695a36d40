"""The `nasflow bench` commands: search strategies on tables of architectures that are trained already."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nasflow.errors import NasflowError
from nasflow.terminal import console, error_console, interruptible

if TYPE_CHECKING:
    from nasflow.study import Objective

app = typer.Typer(
    name="bench",
    help="Try strategies on tables of architectures that are trained already.",
    no_args_is_help=True,
)


@app.callback()
def bench() -> None:
    """Try strategies on tables of architectures that are trained already. Needs no torch."""


@app.command()
def search(
    table: Annotated[
        str,
        typer.Option(
            "--table", metavar="FILE", help="Parquet or CSV file, or the name of a table that ships."
        ),
    ] = "digits-cells",
    arch_column: Annotated[
        str, typer.Option("--arch-column", metavar="COLUMN", help="The column that describes architectures.")
    ] = "arch_str",
    same_column: Annotated[
        str | None,
        typer.Option(
            "--same-column",
            metavar="COLUMN",
            help="Rows with one number here are one network written in several ways.",
        ),
    ] = None,
    error: Annotated[
        str | None,
        typer.Option(
            "--error",
            metavar="COLUMN",
            help="The error; an accuracy is written COLUMN:max. [default: error]",
        ),
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            "--objective",
            metavar="COLUMN",
            help="Another objective, small is good unless COLUMN:max. Repeatable. [default: latency_ms]",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            metavar="NAME",
            help="Objectives and hypervolume of a suite of EvoXBench, such as C-10/MOP5.",
        ),
    ] = None,
    strategies: Annotated[
        str,
        typer.Option(
            "--strategies",
            metavar="A,B,...",
            help="Names, with settings where wanted: optuna-nsga2(population=20).",
        ),
    ] = "auto,nsga2,random",
    evals: Annotated[
        int, typer.Option("--evals", min=1, help="The budget of a search, in evaluations.")
    ] = 500,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Searches by each strategy.")] = 20,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Proposals that are made at a time.")] = 1,
    useful_error: Annotated[
        float | None,
        typer.Option(
            "--useful-error",
            metavar="POINTS",
            help="Architectures worse than the best error by more count nothing.",
        ),
    ] = None,
    seen: Annotated[
        str | None,
        typer.Option(
            "--seen", metavar="COLUMN", help="The error that searches see, if not the one that judges."
        ),
    ] = None,
    cheap: Annotated[
        list[str] | None,
        typer.Option("--cheap", metavar="COLUMN", help="An objective known before training. Repeatable."),
    ] = None,
    low_fidelity: Annotated[
        list[str] | None,
        typer.Option(
            "--low-fidelity",
            metavar="COLUMN:COST",
            help="A cheaper look at the error, in evaluations. Repeatable.",
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="OUT", help="Write all results there; a killed comparison then goes on."
        ),
    ] = None,
    curves: Annotated[
        Path | None,
        typer.Option("--curves", metavar="OUT.svg", help="Draw the hypervolume over the evaluations."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Searches at a time. [default: one for each core]")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget the searches of an earlier comparison.")
    ] = False,
) -> None:
    """Compare search strategies: how many evaluations each needs to how much of the true front."""
    from nasflow import bench
    from nasflow.bench import evoxbench, show
    from nasflow.evaluators import tabular
    from nasflow.files import write_json, write_text

    opened = tabular.load(table, arch_column, same_column)
    if suite is None:
        texts = (error or "error", *(objective or ["latency_ms"]))
        problem = bench.Problem(opened, tuple(map(_objective, texts)), seen=seen, useful_error=useful_error)
    else:
        if error or objective or seen or useful_error:
            raise NasflowError("--suite says what --error, --objective, --seen and --useful-error would say")
        problem = evoxbench.suite(suite).problem(opened)
    problem = replace(
        problem,
        cheap=tuple(cheap or ()),
        low_fidelities=dict(_low_fidelity(text) for text in low_fidelity or ()),
    )
    kept = (
        "finished searches are kept: run the same command again to go on" if json else "nothing was written"
    )
    with interruptible(f"stopped; {kept}"), _progress() as observer:
        found = bench.compare(
            problem,
            _split(strategies),
            evals=evals,
            seeds=seeds,
            batch=batch,
            workers=workers,
            folder=json.with_suffix(".runs") if json else None,
            fresh=fresh,
            observer=observer,
        )
    show.comparison(found, console())
    if json is not None:
        write_json(json, found.to_json())
    if curves is not None:
        from nasflow.bench.curves import svg

        write_text(curves, svg(found))
    for written in filter(None, (json, curves)):
        console().print(str(written), markup=False, highlight=False, soft_wrap=True)


@app.command()
def describe(
    table: Annotated[
        str,
        typer.Argument(
            metavar="TABLE", help="Parquet or CSV file, or the name of a table that ships: digits-cells."
        ),
    ],
    arch_column: Annotated[
        str, typer.Option("--arch-column", metavar="COLUMN", help="The column that describes architectures.")
    ] = "arch_str",
    error: Annotated[
        str | None,
        typer.Option(
            "--error",
            metavar="COLUMN",
            help="The error; an accuracy is written COLUMN:max. [default: error, if it is there]",
        ),
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            "--objective",
            metavar="COLUMN",
            help="Another objective. Repeatable. [default: latency_ms, if it is there]",
        ),
    ] = None,
    useful_error: Annotated[
        float | None,
        typer.Option(
            "--useful-error",
            metavar="POINTS",
            help="Architectures worse than the best error by more are not on the front.",
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="OUT", help="Write all of it there.")] = None,
) -> None:
    """Say what searching a table will meet: front, correlations, locality, noise, redundancy."""
    from nasflow.bench import show_description
    from nasflow.bench.describe import describe as described
    from nasflow.evaluators import tabular
    from nasflow.files import write_json

    opened = tabular.load(table, arch_column)
    texts = [*([error] if error else []), *(objective or [])]
    if not texts and {"error", "latency_ms"} <= set(opened.columns):
        texts = ["error", "latency_ms"]
    found = described(opened, tuple(map(_objective, texts)), useful_error=useful_error)
    show_description.description(found, console())
    if json is not None:
        write_json(json, found.to_json())
        console().print(str(json), markup=False, highlight=False, soft_wrap=True)


@app.command()
def convert(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The benchmark's file, or NATS-Bench's folder.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT.parquet", help="The table to write.")],
    add: Annotated[
        Path | None,
        typer.Option(
            "--with", metavar="TABLE", help="A table of the same architectures, with accuracies for example."
        ),
    ] = None,
    arch_column: Annotated[
        str, typer.Option("--arch-column", metavar="COLUMN", help="That table's column of architectures.")
    ] = "arch_str",
) -> None:
    """Make a table of an official file of NAS-Bench-101, NATS-Bench (with NAS-Bench-201's cells) or HW-NAS-Bench."""
    from nasflow.bench import formats
    from nasflow.files import replacing

    found = formats.read(file)
    if add is not None:
        found = formats.joined(found, add, arch_column)
    with replacing(out) as part:
        found.to_parquet(part, index=False)
    console().print(
        f"{out}: {len(found):,} architectures, {len(found.columns)} columns", markup=False, soft_wrap=True
    )


def _objective(text: str) -> Objective:
    """An objective from `COLUMN`, `COLUMN:min` or `COLUMN:max`."""
    from nasflow.study import Objective

    column, _, goal = text.rpartition(":")
    if goal == "max":
        return Objective(column, "max")
    return Objective(column if goal == "min" else text)


def _low_fidelity(text: str) -> tuple[str, float]:
    column, _, cost = text.rpartition(":")
    try:
        return column, float(cost)
    except ValueError:
        raise NasflowError(f"--low-fidelity {text}: expected COLUMN:COST, such as val_acc_12:0.06") from None


def _split(strategies: str) -> list[str]:
    """Names between commas, where those of settings in brackets do not count."""
    return [name.strip() for name in re.split(r",(?![^(]*\))", strategies) if name.strip()]


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A line that says how many searches are finished, if somebody looks on."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    screen = error_console()
    columns = (TextColumn("searches"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        task = progress.add_task("", total=None)

        def observer(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield observer
