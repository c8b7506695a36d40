"""What a run shows in Prefect's page: progress while it goes on, then the front as table and picture, the report.

A page that cannot be reached costs the run nothing but its pictures.
"""

from __future__ import annotations

import base64
import contextvars
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException

from flows.lineage import front_rows, front_table
from nasflow.hardware import Latency
from nasflow.report import answer, front_svg
from nasflow.stages import STAGES

EVERY_S = 1.0  # between two updates of a progress bar

log = logging.getLogger("nasflow.flows")


def key(*parts: str) -> str:
    """A name Prefect takes: small letters, digits and dashes.

    >>> key("My_net v2", "front")
    'my-net-v2-front'
    """
    return "-".join(re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts)


class Progress:
    """A progress bar in Prefect's page, kept up to date from a thread so that no search waits for it."""

    def __init__(self, name: str, stages: tuple[str, ...]) -> None:
        self._name = name
        self._stages = stages
        self._shown = (0.0, "")
        self._news = threading.Event()
        self._ended = threading.Event()
        context = contextvars.copy_context()  # which flow run the bar belongs to
        self._thread = threading.Thread(target=context.run, args=(self._update,), daemon=True)
        self._thread.start()

    def __call__(self, stage: str, done: int, total: int, message: str) -> None:
        """Hear of progress, as a Notify does; returns at once."""
        if stage in self._stages:
            part = (self._stages.index(stage) + done / max(1, total)) / len(self._stages)
            words = f"{stage} {done}/{total}" if total > 1 else stage
            self._shown = (100.0 * part, f"{words}: {message}" if message else words)
            self._news.set()

    def close(self) -> None:
        self._ended.set()
        self._news.set()
        self._thread.join(timeout=10)

    def _update(self) -> None:
        artifact: UUID | None = None
        ended = False
        while not ended:
            self._news.wait()
            self._news.clear()
            ended = self._ended.is_set()
            percent, words = self._shown
            try:
                if artifact is None:
                    artifact = cast(
                        UUID, create_progress_artifact(percent, key=self._name, description=words)
                    )
                else:
                    update_progress_artifact(artifact, percent, description=words)
            except (httpx.HTTPError, PrefectException) as error:
                log.debug("no progress is shown: %s", error)
            self._ended.wait(EVERY_S)


@contextmanager
def progress(name: str, stages: tuple[str, ...] = STAGES) -> Iterator[Progress]:
    shown = Progress(name, stages)
    try:
        yield shown
    finally:
        shown.close()


def show_result(summary: Mapping[str, Any], folder: Path, page: str | None = None) -> None:
    """The front as a table, which ships and why with a picture, and where the report is: at the address of a `page`,
    if a browser finds it there."""
    run = str(summary["run"])
    if summary["front"]:
        _show(create_table_artifact, front_rows(summary), key=key(run, "front"), description=answer(summary))
    _show(
        create_markdown_artifact, story(summary), key=key(run, "result"), description="What ships, and why."
    )
    report = folder.absolute() / "report.html"
    if report.exists():
        _show(
            create_link_artifact,
            page or report.as_uri(),
            link_text=f"Report of {run}",
            key=key(run, "report"),
            description=f"On the machine that ran it: {report}",
        )


def show_latency(device: str, file: str, measured: Latency, words: str) -> None:
    """What a file was measured to take, beside the reference network's time in the same minutes. What the device
    cannot tell says so."""
    energy = measured.energy_source if measured.energy_mj is None else measured.energy_mj
    row: dict[str, Any] = {
        "file": file,
        "p50 ms": measured.p50_ms,
        "p90 ms": measured.p90_ms,
        "p99 ms": measured.p99_ms,
        "low ms": measured.ci[0],
        "high ms": measured.ci[1],
        "calls": len(measured.samples_ms),
        "outliers": measured.outliers,
        "reference ms": measured.reference_ms,
        "drift": f"{measured.drift:+.1%}" if measured.drift else "none",
        "memory kB": "unavailable" if measured.peak_memory_kb is None else measured.peak_memory_kb,
        "energy mJ": energy,
        "throughput per s": measured.throughput_per_s,
        "verdict": f"too noisy: {measured.noisy}" if measured.noisy else "steady",
    }
    row = {name: value for name, value in row.items() if value is not None}
    _show(create_table_artifact, [row], key=key(device, "latency"), description=words)


def story(summary: Mapping[str, Any]) -> str:
    """Which network ships and why, and the front, in Markdown."""
    parts = [f"# {summary['run']}: {summary['status']}", answer(summary)]
    if summary["front"]:
        picture = base64.b64encode(front_svg(summary).encode()).decode()
        parts += [f"![The front](data:image/svg+xml;base64,{picture})", front_table(summary)]
    return "\n\n".join(parts)


def _show(create: Callable[..., Any], what: Any, **about: Any) -> None:
    try:
        create(what, **about)
    except (httpx.HTTPError, PrefectException) as error:
        log.warning("Prefect's page lacks %s: %s", about["key"], error)
