"""The report page: the summary's facts laid out as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

import jinja2
import yaml
from markupsafe import Markup

from nasflow.report import facts, figures, latency, words
from nasflow.report.facts import Metric, Network, Summary

CHOICES_SHOWN = 40  # networks in the table of choices; a front in many objectives can have a thousand members
FRONT_SHOWN = 300
CURVES_SHOWN = 6
STEPS_TELL = (*words.CHANGING, "sparsity")  # and the objectives


def render(summary: Mapping[str, Any]) -> str:
    """The report of a run as one self-contained HTML page.

    `summary` is the content of summary.json; whatever is missing in it is left out of the page. Names and
    messages are escaped, and the page's policy lets no script run but its own.
    """
    known = facts.plain(summary)
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    page: str = _template().render(
        summary=known,
        answer=words.result(known),
        style=Markup(figures.style() + _file("page.css")),
        script=Markup(script),
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:",
        **_front(known),
        tiles=_tiles(known),
        warnings=_warnings(known),
        deployed=_deployed(known),
        latency=latency.panels(known),
        compression=_compression(known),
        **_search(known),
        **_retrained(known),
        stages=_stages(known),
        data=_data(known),
        environment=list(_flat(facts.table(known.get("environment")))),
        experiment=_yaml(known.get("experiment")),
    )
    return page


@cache
def _template() -> jinja2.Template:
    """The page's layout, read and compiled once: that takes longer than filling it in."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.ChainableUndefined
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}  # in order, and compact
    environment.filters.update(
        amount=lambda value, name: words.amount(str(name), facts.number(value)),
        bound=lambda value, name: words.bound(str(name), facts.number(value)),
        digits=lambda value: _maybe(value, words.digits),
        share=lambda value: _maybe(value, words.share),
        duration=lambda value: words.duration(facts.number(value)),
        label=lambda name: facts.metric(str(name)).label,
        number=lambda value: "" if facts.number(value) is None else facts.number(value),
        count=lambda value, one, many: words.count(int(facts.number(value) or 0), one, many),
        href=_href,
        marker=lambda kind: Markup(figures.marker(kind)),
        stroke=lambda index: Markup(figures.stroke(index)),
        verdict=lambda reason: words.capital(
            str(reason or "").removeprefix("refused:").removeprefix("accepted:").strip()
        ),
    )
    return environment.from_string(_file("page.html"))


