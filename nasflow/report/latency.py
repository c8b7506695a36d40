"""What the report shows of latency: predictions against measurements, where the shipped network's time goes, and how
near its kernels come to what the device can do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from markupsafe import Markup

from nasflow.report import facts, figures, words
from nasflow.report.facts import Summary
from nasflow.report.figures import Scale

COLOURS = 6  # kinds of kernels that are told apart, the last being all others
OTHERS = "others"
NEAR = 0.1  # off by at most this share: the band in the figure


@dataclass(frozen=True)
class Layer:
    """A kernel of the shipped network. `intensity` is its multiply-adds for each byte it moves, `rate` its
    multiply-adds a second, in billions; None where it has none."""

    name: str
    kind: str
    ms: float
    intensity: float | None
    rate: float | None


def panels(summary: Summary) -> list[dict[str, Any]]:
    """For each device that has something to show: what the page says and draws of it."""
    found: list[dict[str, Any]] = []
    for device, said in facts.table(summary.get("latency")).items():
        told = facts.table(said)
        panel = {"device": device, **_agreement(told), **_breakdown(told)}
        if len(panel) > 1:
            found.append(panel)
    return found


def doubts(summary: Summary) -> dict[str, list[str]]:
    """By member of the front, what is wrong with its latencies, in a few words: `noisy on pixel6`."""
    found: dict[str, list[str]] = {}
    for device, said in facts.table(summary.get("latency")).items():
        told = facts.table(said)
        for trial in facts.table(told.get("noisy")):
            found.setdefault(f"trial-{trial}", []).append(f"noisy on {device}")
        for trial, share in facts.numbers(told.get("moved")).items():
            found.setdefault(f"trial-{trial}", []).append(f"{device} was {_pace(share)}")
    return found


def _pace(share: float) -> str:
    return f"{words.share(abs(share))} {'slower' if share > 0 else 'faster'}"


def warnings(summary: Summary) -> list[str]:
    """What a reader must know before trusting the numbers: latencies too noisy to tell, predictors that are out of
    date, networks not measured."""
    found = [
        f"The latency of {entry.get('name')} on {device} is too noisy to tell: {why}. Measure its file again on a"
        f" quieter machine: nasflow profile {device} {entry.get('file')}"
        for entry in facts.rows(summary.get("deployed"))
        for device, cost in facts.table(entry.get("latency")).items()
        if (why := facts.table(cost).get("noisy"))
    ]
    for device, said in facts.table(summary.get("latency")).items():
        told = facts.table(said)
        for trial, why in facts.table(told.get("noisy")).items():
            found.append(f"The latency of trial-{trial} on {device} is too noisy to tell: {why}.")
        for trial, share in facts.numbers(told.get("moved")).items():
            found.append(
                f"When trial-{trial} was measured, {device} itself was {_pace(share)} than for most of the front: as"
                " much of its latency is not its own."
            )
        stale = told.get("stale")
        found.extend(words.capital(f"{text}.") for text in (stale if isinstance(stale, list) else []))
        numbers = told.get("unmeasured")
        if isinstance(numbers, list) and numbers:
            named = ", ".join(f"trial-{number}" for number in numbers[:8])
            more = f" and {len(numbers) - 8} more" if len(numbers) > 8 else ""
            found.append(
                f"Not measured on {device}, which did not answer; their latency is predicted: {named}{more}."
            )
    return found


def _agreement(told: Mapping[str, Any]) -> dict[str, Any]:
    pairs = [row for row in map(_numbers, _listed(told.get("pairs"))) if len(row) == 4]
    predictor = facts.table(told.get("predictor"))
    if not pairs:
        return {"predictor": predictor} if predictor else {}
    return {
        "predictor": predictor,
        "scatter": Markup(agreement(pairs)),
        "measured": len(pairs),
        "outside": int(facts.number(told.get("outside")) or 0),
        "untaught": int(facts.number(told.get("untaught")) or 0),
        "figures": [
            (title, _figure(told.get("accuracy"), key), _figure(predictor.get("accuracy"), key))
            for key, title in (
                ("mape", "mean error"),
                ("within_10", "off by at most 10 %"),
                ("kendall", "order (Kendall's tau)"),
            )
        ]
        if facts.table(told.get("accuracy"))
        else [],
    }


def _figure(accuracy: object, key: str) -> tuple[str, str]:
    """A figure of accuracy and its interval, in words."""
    estimate = facts.numbers(facts.table(accuracy).get(key))
    if "value" not in estimate:
        return words.MISSING, ""
    said = {
        name: f"{value:.2f}" if key == "kendall" else words.share(value) for name, value in estimate.items()
    }
    return said["value"], f"{said['low']} to {said['high']}" if {"low", "high"} <= said.keys() else ""


def _breakdown(told: Mapping[str, Any]) -> dict[str, Any]:
    said = facts.table(told.get("breakdown"))
    layers = [layer for row in facts.rows(said.get("layers")) if (layer := _layer(row)) is not None]
    total = sum(layer.ms for layer in layers)
    if total <= 0:
        return {}
    kinds = _kinds(layers)
    spent = dict.fromkeys(kinds, 0.0)
    for layer in layers:
        spent[kinds[_colour(layer, kinds)]] += layer.ms
    found: dict[str, Any] = {
        "bars": Markup(bars(layers, kinds)),
        "source": str(said.get("source") or ""),
        "total": total,
        "kinds": [
            (Markup(_swatch(kinds.index(kind))), kind, ms, ms / total) for kind, ms in spent.items() if ms > 0
        ],
    }
    roof = facts.numbers(said.get("roof"))
    drawn = [layer for layer in layers if layer.intensity and layer.rate]
    if drawn:
        found["roofline"] = Markup(roofline(drawn, kinds, roof))
        if _is_roof(roof):
            found["roof"] = roof
            found["roof_source"] = str(facts.table(said.get("roof")).get("source") or "")
    return found


def _layer(row: Mapping[str, Any]) -> Layer | None:
    ms, macs, moved = (facts.number(row.get(key)) for key in ("ms", "macs", "bytes"))
    if ms is None or ms < 0:
        return None
    known = macs and moved and ms > 0
    return Layer(
        name=str(row.get("name")),
        kind=str(row.get("kind")),
        ms=ms,
        intensity=macs / moved if known and macs and moved else None,
        rate=macs / ms / 1e6 if known and macs else None,
    )


def _kinds(layers: Sequence[Layer]) -> list[str]:
    """The kinds of kernels that take most, and one for all others if there are too many."""
    spent: dict[str, float] = {}
    for layer in layers:
        spent[layer.kind] = spent.get(layer.kind, 0.0) + layer.ms
    ranked = sorted(spent, key=lambda kind: -spent[kind])
    return ranked if len(ranked) <= COLOURS else [*ranked[: COLOURS - 1], OTHERS]


def agreement(pairs: Sequence[Sequence[float]]) -> str:
    """Predictions to the right, with their intervals, against measurements upwards: (trial, predicted, deviation,
    measured), in milliseconds. On the line they agree; in the band they are off by at most 10 %."""
    width, height, left, right, top, bottom = 400, 340, 56, 14, 28, 40
    values = [value for _, predicted, _, measured in pairs for value in (predicted, measured)]
    low, high = min(values) * 0.9, max(values) * 1.1
    log = high > 8 * low
    across, up = Scale(low, high, left, width - right, log), Scale(low, high, height - bottom, top, log)
    over, under = 1 + NEAR, 1 - NEAR
    band = [
        (low, low),
        (low, low * over),
        (high / over, high),
        (high, high),
        (high, high * under),
        (low / under, low),
    ]
    edge = " ".join(f"{across(x)},{up(y)}" for x, y in band)
    parts = [
        '<text class="title" x="2" y="14">↑ measured, ms</text>',
        f'<text class="title" x="{width - right}" y="{height - 4}" text-anchor="end">predicted, ms →</text>',
        figures.grid(across, up, "value_s", "value_s"),
        f'<polygon class="near" points="{edge}"/>',
        f'<path class="even" d="M{across(low)},{up(low)}L{across(high)},{up(high)}"/>',
    ]
    for trial, predicted, deviation, measured in pairs:
        ends = [across(min(max(predicted + side * 2 * deviation, low), high)) for side in (-1, 1)]
        spot = (across(predicted), up(measured))
        parts.append(f'<path class="whisker" d="M{ends[0]},{spot[1]}H{ends[1]}"/>')
        title = (
            f"trial-{trial:.0f}: predicted {words.digits(predicted)} ms, measured {words.digits(measured)} ms"
        )
        parts.append(
            f'<path class="dot front" d="M{spot[0]},{spot[1]}{figures.circle(4)}"><title>{title}</title></path>'
        )
    return _svg(width, height, "Measured against predicted latency", parts)


def bars(layers: Sequence[Layer], kinds: Sequence[str]) -> str:
    """One column for each kernel, in the order they run, as high as the time it takes."""
    width, height, left, right, top, bottom = 760, 190, 56, 10, 28, 26
    step = (width - left - right) / len(layers)
    up = Scale(0.0, 1.05 * max(layer.ms for layer in layers) or 1.0, height - bottom, top)
    across = Scale(0.0, float(len(layers)), left, width - right)
    parts = ['<text class="title" x="2" y="14">↑ milliseconds</text>']
    for value in up.ticks(4):
        parts.append(f'<path class="grid" d="M{left},{up(value)}H{width - right}"/>')
        parts.append(f'<text x="{left - 8}" y="{up(value) + 4}" text-anchor="end">{value:g}</text>')
    for index, layer in enumerate(layers):
        tall = height - bottom - up(layer.ms)
        title = f"{layer.name}: {layer.kind}, {words.digits(layer.ms)} ms"
        parts.append(
            f'<rect class="k{_colour(layer, kinds)}" x="{across(float(index)):.1f}" y="{up(layer.ms)}"'
            f' width="{max(1.0, step - (1 if step > 3 else 0)):.1f}" height="{max(tall, 0.5):.1f}">'
            f"<title>{escape(title)}</title></rect>"
        )
    parts.append(f'<path class="frame" d="M{left},{height - bottom}H{width - right}"/>')
    parts.append(f'<text x="{left}" y="{height - 8}">first</text>')
    parts.append(f'<text x="{width - right}" y="{height - 8}" text-anchor="end">last kernel</text>')
    return _svg(width, height, "Time of each kernel of the shipped network", parts)


def roofline(layers: Sequence[Layer], kinds: Sequence[str], roof: Mapping[str, float]) -> str:
    """Kernels by multiply-adds for each byte and by the rate they reach, both logarithmic; the larger the mark, the
    more of the time it takes. The roof is what memory, to the left, and arithmetic, to the right, allow at most."""
    width, height, left, right, top, bottom = 400, 340, 56, 14, 28, 40
    intensities = [layer.intensity or 0.0 for layer in layers]
    rates = [layer.rate or 0.0 for layer in layers]
    lowest, highest = min(rates) / 2, max(rates) * 2
    least, most = min(intensities) / 2, max(intensities) * 2
    if _is_roof(roof):
        ridge = roof["gmacs"] / roof["memory_gbs"]
        least, most = min(least, ridge / 2), max(most, ridge * 2)
        highest = max(highest, roof["gmacs"] * 1.5)
    across = Scale(least, most, left, width - right, log=True)
    up = Scale(lowest, highest, height - bottom, top, log=True)
    parts = [
        '<text class="title" x="2" y="14">↑ billion multiply-adds a second</text>',
        f'<text class="title" x="{width - right}" y="{height - 4}" text-anchor="end">'
        "multiply-adds for each byte →</text>",
        figures.grid(across, up, "value_s", "value_s"),
    ]
    if _is_roof(roof):
        peak = roof["gmacs"]
        for kind, slope in (("cache", roof.get("cache_gbs", 0.0)), ("memory", roof["memory_gbs"])):
            if slope > 0:
                start = min(max(least, lowest / slope), peak / slope)
                line = (
                    f"M{across(start)},{up(start * slope)}L{across(peak / slope)},{up(peak)}H{across(most)}"
                )
                parts.append(f'<path class="roof {kind}" d="{line}"/>')
    total = sum(layer.ms for layer in layers)
    for layer in sorted(layers, key=lambda one: -one.ms):
        radius = 3 + 9 * math.sqrt(layer.ms / total)
        title = (
            f"{layer.name}: {layer.kind}, {words.digits(layer.ms)} ms, {words.digits(layer.rate or 0)} billion"
            f" multiply-adds a second at {words.digits(layer.intensity or 0)} for each byte"
        )
        mark = f"M{across(layer.intensity or least)},{up(layer.rate or lowest)}{figures.circle(round(radius, 1))}"
        parts.append(
            f'<path class="spot k{_colour(layer, kinds)}" d="{mark}"><title>{escape(title)}</title></path>'
        )
    return _svg(width, height, "Kernels of the shipped network under the device's roof", parts)


def _is_roof(roof: Mapping[str, float]) -> bool:
    return all(roof.get(key, 0.0) > 0 for key in ("gmacs", "memory_gbs"))


def _colour(layer: Layer, kinds: Sequence[str]) -> int:
    return list(kinds).index(layer.kind) if layer.kind in kinds else len(kinds) - 1


def _swatch(index: int) -> str:
    return (
        '<svg class="figure" width="14" height="14" viewBox="0 0 14 14" aria-hidden="true">'
        f'<rect class="k{index}" width="14" height="14" rx="3"/></svg>'
    )


def _svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg class="figure" viewBox="0 0 {width} {height}" role="img"><title>{escape(title)}</title>'
        f"{''.join(parts)}</svg>"
    )


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _numbers(row: object) -> list[float]:
    """The row's numbers; fewer than it has entries if one of them is none, or a time that is not above 0."""
    found = [facts.number(value) for value in _listed(row)]
    if len(found) == 4 and all(value is not None and value > 0 for value in (found[1], found[3])):
        return [value for value in found if value is not None]
    return []
