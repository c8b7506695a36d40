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
    """From values to pixels, linear or logarithmic; `low` lands on `start`, `high` on `stop`."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            value, low, high = math.log10(max(value, low)), math.log10(low), math.log10(high)
        return round(self.start + (value - low) / (high - low) * (self.stop - self.start), 1)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the scale: steps, or on a logarithmic one multiples, of 1, 2 and 5."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            rounds = [float(f"{factor}e{power}") for power in powers for factor in (1, 2, 5)]
            inside = [value for value in rounds if self.low <= value <= self.high]
            if len(inside) > 2:  # else the span is too short for multiples, and steps are as round
                return inside[:: 1 + (len(inside) - 1) // (2 * count)]
        rough = (self.high - self.low) / count
        power: float = 10.0 ** math.floor(math.log10(rough))
        step = next((factor * power for factor in (1, 2, 5) if factor * power >= rough), 10 * power)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [float(f"{index * step:.12g}") for index in range(first, last + 1)]


def spread(
    values: Sequence[float], start: float, stop: float, margin: float = 0.06, limit: float | None = None
) -> Scale:
    """A scale that holds the values with a margin, also if there is but one, and the limit if it is near."""
    low, high = min(values), max(values)
    if limit is not None and 2 * low - high <= limit <= 2 * high - low:
        low, high = min(low, limit), max(high, limit)
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
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="figure" viewBox="0 0 {width} {height}" role="img">'
    )
    body = [f"<style>{style()}</style>"] if standalone else []
    body.append(f'<rect class="panel" width="{width}" height="{height}"/>')
    if axes is None or not drawn:
        body.append(
            f'<text x="{width / 2}" y="{height / 2}" text-anchor="middle">Nothing measured yet</text>'
        )
        return f"{opening}<title>Nothing measured yet</title>{''.join(body)}</svg>"
    x, y = axes
    near = [one.metrics for one in _near(drawn, x, y)]
    across = spread([one[x.name] for one in near], left, width - right, 0.25, x.limit)
    up = spread([one[y.name] for one in near], height - bottom, top, 0.25, y.limit)
    inside = [
        one
        for one in drawn
        if across.low <= one.metrics[x.name] <= across.high and up.low <= one.metrics[y.name] <= up.high
    ]

    def at(values: Mapping[str, float]) -> tuple[float, float]:
        return across(values[x.name]), up(values[y.name])

    title = f"{y.label} against {x.label}: {words.count(len(facts.front(summary)), 'network', 'networks')} on the front"
    body.insert(0, f"<title>{escape(title)}</title>")
    body.append(grid(across, up, x.name, y.name))
    body.append(
        f'<text class="title" x="{left - 52}" y="20">↑ {escape(_title(y))}</text>'
        f'<text class="title" x="{width - right}" y="{height - 8}" text-anchor="end">{escape(_title(x))} →</text>'
    )
    body.extend(_limits(across, up, x, y))
    body.append(_stairs([one.metrics for one in inside if one.kind == "front"], x, y, at))
    for one in inside:
        if one.before and x.name in one.before and y.name in one.before:
            body.append(_arrow(at(one.before), at(one.metrics), one.kind))
    shapes = outlines()
    for kind in reversed(facts.KINDS):
        spots = "".join(
            "M{},{}".format(*at(one.metrics)) + shapes[kind] for one in inside if one.kind == kind
        )
        if spots:
            body.append(f'<path class="dot {kind}" d="{spots}"/>')
    marks = [at(one.metrics) for one in inside if one.kind not in ("searched", "refused")]
    for one in inside:
        if one.knee:
            body.append('<path class="ring" d="M{},{}{}"/>'.format(*at(one.metrics), circle(9)))
        if one.knee or one.kind == "shipped":
            text = "shipped" if one.kind == "shipped" else "knee"
            spot = _place(at(one.metrics), 7 * len(text), marks, width, height - bottom)
            body.append(f'<text class="name" x="{spot[0]:.1f}" y="{spot[1]:.1f}">{text}</text>')
            marks.extend((spot[0] + 7 * step, spot[1] - 4) for step in range(len(text)))
    if len(inside) < len(drawn):
        more = words.count(len(drawn) - len(inside), "network lies", "networks lie")
        body.append(f'<text x="{left}" y="{height - 8}">{more} outside this view</text>')
    return f"{opening}{''.join(body)}</svg>"


def _near(drawn: Sequence[Network], x: Metric, y: Metric) -> Sequence[Network]:
    """The networks that the first view must hold: the front and what came of it, else all but the worst tenth."""
    focus = [one for one in drawn if one.kind not in ("searched", "refused", "rejected")]
    if len(focus) > 2:
        return focus
    kept = drawn
    for axis in (x, y):
        ranked = sorted((one.metrics[axis.name] for one in drawn), reverse=axis.goal == "max")
        worst = ranked[int(0.9 * (len(ranked) - 1))]
        kept = [one for one in kept if not axis.better(worst, one.metrics[axis.name])]
    return [*focus, *kept] or drawn


def _title(one: Metric) -> str:
    return f"{one.label}{f', {one.unit}' if one.unit else ''} ({'higher' if one.goal == 'max' else 'lower'} is better)"


def tick(name: str, value: float) -> str:
    """A value on an axis: short, and without the unit, which the axis itself names."""
    unit = facts.metric(name).unit
    if unit == "%":
        return f"{100 * value:.10g}"
    return f"{value:g}" if unit else words.bound(name, value)


def grid(across: Scale, up: Scale, x: str, y: str) -> str:
    """Grid and tick labels; on the vertical axis with at most one label per 40 pixels."""
    bottom, top = up.start, up.stop
    parts = [f'<path class="frame" d="M{across.start},{bottom}H{across.stop}"/>']
    for value in across.ticks(max(2, int((across.stop - across.start) / 80))):
        spot = across(value)
        parts.append(f'<path class="grid" d="M{spot},{bottom}V{top}"/>')
        parts.append(f'<text x="{spot}" y="{bottom + 16}" text-anchor="middle">{tick(x, value)}</text>')
    for value in up.ticks(max(2, int((bottom - top) / 42))):
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
            f"limit {escape(words.bound(x.name, x.limit))}</text>"
        )
    if y.limit is not None and up.low < y.limit < up.high:
        spot = up(y.limit)
        yield f'<path class="limit" d="M{across.start},{spot}H{across.stop}"/>'
        yield (
            f'<text class="limit-name" x="{across.stop - 4}" y="{spot - 6}" text-anchor="end">'
            f"limit {escape(words.bound(y.name, y.limit))}</text>"
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
        f"M{ex:.1f},{ey:.1f}L{ex - 6 * ux + turn * 3 * uy:.1f},{ey - 6 * uy - turn * 3 * ux:.1f}"
        for turn in (1, -1)
    )
    return f'<path class="step {kind}" d="M{tail[0]},{tail[1]}L{ex:.1f},{ey:.1f}{barbs}"/>'


def _place(
    spot: tuple[float, float], long: float, marks: Sequence[tuple[float, float]], width: float, floor: float
) -> tuple[float, float]:
    """Where beside a mark its name, `long` pixels, covers the fewest other marks."""

    def cost(x: float, y: float) -> int:
        off = x < 60 or x + long > width or y < 34 or y > floor - 6
        return 100 * off + sum(
            abs(other[0] - x - long / 2) < long / 2 + 8 and abs(other[1] - y + 4) < 14 for other in marks
        )

    shifts = [(16, 4), (10, 24), (10, -14), (-16 - long, 4), (-10 - long, 24), (-10 - long, -14)]
    return min(((spot[0] + right, spot[1] + down) for right, down in shifts), key=lambda one: cost(*one))


def lines(
    series: Sequence[Sequence[tuple[float, float]]],
    x_title: str,
    y_title: str,
    percent: bool = False,
    area: bool = False,
    log: bool = False,
) -> str:
    """Curves in one frame, the first being the most important one; from zero upwards unless logarithmic.

    On a logarithmic axis zeros lie on the bottom, below everything else.
    """
    width, height, left, right, top, bottom = 400, 230, 46, 12, 30, 36
    spots = [spot for curve in series for spot in curve]
    if not spots:
        return ""
    first, last = min(0.0, *(x for x, _ in spots)), max(x for x, _ in spots)
    across = Scale(first, last if last > first else first + 1.0, left, width - right)
    highest = 1.05 * max(0.0, *(y for _, y in spots)) or 1.0
    lowest = 0.7 * min((y for _, y in spots if y > 0), default=0.1 * highest) if log else 0.0
    up = Scale(lowest, highest, height - bottom, top, log)
    unit = "error" if percent else "value_s"
    parts = [
        f'<text class="title" x="2" y="14">{escape(y_title)}</text>',
        f'<text class="title" x="{width - right}" y="{height - 4}" text-anchor="end">{escape(x_title)}</text>',
        grid(across, up, "value_s", unit),
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


def histogram(
    samples: Sequence[float], p50: float | None, p90: float | None, ci: Sequence[float] = ()
) -> str:
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
        f"M{4 + index * step:.1f},{floor}v{-max(1.0, found * (floor - 4) / max(counts)):.1f}h{step - 0.8:.1f}V{floor}z"
        for index, found in enumerate(counts)
        if found
    )
    parts = []
    if len(ci) == 2 and low <= ci[0] <= ci[1] <= high:
        start, stop = across(ci[0]), across(ci[1])
        parts.append(
            f'<rect class="band" x="{start}" y="2" width="{max(1.0, stop - start):.1f}" height="{floor - 2}"/>'
        )
    parts.append(f'<path class="bar" d="{bars}"/><path class="frame" d="M4,{floor}H{width - 4}"/>')
    for name, mark in (("median", p50), ("tail", p90)):
        if mark is not None and low <= mark <= high:
            parts.append(f'<path class="{name}" d="M{across(mark)},2V{floor}"/>')
    edge = "≥ " if high < ordered[-1] else ""
    parts.append(f'<text x="4" y="54">{words.digits(low)}</text>')
    parts.append(f'<text x="{width - 4}" y="54" text-anchor="end">{edge}{words.digits(high)} ms</text>')
    title = f"<title>{len(samples)} samples, in milliseconds</title>"
    return (
        f'<svg class="figure histogram" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">'
        f"{title}{''.join(parts)}</svg>"
    )
