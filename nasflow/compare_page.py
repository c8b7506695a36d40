"""A comparison of runs as one self-contained page: their fronts in the same figures, and the tables beside them."""

from __future__ import annotations

from functools import cache
from html import escape
from importlib.resources import files

import jinja2
from markupsafe import Markup

from nasflow import show_compare
from nasflow.compare import Comparison, Side
from nasflow.report import facts, figures
from nasflow.report.facts import Metric

SHAPES = (figures.circle(4.5), figures.regular(6, 3), figures.regular(6, 4), figures.regular(6, 3, turn=180),
          figures.regular(5.5, 5), figures.regular(5.5, 6))  # fmt: skip
LARGE, SMALL = (760, 440), (400, 300)
MARKS = """
.figure .mark { stroke: var(--surface); stroke-width: 1; stroke-dasharray: none; fill-opacity: .85; }
.figure .edge { fill: none; stroke-width: 1.5; opacity: .6; }
.figure .star { stroke-width: 2; stroke-dasharray: none; fill: var(--surface); }
"""


def render(found: Comparison) -> str:
    """The page of a comparison; it needs nothing else, and lets no script run."""
    page: str = _template().render(
        found=found,
        headline=show_compare.headline(found),
        sheets=show_compare.sheets(found),
        style=Markup(figures.style() + (files("nasflow.report") / "page.css").read_text() + MARKS),
        drawn=[Markup(figure) for figure in drawn(found)],
        curve=Markup(_curves(found)),
        legend=[(Markup(legend(place)), side) for place, side in enumerate(found.runs)],
    )
    return page


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string((files("nasflow.report") / "compare.html").read_text(encoding="utf-8"))


def drawn(found: Comparison) -> list[str]:
    """The fronts overlaid: what is judged against every other metric, the one that parts the regions first."""
    if found.judged is None or not any(side.front for side in found.runs):
        return []
    others = [one for one in found.metrics if one is not found.judged]
    others.sort(key=lambda one: one is not found.along)
    return [
        overlay(found, one, found.judged, LARGE if place == 0 else SMALL) for place, one in enumerate(others)
    ]


def overlay(found: Comparison, x: Metric, y: Metric, size: tuple[int, int]) -> str:
    """Every front in two metrics, as SVG; lines are the edge of what each run reached in these two."""
    width, height, left, right, top, bottom = *size, 64, 20, 34, 46
    members = [member.metrics for side in found.runs for member in side.front]
    across = figures.spread([one[x.name] for one in members], left, width - right)
    up = figures.spread([one[y.name] for one in members], height - bottom, top)
    names = ", ".join(side.name for side in found.runs)
    parts = [
        f"<title>{escape(f'{y.label} against {x.label}: the fronts of {names}')}</title>",
        f'<rect class="panel" width="{width}" height="{height}"/>',
        figures.grid(across, up, x.name, y.name),
        f'<text class="title" x="{left - 52}" y="20">↑ {escape(_titled(y))}</text>',
        f'<text class="title" x="{width - right}" y="{height - 8}" text-anchor="end">{escape(_titled(x))} →</text>',
    ]
    if x is found.along:
        bounds = [region.bound for region in found.regions if region.bound is not None]
        parts += [
            f'<path class="limit" d="M{across(bound)},{up.start}V{up.stop}"/>'
            for bound in bounds
            if across.low < bound < across.high
        ]
    for place, side in enumerate(found.runs):
        parts.append(_edge(place, side, x, y, across, up))
    for place, side in enumerate(found.runs):
        spots = "".join(
            f"M{across(one.metrics[x.name])},{up(one.metrics[y.name])}{SHAPES[place % len(SHAPES)]}"
            for one in side.front
        )
        parts.append(f'<path class="mark c{place % 6}" d="{spots}"/>' if spots else "")
    for place, side in enumerate(found.runs):
        here = shipped(side, x.name), shipped(side, y.name)
        if here[0] is None or here[1] is None:
            continue
        if across.low <= here[0] <= across.high and up.low <= here[1] <= up.high:
            spot = across(here[0]), up(here[1])
            parts.append(f'<path class="star c{place % 6}" d="M{spot[0]},{spot[1]}{figures.star(9)}"/>')
    return f'<svg class="figure" viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


def _edge(place: int, side: Side, x: Metric, y: Metric, across: figures.Scale, up: figures.Scale) -> str:
    """The staircase of one front."""
    ranked = sorted((one.metrics for one in side.front), key=lambda one: one[x.name], reverse=x.goal == "max")
    path, last = "", None
    for one in ranked:
        if last is None or y.better(one[y.name], last):
            path += f"{'H' if path else 'M'}{across(one[x.name])}{'V' if path else ','}{up(one[y.name])}"
            last = one[y.name]
    return f'<path class="edge c{place % 6}" d="{path}"/>' if "H" in path else ""


def shipped(side: Side, metric: str) -> float | None:
    """What a run's shipped file was measured to be, on validation data."""
    if metric == "error":
        return facts.number(side.shipped.get("validation_error"))
    base, _, device = metric.partition("@")
    if base == "latency_ms":
        return facts.number(facts.table(facts.table(side.shipped.get("latency")).get(device)).get("p50_ms"))
    return facts.number(facts.table(side.shipped.get("metrics")).get(metric))


def _curves(found: Comparison) -> str:
    """Hypervolume by what was spent."""
    series = [side.curve for side in found.runs]
    return figures.lines(series, "full trainings", "hypervolume") if any(series) else ""


def legend(place: int) -> str:
    """A run's mark and line alone."""
    return (
        '<svg class="figure" width="40" height="16" viewBox="0 0 40 16" aria-hidden="true">'
        f'<path class="edge c{place % 6}" d="M1,8H39"/>'
        f'<path class="mark c{place % 6}" d="M20,8{SHAPES[place % len(SHAPES)]}"/></svg>'
    )


def _titled(one: Metric) -> str:
    unit = f", {one.unit}" if one.unit else ""
    return f"{one.label}{unit} ({'higher' if one.goal == 'max' else 'lower'} is better)"
