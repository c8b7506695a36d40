"""What a person at the terminal sees of a run: a bar per stage, warnings, and none of the libraries' chatter."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from prefect.logging.handlers import PrefectConsoleHandler
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from nasflow.stages import STAGES


class Bars:
    """A Notify that draws one bar per stage; where the output is no terminal, a line when a stage ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.fields[stage]}", table_column=Column(min_width=9)),
            BarColumn(bar_width=24, table_column=Column(min_width=12)),
            TextColumn(
                "{task.fields[count]}", style="dim", justify="right", table_column=Column(min_width=7)
            ),
            TimeElapsedColumn(table_column=Column(min_width=7)),
            # What does not fit a narrow window is cut, so that a stage stays one line.
            TextColumn(
                "{task.fields[words]}", style="dim", table_column=Column(no_wrap=True, overflow="ellipsis")
            ),
            console=console,
            refresh_per_second=4,
        )
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}

    def __enter__(self) -> Bars:
        if self._console.is_terminal:
            for stage in STAGES:
                self._tasks[stage] = self._progress.add_task(
                    "", start=False, total=1, stage=stage, count="", words=""
                )
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._progress.stop()

    def __call__(self, stage: str, done: int, total: int, message: str) -> None:
        """Hear of progress: `done` of `total` in a stage, and a few words."""
        first = stage not in self._began
        began = self._began.setdefault(stage, time.monotonic())
        task = self._tasks.get(stage)
        if task is None:
            if done >= total:
                self._console.print(
                    f"{stage:<9} {time.monotonic() - began:6.1f} s  {escape(message)}", highlight=False
                )
            return
        if first:
            self._progress.start_task(task)
        count = f"{done}/{total}" if total > 1 else ""
        self._progress.update(task, completed=done, total=total, count=count, words=escape(message))


class _OnConsole(logging.Handler):
    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        # What Prefect says of errors, the run's own end says better.
        if record.name.partition(".")[0] != "prefect":
            self._console.print(f"[yellow]{escape(record.getMessage())}[/]", highlight=False)


@contextmanager
def warnings_on(console: Console) -> Iterator[None]:
    """Print warnings above the bars. Prefect's own lines stay in its server, off the terminal."""
    root, ours = logging.getLogger(), _OnConsole(console)
    theirs = [handler for handler in root.handlers if isinstance(handler, PrefectConsoleHandler)]
    for handler in theirs:
        root.removeHandler(handler)
    root.addHandler(ours)
    try:
        yield
    finally:
        root.removeHandler(ours)
        for handler in theirs:
            root.addHandler(handler)
