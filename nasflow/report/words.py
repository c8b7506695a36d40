"""Numbers and results in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nasflow.report import facts
from nasflow.report.facts import Network, Summary

MISSING = "–"
CHANGING = {
    "flops": "FLOPs",
    "latency_ms": "latency",
    "size_kb": "size",
    "error": "error",
}  # told of a compression


@dataclass(frozen=True)
class Answer:
    """Which network to ship and why: a headline, full sentences, and how the news is (good, bad, waiting)."""

    headline: str
    sentences: tuple[str, ...]
    tone: str  # "good", "bad" or "wait"


def answer(summary: Mapping[str, Any]) -> str:
    """Which network to ship and why, as plain text."""
    found = result(facts.plain(summary))
    return " ".join((f"{found.headline}.", *found.sentences))


def result(summary: Summary) -> Answer:
    """The answer of a run at whatever point it is."""
    chosen = facts.shipped(summary)
    status, message = summary.get("status"), tuple(map(capital, sentence(summary.get("message"))))
    if status == "infeasible":
        headline = "Nothing to ship: no network meets every limit"
        return Answer(headline, (*message, *_nearest(summary)), "bad")
    if chosen is not None and status != "failed":
        if violated := broken(shipped_entry(summary)):
            headline = f"{chosen.name} was chosen, but violates a limit"
            return Answer(headline, (*message, *violated, *_reasons(summary, chosen)), "bad")
        return Answer(f"Ship {chosen.name}", tuple(_reasons(summary, chosen)), "good")
    if status == "failed":
        return Answer("The run stopped before it was done", (*message, *_so_far(summary)), "bad")
    if status == "running":
        stage = running(summary)
        return Answer(f"Still at work{f': {stage}' if stage else ''}", (*message, *_so_far(summary)), "wait")
    return Answer("Nothing was deployed", (*message, *_so_far(summary)), "wait")


def change(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """What became of a network, in one line: what it costs, as measured, and what that took from its answers.

    >>> before = {"error": 0.08, "flops": 200.0, "latency_ms@pi": 1.0}
    >>> change(before, {"error": 0.087, "flops": 104.0, "latency_ms@pi": 0.69})
    'FLOPs -48 %, latency on pi -31 %, error +0.7 points'
    >>> change(before, {**before, "latency_ms@pi": 0.81})
    'same FLOPs, latency on pi -19 %, same error'
    """
    said = []
    for metric, label in CHANGING.items():
        for name in [name for name in before if name.partition("@")[0] == metric and name in after]:
            device = name.partition("@")[2]
            what = f"{label} on {device}" if device else label
            if metric == "error":
                by = f"{100 * (after[name] - before[name]):+.1f} points"
            elif before[name] > 0:
                by = f"{round(100 * (after[name] / before[name] - 1)):+d} %"
            else:
                continue
            said.append(f"same {what}" if by in ("+0 %", "+0.0 points", "-0.0 points") else f"{what} {by}")
    return ", ".join(said)


def policy(said: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a policy of compression does, and where: channels kept, blocks that are gone, precisions.

    >>> policy({"channels.stem": 0.5, "channels.conv": 1.0, "block.last": False, "precision.stem": "int8"})
    [('50 % of the channels in', 'stem'), ('all channels in', 'conv'), ('without', 'last'), ('int8 in', 'all layers')]
    """
    done: dict[str, list[str]] = {}
    gone = tuple(
        f"{name.partition('.')[2]}." for name in said if name.startswith("block.") and said[name] is False
    )
    for name, value in said.items():
        kind, _, where = name.partition(".")
        kept = facts.number(value)
        if where.startswith(gone):
            continue  # it went with the block
        if kind == "channels" and kept is not None:
            how = "all channels in" if kept == 1 else f"{100 * kept:.0f} % of the channels in"
        elif kind == "block" and isinstance(value, bool):
            how = "without" if not value else ""
        elif kind == "precision":
            how = f"{value} in"
        else:
            how, where = name, str(value)
        done.setdefault(how, []).append(where)
    done.pop("", None)
    precisions = [
        how for name, value in said.items() if name.startswith("precision.") for how in [f"{value} in"]
    ]
    if len(set(precisions)) == 1:
        done[precisions[0]] = ["all layers"]
    return [(how, ", ".join(where)) for how, where in done.items()]


