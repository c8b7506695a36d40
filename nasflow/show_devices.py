"""Devices in the terminal: what each can tell, and what a file takes on one, as a picture and in plain words."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from nasflow.report import words

if TYPE_CHECKING:  # slow to import, and not needed to show anything
    from nasflow.hardware import Comparison, Latency, Profile
    from nasflow.hardware.device import Progress
    from nasflow.hardware.predictor import Built

EIGHTHS = " ▁▂▃▄▅▆▇█"
WIDTH, HEIGHT = 72, 8  # of a histogram, in characters
EVERY_S = 0.25  # between two drawings: drawing takes time from a processor that may be measured
PEAKS = ("peak_fp32", "gpu_peak_fp32", "gpu_peak_fp16", "npu_peak_fp16", "npu_peak_int8", "npu_peak")


def latency(device: str, file: Path, measured: Latency, console: Console) -> None:
    """Print how long one file takes on a device."""
    console.print(Text.assemble((str(file), "bold"), f" on {device}"), soft_wrap=True)
    _print_histograms([("", measured)], console)
    console.print(_amounts(measured))
    console.print(_verdict(measured))


def comparison(device: str, files: tuple[Path, Path], measured: Comparison, console: Console) -> None:
    """Print two files on a device, one above the other on one scale, and whether the second is faster."""
    console.print(Text(f"On {device}, in turns", "bold"))
    both = [(str(file), one) for file, one in zip(files, (measured.a, measured.b), strict=True)]
    _print_histograms(both, console)
    table = _table(
        "", *(Column(title, justify="right") for title in ("p50", "95 % interval", "p90", "calls"))
    )
    for name, one in both:
        low, high = map(words.digits, one.ci)
        p50, p90 = (words.amount("latency_ms", ms) for ms in (one.p50_ms, one.p90_ms))
        table.add_row(name, p50, f"{low} to {high}", p90, f"{len(one.samples_ms):,}")
    console.print(table)
    console.print(Text(conditions(measured.b), "dim"))
    low_ratio, high_ratio = measured.ci
    said = {"faster": ("is faster than", "bold green"), "slower": ("is slower than", "bold red")}
    verdict, colour = said.get(measured.verdict, ("cannot be told from", "bold yellow"))
    console.print(
        Text.assemble(
            f"{files[1]} ",
            (verdict, colour),
            f" {files[0]}: {measured.ratio:.3f}× its time"
            f" (95 % interval {low_ratio:.3f} to {high_ratio:.3f}, p = {measured.p_value:.2g})",
        )
    )
    if noisy := measured.a.noisy or measured.b.noisy:
        console.print(Text(f"Their times alone are too noisy to tell: {noisy}", "yellow"))


@contextmanager
def watching(
    device: str, files: Sequence[Path], console: Console
) -> Iterator[Callable[[Progress], None] | None]:
    """A picture that grows while files are measured: what to call with each news of the device, then cleared away.
    None where nobody sees it."""
    if not console.is_terminal:
        yield None
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:
        yield _Watching(device, files, live)


def histogram(samples: Sequence[float], low: float, high: float, width: int, height: int) -> list[str]:
    """Rows of bars, the topmost first: how many of the samples from `low` to `high` fall into each column.

    >>> for row in histogram([1, 2, 2, 3, 3, 3, 3], 1, 3, width=3, height=2): print(row)
      █
    ▄██
    """
    counts, _ = np.histogram(samples, bins=width, range=(low, high))
    eighths = np.ceil(8 * height * counts / max(1, counts.max())).astype(int)
    return [
        "".join(EIGHTHS[min(8, max(0, int(one) - 8 * row))] for one in eighths)
        for row in reversed(range(height))
    ]


def sparkline(values: Sequence[float]) -> str:
    """Values one after the other, from the lowest to the highest of them.

    >>> sparkline([1.0, 2.0, 3.0, 2.0])
    '▁▅█▅'
    """
    low, spread = min(values), max(values) - min(values)
    return "".join(EIGHTHS[1 + round(7 * (value - low) / spread)] if spread else "▄" for value in values)


def conditions(measured: Latency) -> str:
    """What a measurement was taken on, in plain words; what the device does not tell is left out."""
    about = measured.environment
    threads, cores = about.get("threads"), about.get("affinity")
    share, load = about.get("core_share"), about.get("load_average")
    temperature, clock = about.get("temperature_c"), about.get("frequency_khz")
    said = [
        str(about["cpu"]) if "cpu" in about else "",
        words.count(int(threads), "thread", "threads") if threads else "",
        f"core {' '.join(map(str, cores))}" if cores else "",
        f"{clock / 1e6:.2f} GHz" if clock else "",
        f"governor {about['governor']}" if "governor" in about else "",
        f"{temperature:.0f} °C" if temperature else "",
        str(about.get("runtime", "")),
        f"load {load[0]:.1f}" if load else "",
        f"others had the core for {max(0.0, 1 - share):.1%} of the time" if share is not None else "",
    ]
    return ", ".join(part for part in said if part)


def devices(
    found: Sequence[tuple[Profile, Built | None]], silent: Mapping[str, str], console: Console
) -> None:
    """Print all devices: what each can tell of a file's latency, and whether it answers now. `silent` says why one
    does not, by name, and is empty for those that do."""
    roomy = console.width >= 130
    titles = ["facts", "predicted by", "measured", "now"]
    table = _table("Devices and what they can tell", *titles, *([""] if roomy else []))
    for profile, built in found:
        on_paper = "roofline on paper" if _has_roofline(profile) else "–"
        reach, answers = profile.reach.backend, not silent[profile.name]
        table.add_row(
            profile.name,
            str(len(profile.facts) or "–"),
            on_paper if built is None else built.predictor.kind,
            "–" if reach == "none" else {"local": "here"}.get(reach, f"by {reach}"),
            Text("answers", "green") if answers else Text("–" if reach == "none" else "no answer", "dim"),
            *([profile.description] if roomy else []),
            style="bold" if answers else None,
        )
    console.print(table)
    for profile, _ in found:
        if silent[profile.name] and profile.reach.backend != "none":
            console.print(Text(silent[profile.name], "yellow"))
    console.print(
        "nasflow devices NAME tells all about one; nasflow profile NAME model.onnx measures on it.",
        style="dim",
        highlight=False,
    )


def device(profile: Profile, built: Built | None, silent: str, console: Console) -> None:
    """Print one device: what it is, whether it answers, its facts with their sources, its predictor's accuracy."""
    console.print(Text.assemble((profile.name, "bold"), f": {profile.description}"))
    reach = profile.reach
    where = f"{reach.backend}, {reach.runtime}, {words.count(reach.threads, 'thread', 'threads')}"
    answers = Text(f"answers ({where})", "green") if not silent else Text(silent, "yellow")
    console.print(answers)
    if built is None:
        told = f"no predictor yet; nasflow profile {profile.name} --build network builds one"
        console.print(Text("No predictor: it is not connected" if reach.backend == "none" else told, "dim"))
    else:
        console.print(Text(f"Predictor: {built.predictor.kind}, built {built.date}; {_accuracy(built)}"))
    if not profile.facts:
        return
    sources = list(dict.fromkeys(f"{fact.source} ({fact.date})" for fact in profile.facts))
    table = Table(Column("", no_wrap=True), "", "", "", "", box=box.SIMPLE_HEAD, show_header=False)
    for fact in profile.facts:
        value = fact.value if isinstance(fact.value, str) else f"{fact.value:g} {fact.unit}"
        number = 1 + sources.index(f"{fact.source} ({fact.date})")
        quantity = fact.quantity.replace("_", " ")
        table.add_row(quantity, value, fact.kind, Text(f"[{number}]"), Text(fact.note, "dim"))
    console.print(table)
    listed = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 1))
    for number, source in enumerate(sources, 1):
        listed.add_row(Text(f"  [{number}]", "dim"), Text(source, "dim"))
    console.print(listed)


