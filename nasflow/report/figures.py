"""The report's figures as SVG text: they need no script, scale without loss, and print.

Classes and colours are those of figures.css, so a figure follows the reader's light or dark setting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from typing import Any

from nasflow.report import facts, words
from nasflow.report.facts import Metric, Network, Summary

BINS = 28


@dataclass(frozen=True)
class Scale:
    """From values to pixels; `low` lands on `start`, `high` on `stop`."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        part = (value - self.low) / (self.high - self.low)
        return round(self.start + part * (self.stop - self.start), 1)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the scale: steps of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / count
        power: float = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def spread(values: Sequence[float], start: float, stop: float, margin: float = 0.06) -> Scale:
    """A scale that holds the values with a margin, also if there is but one of them."""
    low, high = min(values), max(values)
    pad = (high - low) * margin or abs(high) * 0.5 or 1.0
    return Scale(low - pad if low - pad > 0 or low < 0 else 0.0, high + pad, start, stop)


def star(radius: float) -> str:
    return _polygon((radius if index % 2 == 0 else radius * 0.45, 36.0 * index) for index in range(10))


def regular(radius: float, corners: int, turn: float = 0.0) -> str:
    return _polygon((radius, turn + 360.0 / corners * index) for index in range(corners))


def circle(radius: float) -> str:
    return f"m{-radius:g},0a{radius:g},{radius:g} 0 1,0 {2 * radius:g},0a{radius:g},{radius:g} 0 1,0 {-2 * radius:g},0"


def cross(radius: float) -> str:
    side = 2 * radius
    return f"m{-radius:g},{-radius:g}l{side:g},{side:g}m{-side:g},0l{side:g},{-side:g}"


def _polygon(corners: Iterable[tuple[float, float]]) -> str:
    """A closed outline from (radius, degrees from the top) in steps relative to one another."""
    at = (0.0, 0.0)
    path = ""
    for radius, angle in corners:
        x, y = radius * math.sin(math.radians(angle)), -radius * math.cos(math.radians(angle))
        path += f"{'l' if path else 'm'}{x - at[0]:.1f},{y - at[1]:.1f}"
        at = (x, y)
    return f"{path}z"


def outlines() -> dict[str, str]:
    """The marker of every kind of network, as a path relative to its centre: `M x,y` and then this.

    Shape and colour both tell them apart, for readers who do not see the colours.
    """
    return {
        "shipped": star(11),
        "deployed": regular(6.5, 4),
        "front": circle(5),
        "compressed": regular(6.5, 3),
        "rejected": regular(6, 3, turn=180),
        "searched": circle(3),
        "refused": cross(3),
    }


def marker(kind: str) -> str:
    """The marker alone, for a legend."""
    return (
        '<svg class="figure" width="24" height="24" viewBox="0 0 24 24" aria-hidden="true">'
        f'<path class="dot {kind}" d="M12,12{outlines()[kind]}"/></svg>'
    )


def style() -> str:
    return (files(__package__) / "figures.css").read_text(encoding="utf-8")


def default_axes(known: Sequence[Metric]) -> tuple[Metric, Metric] | None:
    """What is plotted first: the error upwards, and to the right the first measured latency or other cost."""
    if not known:
        return None
    y = next((one for one in known if one.unit == "%"), known[0])
    costs = [one for one in known if one.name != y.name]
    x = next((one for one in costs if one.device), costs[0] if costs else y)
    return x, y


def front_svg(summary: Mapping[str, Any]) -> str:
    """The front as a picture that stands alone: what was tried, the front, and what became of it."""
    return scatter(facts.plain(summary), standalone=True)