def running(summary: Summary) -> str:
    """The name of the stage that runs now, "" if none does."""
    stages = facts.table(summary.get("stages"))
    return next((name for name, stage in stages.items() if facts.table(stage).get("status") == "running"), "")


def shipped_entry(summary: Summary) -> dict[str, Any]:
    """What deploy wrote about the network that is shipped, empty if there is none."""
    return next((entry for entry in facts.rows(summary.get("deployed")) if entry.get("shipped")), {})


def broken(entry: Mapping[str, Any]) -> list[str]:
    """Every limit that a deployed network violates, as sentences."""
    violated = [limit for limit in facts.rows(entry.get("limits")) if not limit.get("holds")]
    return [
        f"{capital(facts.metric(name).label)} is {amount(name, facts.number(limit.get('value')))}, "
        f"the limit is {bound(name, facts.number(limit.get('limit')))}."
        for limit, name in ((limit, str(limit.get("metric"))) for limit in violated)
    ]


def _reasons(summary: Summary, chosen: Network) -> tuple[str, ...]:
    entry = shipped_entry(summary)
    test, validation = facts.number(entry.get("test_error")), chosen.metrics.get("error")
    known = [
        f"{amount('error', value)} error on the {data} data"
        for data, value in (("test", test), ("validation", validation))
        if value is not None
    ][:1]
    costs = []
    for device in facts.table(entry.get("latency")):
        named = (f"{quantity}@{device}" for quantity in facts.MEASURED)
        amounts = [amount(name, chosen.metrics[name]) for name in named if name in chosen.metrics]
        costs += [f"{', '.join(amounts)} on {device}"] if amounts else []
    parts = " at ".join([*known, *([" and ".join(costs)] if costs else [])])
    versus = _versus(summary, chosen)
    first = f"{parts}{', ' if parts and versus else ''}{versus}"
    why = sentence(facts.table(summary.get("choice")).get("why"))
    made = facts.deployed(summary, facts.origin(summary, chosen.name))
    saved = change(made.metrics, chosen.metrics) if made is not None and made.name != chosen.name else ""
    return (
        *([f"{capital(first)}."] if first else []),
        *([f"{saved} against {made.name}, as deployed."] if made is not None and saved else []),
        *([f"Why this one: {why[0]}"] if why else []),
    )


def _versus(summary: Summary, chosen: Network) -> str:
    """The chosen network against the most accurate one of the search, on the same kind of error, and as deployed where
    it was."""
    error = facts.metric("error")
    rival = facts.best(facts.front(summary), error)
    rival = rival and (facts.deployed(summary, rival.name) or rival)
    if rival is None or "error" not in chosen.metrics:
        return ""
    gap = 100 * (chosen.metrics["error"] - rival.metrics["error"])
    if abs(gap) < 0.05:
        cost = "at the same validation error"
    else:
        cost = f"for {abs(gap):.1f} points {'more' if gap > 0 else 'less'} validation error"
    name = next((one.name for one in facts.metrics(summary) if one.name.startswith("latency_ms@")), "")
    ours, theirs = chosen.metrics.get(name), rival.metrics.get(name)
    if own := facts.table(facts.table(summary.get("experiment")).get("model")):
        who = f"{rival.name}, your {own.get('name')}"
        if rival.name == chosen.name:
            return "your network as it is"
    elif rival.name == facts.origin(summary, chosen.name):
        who = f"the most accurate network of the search, {rival.name}, from which it was made"
        if rival.name == chosen.name:
            return "the most accurate network of the search"
    else:
        who = f"the most accurate network of the search, {rival.name}"
    if not ours or not theirs:
        return f"{cost} than {who}" if abs(gap) >= 0.05 else f"{cost} as {who}"
    pace = "faster" if ours < theirs else "slower"
    numbers = f"{amount('error', rival.metrics['error'])}, {amount(name, theirs)}"
    if sum(one.name.startswith("latency_ms@") for one in facts.metrics(summary)) > 1:
        pace += f" on {facts.metric(name).device}"
    return f"{times(max(ours, theirs) / min(ours, theirs))} {pace} than {who} ({numbers}), {cost}"


