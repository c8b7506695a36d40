"""What the commands share: where they print, and how they end when interrupted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console


def console() -> Console:
    """The output, for results."""
    from rich.console import Console

    return Console()


def error_console() -> Console:
    """The error output, for messages and progress."""
    from rich.console import Console

    return Console(stderr=True)


@contextlib.contextmanager
def interruptible(words: str) -> Iterator[None]:
    """Let Ctrl-C end the command with these words instead of a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        error_console().print(f"\n{words}", style="yellow", markup=False, highlight=False)
        raise typer.Exit(130) from None