class _Watching:
    """What has been heard of a measurement so far, drawn anew whenever there is news and time."""

    def __init__(self, device: str, files: Sequence[Path], live: Live) -> None:
        self._device, self._files, self._live = device, files, live
        self._loads: dict[Path | None, list[Sequence[float]]] = {}
        self._drawn_s = -math.inf

    def __call__(self, news: Progress) -> None:
        self._loads.setdefault(news.file, []).append(news.samples_ms)
        if time.monotonic() - self._drawn_s >= EVERY_S:
            self._live.update(self._picture(), refresh=True)
            self._drawn_s = time.monotonic()

    def _picture(self) -> RenderableType:
        ours = {file: self._loads[file] for file in self._files if file in self._loads}
        if not ours:
            return Text(f"measuring on {self._device} ...")
        everything = {file: np.concatenate(loads) for file, loads in ours.items()}
        low, high = _scale(list(everything.values()))
        width = min(WIDTH, self._live.console.width - 4)
        parts: list[RenderableType] = []
        for file, samples in everything.items():
            p50, p90, p99 = np.percentile(samples, [50, 90, 99])
            parts += [
                Text.assemble((str(file), "bold"), f" on {self._device}"),
                *_bars(samples, low, high, width),
                *_axis({"p50": p50, "p90": p90, "p99": p99}, low, high, width),
                Text(
                    f"  p50 {words.digits(p50)} ms   p90 {words.digits(p90)}   p99 {words.digits(p99)}"
                    f"   {len(samples):,} calls in {words.count(len(ours[file]), 'load', 'loads')}"
                ),
            ]
        reference = self._loads.get(None, [])
        parts.append(
            _steps("reference network" if reference else "file", reference or next(iter(ours.values())))
        )
        return Group(*parts)