def scatter(summary: Summary, standalone: bool = False) -> str:
    width, height, left, right, top, bottom = 760, 440, 64, 20, 34, 46
    known, everything = facts.metrics(summary), facts.networks(summary)
    axes = default_axes(known)
    drawn = [one for one in everything if axes and all(axis.name in one.metrics for axis in axes)]
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" class="figure" viewBox="0 0 {width} {height}" role="img">'
    body = [f"<style>{style()}</style>"] if standalone else []
    body.append(f'<rect class="panel" width="{width}" height="{height}"/>')
    if axes is None or not drawn:
        body.append(f'<text x="{width / 2}" y="{height / 2}" text-anchor="middle">Nothing measured yet</text>')
        return f"{opening}<title>Nothing measured yet</title>{''.join(body)}</svg>"
    x, y = axes
    focus = [one for one in drawn if one.kind not in ("searched", "refused")] or drawn
    focus = [one for one in focus if one.kind != "rejected"] or focus
    near = [one.metrics for one in (focus if len(focus) > 2 else drawn)]
    across = spread([one[x.name] for one in near], left, width - right, margin=0.25)
    up = spread([one[y.name] for one in near], height - bottom, top, margin=0.25)
    inside = [
        one
        for one in drawn
        if across.low <= one.metrics[x.name] <= across.high and up.low <= one.metrics[y.name] <= up.high
    ]

    def at(values: Mapping[str, float]) -> tuple[float, float]:
        return across(values[x.name]), up(values[y.name])

    title = f"{y.label} against {x.label}: {words.count(len(facts.front(summary)), 'network', 'networks')} on the front"
    body.insert(0, f"<title>{escape(title)}</title>")
    body.append(_axis(across, up, x.name, y.name))
    body.append(
        f'<text class="title" x="{left - 52}" y="16">{escape(_title(y))} ↑</text>'
        f'<text class="title" x="{width - right}" y="{height - 8}" text-anchor="end">{escape(_title(x))} →</text>'
    )
    body.extend(_limits(across, up, x, y))
    body.append(_stairs([one.metrics for one in inside if one.kind == "front"], x, y, at))
    for one in inside:
        if one.before and x.name in one.before and y.name in one.before:
            body.append(_arrow(at(one.before), at(one.metrics), one.kind))
    shapes = outlines()
    for kind in reversed(facts.KINDS):
        spots = "".join("M{},{}".format(*at(one.metrics)) + shapes[kind] for one in inside if one.kind == kind)
        if spots:
            body.append(f'<path class="dot {kind}" d="{spots}"/>')
    for one in inside:
        if one.knee:
            spot = at(one.metrics)
            body.append(f'<path class="ring" d="M{spot[0]},{spot[1]}{circle(9)}"/>')
            body.append(_name(spot, "knee", width))
        if one.kind == "shipped":
            body.append(_name(at(one.metrics), f"shipped: {one.name}", width, below=True))
    if len(inside) < len(drawn):
        more = words.count(len(drawn) - len(inside), "network lies", "networks lie")
        body.append(f'<text x="{left}" y="{height - 8}">{more} outside this view</text>')
    return f"{opening}{''.join(body)}</svg>"


def _title(one: Metric) -> str:
    return f"{one.label}{f', {one.unit}' if one.unit else ''} ({'higher' if one.goal == 'max' else 'lower'} is better)"


def tick(name: str, value: float) -> str:
    """A value on an axis: short, and without the unit, which the axis itself names."""
    unit = facts.metric(name).unit
    if unit == "%":
        return f"{100 * value:.10g}"
    return f"{value:g}" if unit else words.magnitude(value).replace(".00", "").replace(".0 ", " ")


def _axis(across: Scale, up: Scale, x: str, y: str) -> str:
    """Grid and tick labels; on the vertical axis with at most one label per 40 pixels."""
    bottom, top = up.start, up.stop
    parts = [f'<path class="frame" d="M{across.start},{bottom}H{across.stop}"/>']
    for value in across.ticks(max(2, int((across.stop - across.start) / 90))):
        spot = across(value)
        parts.append(f'<path class="grid" d="M{spot},{bottom}V{top}"/>')
        parts.append(f'<text x="{spot}" y="{bottom + 16}" text-anchor="middle">{tick(x, value)}</text>')
    for value in up.ticks(max(2, int((bottom - top) / 55))):
        spot = up(value)
        parts.append(f'<path class="grid" d="M{across.start},{spot}H{across.stop}"/>')
        parts.append(f'<text x="{across.start - 8}" y="{spot + 4}" text-anchor="end">{tick(y, value)}</text>')
    return "".join(parts)


def _limits(across: Scale, up: Scale, x: Metric, y: Metric) -> Iterable[str]:
    if x.limit is not None and across.low < x.limit < across.high:
        spot = across(x.limit)
        yield f'<path class="limit" d="M{spot},{up.start}V{up.stop}"/>'
        yield (
            f'<text class="limit-name" x="{spot - 6}" y="{up.stop + 12}" text-anchor="end">'
            f"limit {escape(words.amount(x.name, x.limit))}</text>"
        )
    if y.limit is not None and up.low < y.limit < up.high:
        spot = up(y.limit)
        yield f'<path class="limit" d="M{across.start},{spot}H{across.stop}"/>'
        yield (
            f'<text class="limit-name" x="{across.stop - 4}" y="{spot - 6}" text-anchor="end">'
            f"limit {escape(words.amount(y.name, y.limit))}</text>"
        )


def _stairs(
    members: Sequence[Mapping[str, float]],
    x: Metric,
    y: Metric,
    at: Callable[[Mapping[str, float]], tuple[float, float]],
) -> str:
    """The edge of what was reached in these two metrics (a front in more metrics is not a staircase)."""
    ranked = sorted(members, key=lambda one: one[x.name] * (-1 if x.goal == "max" else 1))
    edge: list[Mapping[str, float]] = []
    for one in ranked:
        if not edge or y.better(one[y.name], edge[-1][y.name]):
            edge.append(one)
    if len(edge) < 2:
        return ""
    path = "M{},{}".format(*at(edge[0]))
    for one in edge[1:]:
        spot = at(one)
        path += f"H{spot[0]}V{spot[1]}"
    return f'<path class="stairs" d="{path}"/>'