def _file(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


def _maybe(value: object, form: Any) -> str:
    known = facts.number(value)
    return words.MISSING if known is None else str(form(known))


def _href(path: object) -> str:
    """A link to a file of the run folder; no text can turn it into a link to elsewhere or into a script."""
    parts = [part for part in str(path).replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "./" + quote("/".join(parts))


def _front(summary: Summary) -> dict[str, Any]:
    known, members = facts.metrics(summary), facts.front(summary)
    axes = figures.default_axes(known)
    leaders = {one.name: facts.best(members, one) for one in known}
    shown = [one for one in known if any(one.name in member.metrics for member in members)]
    origin = getattr(facts.shipped(summary), "name", "")
    accurate = facts.best(members, facts.metric("error"))
    doubts = latency.doubts(summary)
    table = [
        {
            "name": member.name,
            "badges": [
                word
                for word, true in (
                    ("knee", member.knee),
                    ("parent of the shipped", member.name == facts.origin(summary, origin) != origin),
                    ("most accurate", member is accurate and len(members) > 1),
                )
                if true
            ],
            "doubts": doubts.get(member.name, []),
            "cells": [
                (one.name, member.metrics.get(one.name), member is leaders[one.name] and len(members) > 1)
                for one in shown
            ],
        }
        for member in members[:FRONT_SHOWN]
    ]
    everything = facts.networks(summary)
    present = {one.kind for one in everything}
    return {
        "metrics": known,
        "axes": axes,
        "front": table,
        "front_size": len(members),
        "front_columns": shown,
        "choices": _choices(members),
        "chart": Markup(figures.scatter(summary)),
        "chart_data": _chart_data(known, everything, axes),
        "legend": [
            (kind, text, sum(one.kind == kind for one in everything))
            for kind, text in facts.KINDS.items()
            if kind in present
        ],
    }


def _chart_data(
    known: Sequence[Metric], everything: Sequence[Network], axes: tuple[Metric, Metric] | None
) -> dict[str, Any]:
    """What the page's script draws: columns rather than records, which is a third of the size."""
    names = [one.name for one in known]

    def column(metrics: Mapping[str, float]) -> list[float | None]:
        return [float(f"{metrics[name]:.6g}") if name in metrics else None for name in names]

    return {
        "metrics": [
            {"label": one.label, "unit": one.unit, "goal": one.goal, "limit": one.limit} for one in known
        ],
        "x": names.index(axes[0].name) if axes else -1,
        "y": names.index(axes[1].name) if axes else -1,
        "shapes": figures.outlines(),
        "kinds": facts.KINDS,
        "name": [one.name for one in everything],
        "kind": [one.kind for one in everything],
        "value": [column(one.metrics) for one in everything],
        "knee": [index for index, one in enumerate(everything) if one.knee],
        "before": {index: column(one.before) for index, one in enumerate(everything) if one.before},
        "choices": {index: one.choices for index, one in enumerate(everything) if one.choices},
        "notes": {
            index: [note for note in one.notes if note] for index, one in enumerate(everything) if one.notes
        },
    }


def _choices(members: Sequence[Network]) -> dict[str, Any]:
    """The choices in which the front's networks differ, and those they all share."""
    shown = [one for one in members if one.choices][:CHOICES_SHOWN]
    names = list(dict.fromkeys(name for one in shown for name in one.choices))
    table = {name: [one.choices.get(name, words.MISSING) for one in shown] for name in names}
    return {
        "networks": [one.name for one in shown],
        "of": sum(bool(one.choices) for one in members),
        "different": [(name, row) for name, row in table.items() if any(value != row[0] for value in row)],
        "same": [(name, row[0]) for name, row in table.items() if all(value == row[0] for value in row)],
    }


def _tiles(summary: Summary) -> list[tuple[str, str, str]]:
    """The shipped file's figures: (what, value, small print)."""
    entry = words.shipped_entry(summary)
    tiles = []
    test, validation = facts.number(entry.get("test_error")), facts.number(entry.get("validation_error"))
    if test is not None:
        small = f"{words.share(validation)} on the validation data" if validation is not None else ""
        tiles.append(("error on the test data", words.share(test), small))
    elif validation is not None:
        tiles.append(("error on the validation data", words.share(validation), "not opened on the test data"))
    for device, cost in facts.table(entry.get("latency")).items():
        p50, p90 = (facts.number(facts.table(cost).get(key)) for key in ("p50_ms", "p90_ms"))
        if p50 is not None:
            small = f"median; nine of ten within {words.digits(p90)} ms" if p90 is not None else "median"
            tiles.append((f"on {device}", f"{words.digits(p50)} ms", small))
    size = facts.number(entry.get("size_kb"))
    if size is not None:
        tiles.append(("model file", words.amount("size_kb", size), str(entry.get("file") or "")))
    limits = facts.rows(entry.get("limits"))
    if limits:
        held = sum(bool(limit.get("holds")) for limit in limits)
        verdict = "every limit checked on the exported file" if held == len(limits) else "a limit is violated"
        tiles.append(("limits hold", f"{held} of {len(limits)}", verdict))
    return tiles


def _warnings(summary: Summary) -> list[str]:
    """What a reader must know before trusting the answer."""
    source = facts.origin(summary, str(words.shipped_entry(summary).get("name")))  # it is why a limit was set
    others = [
        entry
        for entry in facts.rows(summary.get("deployed"))
        if not entry.get("shipped") and entry.get("name") != source
    ]
    found = [
        f"{entry.get('name')} violates a limit. {text}" for entry in others for text in words.broken(entry)
    ]
    for name, stage in facts.table(summary.get("stages")).items():
        if facts.table(stage).get("status") == "failed":
            reason = words.sentence(facts.table(stage).get("message"))
            found.append(f"Stage {name} failed{': ' if reason else '.'}{''.join(reason)}")
    skipped = facts.numbers(facts.table(summary.get("data")).get("skipped"))
    found.extend(
        f"Data skipped: {words.count(int(number), 'item', 'items')} ({reason})."
        for reason, number in skipped.items()
        if number
    )
    return [*found, *latency.warnings(summary)]


def _deployed(summary: Summary) -> list[dict[str, Any]]:
    found = []
    for entry in facts.rows(summary.get("deployed")):
        latency = [
            {
                "device": device,
                **facts.table(cost),
                "interval": _interval(facts.table(cost).get("ci")),
                "histogram": _histogram(facts.table(cost)),
            }
            for device, cost in facts.table(entry.get("latency")).items()
        ]
        found.append(
            {
                **entry,
                "latency": latency,
                "limits": facts.rows(entry.get("limits")),
                "parity": facts.table(entry.get("parity")),
            }
        )
    return sorted(found, key=lambda entry: not entry.get("shipped"))


def _samples(value: object) -> list[float]:
    listed = value if isinstance(value, list) else []
    return [sample for sample in map(facts.number, listed) if sample is not None]


def _interval(value: object) -> str:
    ends = _samples(value)
    return f"{words.digits(ends[0])} to {words.digits(ends[1])} ms" if len(ends) == 2 else ""


def _histogram(cost: Mapping[str, Any]) -> Markup:
    p50, p90 = facts.number(cost.get("p50_ms")), facts.number(cost.get("p90_ms"))
    return Markup(figures.histogram(_samples(cost.get("samples_ms")), p50, p90, _samples(cost.get("ci"))))


def _compression(summary: Summary) -> dict[str, Any]:
    steps = facts.rows(summary.get("compression"))
    names = {
        name: None for step in steps for side in ("before", "after") for name in facts.numbers(step.get(side))
    }
    known = {one.name: one for one in facts.metrics(summary)}
    asked = {str(goal.get("metric")) for goal in facts.rows(summary.get("objectives"))}
    told = [name for name in names if name in asked or name.partition("@")[0] in STEPS_TELL]
    columns = sorted(told, key=lambda name: (not name.startswith("latency_ms"), name != "error"))
    table = []
    for step in steps:
        before, after = facts.numbers(step.get("before")), facts.numbers(step.get("after"))
        table.append(
            {
                **step,
                "change": words.change(before, after),
                "cells": [
                    _change(known.get(name, facts.metric(name)), before.get(name), after.get(name))
                    for name in columns
                ],
                "policy": words.policy(facts.table(step.get("policy"))),
            }
        )
    return {
        "columns": columns,
        "steps": table,
        "accepted": sum(bool(step.get("accepted")) for step in steps),
        "time": [
            _spent(device, facts.table(said)) for device, said in facts.table(summary.get("time")).items()
        ],
    }


def _spent(device: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """Milliseconds by kind of kernel before and after compression, those first that took most."""
    before, after = facts.numbers(said.get("before")), facts.numbers(said.get("after"))
    kinds = sorted(before | after, key=lambda kind: -max(before.get(kind, 0.0), after.get(kind, 0.0)))
    rows = [(kind, before.get(kind, 0.0), after.get(kind, 0.0)) for kind in kinds]
    rows.append(("all kernels", sum(before.values()), sum(after.values())))
    told = [(*row, f"{100 * (row[2] / row[1] - 1):+.0f} %" if row[1] else "new") for row in rows]
    return {"device": device, "original": str(said.get("original") or ""), "rows": told}


def _change(one: Metric, before: float | None, after: float | None) -> dict[str, str]:
    """One metric before and after a step: both numbers, the change, and whether it is for the better."""
    change, news = "", ""
    if before is not None and after is not None:
        news = "good" if one.better(after, before) else "bad"
        if one.unit == "%":
            change = f"{100 * (after - before):+.1f} points"
            news = "" if change[1:] == "0.0 points" else news
        elif before > 0:
            change = f"{after / before:.2f}×"
            news = "" if change == "1.00×" else news
    return {
        "before": words.amount(one.name, before),
        "after": words.amount(one.name, after),
        "change": change,
        "news": news,
    }


def _search(summary: Summary) -> dict[str, Any]:
    trials = facts.table(summary.get("trials"))
    counts = facts.numbers(trials)
    points = facts.rows(summary.get("points"))
    counts["short"] = sum(facts.short(entry) and entry.get("state") == "done" for entry in points)
    counts["done"] = counts.get("done", 0) - counts["short"]
    told = [
        (int(counts[key]), text)
        for key, text in (
            ("done", "trained and measured"),
            ("short", "trained for a part of the time, to choose by"),
            ("refused", "refused before training, over a limit"),
            ("duplicate", "met before, answered from the record"),
            ("failed", "failed"),
        )
        if counts.get(key)
    ]
    volume = facts.table(summary.get("hypervolume"))
    curve = [(float(index + 1), value) for index, value in enumerate(_samples(volume.get("curve")))]
    thinned = curve if len(curve) <= 1000 else [*curve[:: len(curve) // 1000 + 1], curve[-1]]
    figure = figures.lines([thinned], "networks measured", "hypervolume", area=True) if curve else ""
    return {
        "counts": told,
        "failures": sorted(facts.numbers(trials.get("failures")).items(), key=lambda pair: -pair[1]),
        "hypervolume": Markup(figure),
        "volume": words.digits(curve[-1][1]) if curve else "",
        "reference": list(facts.numbers(volume.get("reference")).items()),
    }


def _retrained(summary: Summary) -> dict[str, Any]:
    entries = facts.rows(summary.get("retrained"))
    curves = [_curve(entry.get("curve")) for entry in entries]
    shown = list(zip(entries, curves, strict=True))[:CURVES_SHOWN]
    table = []
    for index, entry in enumerate(entries):
        errors = _samples(entry.get("errors"))
        table.append(
            {**entry, "errors": errors, "stroke": index if index < CURVES_SHOWN and curves[index] else None}
        )
    wanted = ((2, "validation error, %", True), (1, "training loss", False))
    drawn = [
        figures.lines(
            [[(row[0], value) for row in curve if (value := row[column]) is not None] for _, curve in shown],
            "epoch",
            title,
            percent,
            log=True,
        )
        for column, title, percent in wanted
        if any(row[column] is not None for _, curve in shown for row in curve)
    ]
    return {"retrained": table, "curves": [Markup(figure) for figure in drawn if figure]}


def _curve(value: object) -> list[tuple[float, float | None, float | None]]:
    """Rows of (epoch, training loss, validation error); what is not a number is None."""
    found: list[tuple[float, float | None, float | None]] = []
    for row in value if isinstance(value, list) else []:
        cells = [facts.number(cell) for cell in row] if isinstance(row, list) else []
        epoch, loss, error, *_ = (*cells, None, None, None)
        if epoch is not None:
            found.append((epoch, loss, error))
    return found


def _stages(summary: Summary) -> dict[str, Any]:
    listed = [(name, facts.table(stage)) for name, stage in facts.table(summary.get("stages")).items()]
    spent = [facts.number(stage.get("seconds")) or 0.0 for _, stage in listed]
    longest = max(spent, default=0.0) or 1.0
    return {
        "rows": [
            {"name": name, **stage, "part": round(100 * seconds / longest, 1)}
            for (name, stage), seconds in zip(listed, spent, strict=True)
        ],
        "total": facts.number(summary.get("seconds")),
    }


def _data(summary: Summary) -> list[tuple[str, str]]:
    data = facts.table(summary.get("data"))
    found = []
    for key, value in data.items():
        if key == "shape" and isinstance(value, list):
            found.append(("input shape", " × ".join(map(str, value))))
        elif key == "skipped":
            skipped = [(reason, int(number)) for reason, number in facts.numbers(value).items() if number]
            text = "; ".join(f"{number:,} {reason}" for reason, number in skipped)
            found.append(("skipped", text or "nothing"))
        elif isinstance(value, int) and not isinstance(value, bool):
            found.append((key, f"{value:,}"))
        else:
            found.append((key, str(value)))
    return found


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Nested settings as dotted names and their values."""
    for name, inner in value.items():
        if isinstance(inner, Mapping):
            yield from _flat(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", ", ".join(map(str, inner)) if isinstance(inner, list) else str(inner)


def _yaml(experiment: object) -> str:
    return str(yaml.safe_dump(experiment, sort_keys=False, allow_unicode=True)) if experiment else ""