def _steps(what: str, loads: Sequence[Sequence[float]]) -> Text:
    """How the medians of loads went on, which is the machine's drift where it is those of the reference network."""
    medians = [float(np.median(load)) for load in loads]
    change = np.median(medians[-3:]) / np.median(medians[:3]) - 1
    return Text(f"  {what} {sparkline(medians[-40:])} {change:+.1%} since the first loads", "dim")


def _print_histograms(measured: Sequence[tuple[str, Latency]], console: Console) -> None:
    """Each under its name, all on one scale. Nothing of what has no samples."""
    shown = [(name, one) for name, one in measured if one.samples_ms]
    if not shown:
        return
    low, high = _scale([np.array(one.samples_ms) for _, one in shown])
    width = min(WIDTH, console.width - 4)
    for name, one in shown:
        if name:
            console.print(Text(f"\n  {name}", "bold"))
        samples = np.array(one.samples_ms)
        marks = {"p50": one.p50_ms, "p90": one.p90_ms, "p99": float(np.percentile(samples, 99))}
        for line in (*_bars(samples, low, high, width), *_axis(marks, low, high, width)):
            console.print(line)
        beyond = int((samples > high).sum())
        if beyond:
            calls = words.count(beyond, "call", "calls")
            console.print(
                Text(
                    f"  {calls} beyond {words.digits(high)} ms, the longest {words.digits(samples.max())} ms",
                    "dim",
                )
            )


def _bars(samples: Any, low: float, high: float, width: int) -> list[Text]:
    return [Text(f"  {row}", "cyan") for row in histogram(samples, low, high, width, HEIGHT)]


def _axis(marks: Mapping[str, float], low: float, high: float, width: int) -> list[Text]:
    """The axis of a histogram with its ends, and each percentile's name where it lies."""
    columns = {
        name: min(width - 1, int(width * (at - low) / (high - low)))
        for name, at in marks.items()
        if at <= high
    }
    line = "".join("┴" if i in columns.values() else "─" for i in range(width))
    named = ""
    for name, column in columns.items():
        if column >= len(named):  # one that lies too close to the one before stays unnamed
            named = named.ljust(column) + f"{name} "
    left, right = f"{words.digits(low)} ms", f"{words.digits(high)} ms"
    ends = left + right.rjust(width - len(left))
    return [Text(f"  {line}", "dim"), Text(f"  {named}", "bold"), Text(f"  {ends}", "dim")]