def _arrow(tail: tuple[float, float], tip: tuple[float, float], kind: str) -> str:
    """A line with a head that stops short of the marker it points to."""
    length = math.dist(tail, tip)
    if length < 14:
        return ""
    ux, uy = (tip[0] - tail[0]) / length, (tip[1] - tail[1]) / length
    ex, ey = tip[0] - 9 * ux, tip[1] - 9 * uy
    barbs = "".join(
        f"M{ex:.1f},{ey:.1f}L{ex - 6 * ux + turn * 3 * uy:.1f},{ey - 6 * uy - turn * 3 * ux:.1f}" for turn in (1, -1)
    )
    return f'<path class="step {kind}" d="M{tail[0]},{tail[1]}L{ex:.1f},{ey:.1f}{barbs}"/>'


def _name(spot: tuple[float, float], text: str, width: float, below: bool = False) -> str:
    left_half = spot[0] < width * 0.6
    x, anchor = (spot[0] + 13, "start") if left_half else (spot[0] - 13, "end")
    y = spot[1] + (18 if below else -8)
    return f'<text class="name" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def lines(
    series: Sequence[Sequence[tuple[float, float]]], x_title: str, y_title: str, percent: bool = False, area: bool = False
) -> str:
    """Curves in one frame, from zero upwards; the first is the most important one."""
    width, height, left, right, top, bottom = 400, 230, 46, 12, 30, 36
    spots = [spot for curve in series for spot in curve]
    if not spots:
        return ""
    across = Scale(min(0.0, *(x for x, _ in spots)), max(x for x, _ in spots) or 1.0, left, width - right)
    up = Scale(0.0, 1.05 * max(0.0, *(y for _, y in spots)) or 1.0, height - bottom, top)
    unit = "error" if percent else "value_s"
    parts = [
        f'<text class="title" x="2" y="14">{escape(y_title)}</text>',
        f'<text class="title" x="{width - right}" y="{height - 4}" text-anchor="end">{escape(x_title)}</text>',
        _axis(across, up, "value_s", unit),
    ]
    for index, curve in reversed(list(enumerate(series))):
        path = "".join(f"{'L' if step else 'M'}{across(x)},{up(y)}" for step, (x, y) in enumerate(curve))
        if area and curve:
            floor = f"L{across(curve[-1][0])},{up.start}L{across(curve[0][0])},{up.start}z"
            parts.append(f'<path class="area c{index % 6}" d="{path}{floor}"/>')
        parts.append(f'<path class="line c{index % 6}" d="{path}"/>')
    title = f"<title>{escape(y_title)} by {escape(x_title)}</title>"
    return f'<svg class="figure" viewBox="0 0 {width} {height}" role="img">{title}{"".join(parts)}</svg>'


def stroke(index: int) -> str:
    """The stroke of a curve alone, for a legend."""
    return (
        '<svg class="figure" width="28" height="12" viewBox="0 0 28 12" aria-hidden="true">'
        f'<path class="line c{index % 6}" d="M1,6H27"/></svg>'
    )


def histogram(samples: Sequence[float], p50: float | None, p90: float | None, ci: Sequence[float] = ()) -> str:
    """Raw samples of one measurement: median drawn through, 90th percentile dashed, interval as a band.

    The rare slowest samples would flatten everything else; those past three times the distance from the
    fastest to the 90th percentile are counted in the last bar.
    """
    if not samples:
        return ""
    width, height, floor = 240, 56, 42
    ordered = sorted(samples)
    low, tail = ordered[0], ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    high = min(ordered[-1], low + 3 * (tail - low)) if tail > low else ordered[-1]
    if high <= low:
        low, high = low - abs(low) * 0.05 - 1e-9, high + abs(high) * 0.05 + 1e-9
    across = Scale(low, high, 4, width - 4)
    counts = [0] * BINS
    for value in ordered:
        counts[min(BINS - 1, int((value - low) / (high - low) * BINS))] += 1
    step = (width - 8) / BINS
    bars = "".join(
        f"M{4 + index * step:.1f},{floor}v{-max(1.0, height_of * (floor - 4) / max(counts)):.1f}h{step - 0.8:.1f}V{floor}z"
        for index, height_of in enumerate(counts)
        if height_of
    )
    parts = [f'<path class="bar" d="{bars}"/><path class="frame" d="M4,{floor}H{width - 4}"/>']
    if len(ci) == 2 and low <= ci[0] <= ci[1] <= high:
        start, stop = across(ci[0]), across(ci[1])
        parts.append(f'<rect class="band" x="{start}" y="2" width="{max(1.0, stop - start):.1f}" height="{floor - 2}"/>')
    for value, name in ((p50, "median"), (p90, "tail")):
        if value is not None and low <= value <= high:
            parts.append(f'<path class="{name}" d="M{across(value)},2V{floor}"/>')
    edge = "≥ " if high < ordered[-1] else ""
    parts.append(f'<text x="4" y="54">{words.digits(low)}</text>')
    parts.append(f'<text x="{width - 4}" y="54" text-anchor="end">{edge}{words.digits(high)} ms</text>')
    title = f"<title>{len(samples)} samples, in milliseconds</title>"
    return (
        f'<svg class="figure histogram" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
        f"{title}{''.join(parts)}</svg>"
    )