def _so_far(summary: Summary) -> tuple[str, ...]:
    members = facts.front(summary)
    if not members:
        return ("No network has been measured yet.",)
    first = f"{count(len(members), 'network is', 'networks are')} on the front so far."
    balanced = facts.knee(summary)
    if balanced is None:
        return (first,)
    known = [one for one in facts.metrics(summary) if one.name in balanced.metrics][:3]
    listed = ", ".join(f"{one.label} {amount(one.name, balanced.metrics[one.name])}" for one in known)
    return (first, f"The best balance (the knee) is {balanced.name}: {listed}, after the search's training.")


def _nearest(summary: Summary) -> tuple[str, ...]:
    """For every limit the best value that was seen: how far away the run was."""
    seen = facts.networks(summary)
    lines = []
    for goal in facts.metrics(summary):
        closest = facts.best(seen, goal)
        if goal.limit is not None and closest is not None:
            value = closest.metrics[goal.name]
            fits = "" if goal.better(goal.limit, value) else ", but not together with the other limits"
            side = "at least" if goal.goal == "max" else "at most"
            lines.append(
                f"Wanted: {goal.label} {side} {bound(goal.name, goal.limit)}; "
                f"best seen: {amount(goal.name, value)} ({closest.name}){fits}."
            )
    return tuple(lines)


def amount(name: str, value: float | None) -> str:
    """A value of a metric with its unit.

    >>> amount("error", 0.0194), amount("latency_ms@pixel6", 0.0412), amount("flops", 1234567.0)
    ('1.9 %', '0.0412 ms', '1.23 M')
    """
    if value is None:
        return MISSING
    unit = facts.metric(name).unit
    if unit == "%":
        return share(value)
    if unit in ("kB", "MB") and abs(value) >= 1000:
        return f"{digits(value / 1000)} {'MB' if unit == 'kB' else 'GB'}"
    return f"{digits(value)} {unit}" if unit else magnitude(value)


def bound(name: str, value: float | None) -> str:
    """A limit as a person typed it: without the zeros that a measured value keeps.

    >>> bound("latency_ms@pixel6", 0.15), bound("flops", 2.5e6), bound("error", 0.02)
    ('0.15 ms', '2.5 M', '2 %')
    """
    told, space, unit = amount(name, value).partition(" ")
    return f"{told.rstrip('0').rstrip('.') if '.' in told else told}{space}{unit}"


def share(value: float) -> str:
    """A share of one as per cent, finer where it is small.

    >>> share(0.0194), share(0.00431), share(1.0)
    ('1.9 %', '0.43 %', '100 %')
    """
    percent = 100 * value
    return f"{percent:.0f} %" if percent in (0, 100) else f"{percent:.{2 if abs(percent) < 1 else 1}f} %"


def digits(value: float) -> str:
    """A number with three significant digits, without an exponent where people read it easily.

    >>> digits(0.04123), digits(12.3456), digits(12345.6), digits(1.5e-7), digits(0)
    ('0.0412', '12.3', '12,346', '1.5e-07', '0')
    """
    if value == 0:
        return "0"
    if not 1e-4 <= abs(value) < 1e9:
        return f"{value:.3g}"
    return f"{value:,.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def magnitude(value: float) -> str:
    """A count in thousands, millions and so on.

    >>> magnitude(950.0), magnitude(48200), magnitude(568740352)
    ('950', '48.2 k', '569 M')
    """
    for size, suffix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{digits(value / size)} {suffix}"
    return digits(value).removesuffix(".00") if value != int(value) else f"{value:.0f}"


def times(ratio: float) -> str:
    return f"{ratio:.{2 if ratio < 1.15 else 1}f}×"


def duration(seconds: float | None) -> str:
    """A time span as people say it.

    >>> duration(0.42), duration(96.4), duration(7450)
    ('0.4 s', '1 min 36 s', '2 h 4 min')
    """
    if seconds is None:
        return MISSING
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def sentence(text: object) -> tuple[str, ...]:
    """The text as a sentence, nothing if there is none."""
    said = str(text).strip() if text else ""
    return (f"{said}{'' if said[-1] in '.!?' else '.'}",) if said else ()


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