def _scale(samples: Sequence[Any]) -> tuple[float, float]:
    """From where to where a histogram goes: up to ten robust deviations beyond the median, so that few long calls
    do not flatten the rest."""
    low, highs = min(float(one.min()) for one in samples), []
    for one in samples:
        median = float(np.median(one))
        spread = max(1.4826 * float(np.median(np.abs(one - median))), 0.002 * median)
        highs.append(min(float(one.max()), median + 10 * spread))
    high = max(highs)
    return (low, high) if high > low else (0.99 * low, 1.01 * high)


def _amounts(measured: Latency) -> Table:
    """Every number of a measurement, with what it means."""
    low, high = map(words.digits, measured.ci)
    table = Table(Column(no_wrap=True, style="bold"), "", box=None, show_header=False, pad_edge=True)
    known = "predicted" if measured.source == "predicted" else f"within ±{measured.uncertainty:.1%}"
    table.add_row("p50", f"{_ms(measured.p50_ms)} (95 % interval {low} to {high} ms, {known})")
    table.add_row("p90", _ms(measured.p90_ms))
    if measured.p99_ms is not None:
        table.add_row("p99", _ms(measured.p99_ms))
    if measured.samples_ms:
        loads = words.count(len(measured.loads), "load", "loads")
        outliers = words.count(measured.outliers, "outlier", "outliers")
        table.add_row("calls", f"{len(measured.samples_ms):,} in {loads}, {outliers}, all kept")
    if measured.disturbed and measured.met_ms is not None:
        table.add_row(
            "disturbed",
            f"{measured.disturbed:.0%} of the rounds; the p50 of all calls is {_ms(measured.met_ms)}",
        )
    if measured.reference_ms is not None:
        pace = "slower" if measured.drift > 0 else "faster"
        drift = f"it got {abs(measured.drift):.1%} {pace} meanwhile" if measured.drift else "no drift"
        table.add_row(
            "machine",
            f"varied by {measured.noise:.1%}, {drift} (a fixed small network took {_ms(measured.reference_ms)})",
        )
    memory, energy = measured.peak_memory_kb, measured.energy_mj
    table.add_row("memory", "unavailable" if memory is None else f"{words.amount('size_kb', memory)} at most")
    source = measured.energy_source
    reason = source if source.startswith("unavailable") else f"unavailable: {source}"
    table.add_row("energy", reason if energy is None else f"{words.digits(energy)} mJ a call ({source})")
    if measured.throughput_per_s is not None:
        at_once = f", {measured.throughput_batch} at a time" if measured.throughput_batch else ""
        table.add_row("throughput", f"{words.digits(measured.throughput_per_s)} a second{at_once}")
    if said := conditions(measured):
        table.add_row("taken on", said)
    return table


def _verdict(measured: Latency) -> Text:
    if measured.noisy:
        return Text(
            f"Too noisy to tell: {measured.noisy}. Measure again when the machine is quieter.", "yellow"
        )
    if measured.source == "predicted":
        return Text("Predicted, not measured.", "yellow")
    return Text("Steady: nothing disturbed this measurement enough to matter.", "green")


def _has_roofline(profile: Profile) -> bool:
    """Whether its facts name a peak of arithmetic and one of memory."""
    known = {fact.quantity for fact in profile.facts}
    return "peak_memory_bandwidth" in known and not known.isdisjoint(PEAKS)


def _accuracy(built: Built) -> str:
    found = built.accuracy
    return f"of {found.count} held-out networks {found.within_10.value:.0%} within 10 %"


def _ms(value: float) -> str:
    return words.amount("latency_ms", value)


def _table(title: str, *columns: Column | str) -> Table:
    """A table whose first column stays in one piece however narrow the window is."""
    made = Table(Column("", no_wrap=True), *columns, box=box.SIMPLE_HEAD)
    made.title, made.title_justify, made.title_style = title, "left", "bold"
    return made
