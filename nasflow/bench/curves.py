"""How the hypervolume grows with the evaluations: a picture of a comparison, as SVG that needs nothing else.

The vertical axis is logarithmic in what is missing, since from 95 to 99 % is as far as from 75 to 95 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from nasflow.bench.comparison import Comparison
from nasflow.report.figures import Scale, style

# Okabe and Ito's colours for readers who do not tell red from green: on white, and on a dark page.
COLOURS = (
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#ff8c42"),
    ("#008060", "#3ecfa0"),
    ("#b0568c", "#e89cc4"),
    ("#a67c00", "#f0c640"),
    ("#5b6570", "#aeb8c2"),
    ("#16202a", "#e6ebf0"),
)
DASHES = ("", "7 4", "2 4")  # for a second and third round of colours
SHARES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
CLOSEST = 0.001  # the whole of the true front would be infinitely far up
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 860, 500, 56, 52, 46
LETTER = 7.9  # pixels, at most
LINE = 15.0


def svg(found: Comparison) -> str:
    """The median of each contender as a line, the middle half of its runs as a band."""
    counts = np.array(found.counts)
    shown = counts >= min(10, found.evals // 10)
    missing = [
        np.clip(1 - np.quantile(r.curve[:, shown], (0.25, 0.5, 0.75), axis=0), CLOSEST, 1)
        for r in found.results
    ]
    right = 32 + LETTER * max(len(result.contender) for result in found.results)
    across = Scale(float(counts[shown][0]), float(found.evals), LEFT, WIDTH - right, log=True)
    lowest, highest = min(float(m.min()) for m in missing), max(float(m[1].max()) for m in missing)
    up = Scale(0.9 * lowest, min(1.0, 1.1 * highest), TOP, HEIGHT - BOTTOM, log=True)
    parts = [*_axes(across, up), *_titles(found, across.stop)]
    ends = _apart([up(float(m[1, -1])) for m in missing])
    x = [across(float(count)) for count in counts[shown]]
    lines = []
    for index, (result, (worst, middle, best)) in enumerate(zip(found.results, missing, strict=True)):
        upper, lower = [up(float(v)) for v in best], [up(min(float(v), up.high)) for v in worst]
        colour = f"k{index % len(COLOURS)}"
        outline = _path(x, upper) + "L" + _path(x[::-1], lower[::-1])[1:] + "z"
        parts.append(f'<path class="quartiles {colour}" d="{outline}"/>')
        dash = DASHES[index // len(COLOURS) % len(DASHES)]
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        end, label = up(float(middle[-1])), ends[index]
        lines.append(
            f'<path class="middle {colour}"{dashed} d="{_path(x, [up(float(v)) for v in middle])}"/>'
        )
        lines.append(f'<path class="leader {colour}"{dashed} d="M{x[-1] + 2},{end}L{x[-1] + 20},{label}"/>')
        lines.append(
            f'<text class="contender {colour}" x="{x[-1] + 24}" y="{label + 4:.1f}">{escape(result.contender)}</text>'
        )
    title = f"Share of the true front's hypervolume by evaluations, {found.problem.table.name}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="figure" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>{escape(title)}</title><style>{style()}{_style()}</style>"
        f'<rect class="panel" width="{WIDTH}" height="{HEIGHT}"/>{"".join(parts + lines)}</svg>\n'
    )


def _titles(found: Comparison, end: float) -> list[str]:
    problem = found.problem
    objectives = " and ".join(objective.metric for objective in problem.objectives)
    below = f"{problem.table.name}: {objectives}; the median and the middle half of {len(found.seeds)} runs"
    return [
        f'<text class="name" x="{LEFT - 40}" y="20">Share of the true front\'s hypervolume</text>',
        f'<text x="{LEFT - 40}" y="37">{escape(below)}</text>',
        f'<text x="{end}" y="{HEIGHT - 8}" text-anchor="end">evaluations</text>',
    ]


def _axes(across: Scale, up: Scale) -> list[str]:
    parts = [f'<path class="frame" d="M{across.start},{up.stop}H{across.stop}"/>']
    for count in across.ticks(8):
        parts.append(f'<path class="grid" d="M{across(count)},{up.start}V{up.stop}"/>')
        parts.append(f'<text x="{across(count)}" y="{up.stop + 16}" text-anchor="middle">{count:g}</text>')
    for share in SHARES:
        if up.low <= 1 - share <= up.high:
            y = up(1 - share)
            parts.append(f'<path class="grid" d="M{across.start},{y}H{across.stop}"/>')
            parts.append(
                f'<text x="{across.start - 8}" y="{y + 4}" text-anchor="end">{100 * share:g} %</text>'
            )
    return parts


def _path(x: Sequence[float], y: Sequence[float]) -> str:
    return "M" + "L".join(f"{a},{b}" for a, b in zip(x, y, strict=True))


def _apart(heights: Sequence[float]) -> list[float]:
    """Heights of labels: in the order of the wanted ones, a line apart, as near to them as that allows."""
    order = np.argsort(heights, kind="stable")
    groups: list[list[float]] = []  # wanted heights of labels that touch
    for height in np.array(heights)[order]:
        groups.append([float(height)])
        while len(groups) > 1 and _top(groups[-1]) < _top(groups[-2]) + LINE * len(groups[-2]):
            last = groups.pop()
            groups[-1] += last
    placed = [_top(group) + LINE * place for group in groups for place in range(len(group))]
    return [placed[int(np.flatnonzero(order == index)[0])] for index in range(len(heights))]


def _top(group: Sequence[float]) -> float:
    """Height of the first of some labels that touch, their middle where the middle of the wanted heights is."""
    return float(np.mean(group)) - LINE * (len(group) - 1) / 2


def _style() -> str:
    light = "".join(f".k{i} {{ --colour: {colour}; }}" for i, (colour, _) in enumerate(COLOURS))
    dark = "".join(f".k{i} {{ --colour: {colour}; }}" for i, (_, colour) in enumerate(COLOURS))
    return (
        f"{light} @media (prefers-color-scheme: dark) {{ {dark} }}"
        " .quartiles { fill: var(--colour); opacity: .13; }"
        " .middle { fill: none; stroke: var(--colour); stroke-width: 2.2; stroke-linejoin: round; }"
        " .leader { fill: none; stroke: var(--colour); opacity: .6; }"
        " .figure .contender { fill: var(--colour); font-weight: 600; }"
    )
