"""What a summary says, made comparable: its metrics, and every network it mentions with its numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

Summary = dict[str, Any]

UNITS = {"ms": "ms", "kb": "kB", "mb": "MB", "mj": "mJ", "s": "s"}
LABELS = {
    "flops": "multiply-adds",
    "params": "parameters",
    "size": "file size",
    "compute_intensity": "multiply-adds per byte",
}
MEASURED = {"latency_ms": "p50_ms", "energy_mj": "energy_mj", "throughput_per_s": "throughput_per_s"}
MORE_IS_BETTER = ("compute_intensity", "sparsity", "throughput_per_s")
COUNTS = ("flops", "params")
SHARES = ("error", "accuracy", "agreement", "sparsity")

# How a network stands in the run, from the most to the least interesting; each has its own marker.
KINDS = {
    "shipped": "shipped",
    "deployed": "deployed as well",
    "front": "on the front",
    "compressed": "compressed, accepted",
    "rejected": "compressed, refused",
    "searched": "other networks tried",
    "refused": "refused before training",
}


@dataclass(frozen=True)
class Metric:
    """One measured quantity: how it is called, in which unit, and which values are allowed.

    >>> metric("latency_ms@pixel6").label, metric("latency_ms@pixel6").unit
    ('latency on pixel6', 'ms')
    """

    name: str
    label: str
    unit: str  # "%", "ms", ...; "" for plain numbers and counts
    goal: str = "min"
    limit: float | None = None

    @property
    def device(self) -> str:
        return self.name.partition("@")[2]

    def better(self, a: float, b: float) -> bool:
        return a > b if self.goal == "max" else a < b


@dataclass(frozen=True)
class Network:
    """A network the run knows: where it comes from, its metrics, and its choices where they are known."""

    name: str
    kind: str  # one of KINDS
    metrics: Mapping[str, float]
    choices: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    knee: bool = False
    before: Mapping[str, float] | None = None  # the metrics it had before the step that made it


def plain(summary: Mapping[str, Any]) -> Summary:
    """A copy of the summary in dicts, lists and scalars alone, without NaN and infinity (None in their place)."""
    copy: Summary = json.loads(json.dumps(dict(summary), default=_scalar), parse_constant=lambda _: None)
    return copy


def _scalar(value: object) -> object:
    return dict(value) if isinstance(value, Mapping) else str(value)


def number(value: object) -> float | None:
    """The value as a finite number, None for anything else.

    >>> number(2), number(float("nan")), number("2"), number(True)
    (2.0, None, None, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def numbers(mapping: object) -> dict[str, float]:
    """The entries of a mapping that are finite numbers."""
    pairs = ((str(name), number(value)) for name, value in table(mapping).items())
    return {name: value for name, value in pairs if value is not None}


def table(value: object) -> dict[str, Any]:
    """The value if it is a mapping, else an empty one: parts of a running summary are missing or null."""
    return value if isinstance(value, dict) else {}


def rows(value: object) -> list[dict[str, Any]]:
    """The mappings in a list, without anything else that may stand there."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def metric(name: str, goal: str | None = None, limit: float | None = None) -> Metric:
    """What the name of a metric says about it: quantity, unit and device, and whether more of it is better."""
    base, _, device = name.partition("@")
    goal = goal or ("max" if base in MORE_IS_BETTER else "min")
    if base in SHARES or base.endswith(("_error", "_accuracy")):
        unit, quantity = "%", base
    elif base.endswith("_per_s"):
        unit, quantity = "/s", base.removesuffix("_per_s")
    elif base.rpartition("_")[2] in UNITS and "_" in base:
        quantity, _, suffix = base.rpartition("_")
        unit = UNITS[suffix]
    else:
        unit, quantity = "", base
    label = LABELS.get(quantity, quantity).replace("_", " ")
    return Metric(name, f"{label} on {device}" if device else label, unit, goal, limit)


def metrics(summary: Summary) -> tuple[Metric, ...]:
    """Every metric that some network has: the objectives first, in their order, then the others."""
    found = {
        str(goal["metric"]): metric(str(goal["metric"]), str(goal.get("goal")), number(goal.get("limit")))
        for goal in rows(summary.get("objectives"))
        if goal.get("metric")
    }
    seen = {name for network in networks(summary) for name in network.metrics}
    others = sorted(seen - found.keys())
    return (*(one for name, one in found.items() if name in seen), *(metric(name) for name in others))


def networks(summary: Summary) -> tuple[Network, ...]:
    """Every network with numbers: searched, on the front, compressed, deployed."""
    return (*_searched(summary), *_compressed(summary), *_deployed(summary))


def front(summary: Summary) -> tuple[Network, ...]:
    """The networks no other one beats in everything, most accurate first where error is known."""
    members = [network for network in _searched(summary) if network.kind == "front"]
    return tuple(sorted(members, key=lambda network: network.metrics.get("error", math.inf)))


def knee(summary: Summary) -> Network | None:
    return next((network for network in front(summary) if network.knee), None)


def shipped(summary: Summary) -> Network | None:
    return next((network for network in _deployed(summary) if network.kind == "shipped"), None)


def deployed(summary: Summary, name: str) -> Network | None:
    """The network of this name as it was deployed, at what its file was measured to be; None if it was not."""
    return next((network for network in _deployed(summary) if network.name == name), None)


def best(candidates: Iterable[Network], by: Metric) -> Network | None:
    """The network that is best in one metric, None if none of them has it."""
    able = [network for network in candidates if by.name in network.metrics]
    pick = max if by.goal == "max" else min
    return pick(able, key=lambda network: network.metrics[by.name]) if able else None


def origin(summary: Summary, name: str) -> str:
    """The name of the network that compression started from, the network's own if it was not compressed."""
    parents = {str(step.get("name")): str(step.get("parent")) for step in rows(summary.get("compression"))}
    for _ in range(len(parents)):  # bounded: a damaged record could name a network as its own ancestor
        if name not in parents:
            break
        name = parents[name]
    return name


def short(entry: Mapping[str, Any]) -> bool:
    """Whether a trial was trained for a part of the time only, so that its error stands for nothing but itself."""
    return entry.get("state") != "refused" and (number(entry.get("fidelity", 1.0)) or 1.0) < 1.0


def _searched(summary: Summary) -> list[Network]:
    members = {str(entry.get("trial")): entry for entry in rows(summary.get("front"))}
    points = [entry for entry in rows(summary.get("points")) if not short(entry)]
    known = {str(entry.get("trial")) for entry in points}
    found = []
    for entry in [*points, *(entry for trial, entry in members.items() if trial not in known)]:
        member = members.get(str(entry.get("trial")))
        if member is not None:
            kind = "front"
        elif entry.get("state") == "refused":
            kind = "refused"
        else:
            kind = "searched"
        found.append(
            Network(
                name=f"trial-{entry.get('trial')}",
                kind=kind,
                metrics=numbers((member or entry).get("metrics")) or numbers(entry.get("metrics")),
                choices=table((member or entry).get("point")),
                knee=bool(member and member.get("knee")),
            )
        )
    return [network for network in found if network.metrics]


def _compressed(summary: Summary) -> list[Network]:
    trials = {network.name: network.choices for network in _searched(summary)}
    steps = [
        Network(
            name=str(step.get("name")),
            kind="compressed" if step.get("accepted") else "rejected",
            metrics=numbers(step.get("after")),
            choices={**trials.get(origin(summary, str(step.get("name"))), {}), **table(step.get("policy"))},
            notes=(f"{step.get('kind')}, from {step.get('parent')}", str(step.get("reason") or "")),
            before=numbers(step.get("before")) or None,
        )
        for step in rows(summary.get("compression"))
    ]
    return [network for network in steps if network.metrics]


def _deployed(summary: Summary) -> list[Network]:
    """Deployed networks, at what their exported file was measured to be.

    The error is the validation error: on one axis with the searched networks only the same kind of error
    may stand. What is not measured again (multiply-adds, parameters) comes from the network it was made of.
    """
    sources = {network.name: network for network in (*_searched(summary), *_compressed(summary))}
    retrained = {str(entry.get("name")): entry for entry in rows(summary.get("retrained"))}
    found = []
    for entry in rows(summary.get("deployed")):
        name = str(entry.get("name"))
        source = sources.get(name)
        measured = {
            "error": number(entry.get("validation_error", retrained.get(name, {}).get("error"))),
            "size_kb": number(entry.get("size_kb")),
            **{
                f"{quantity}@{device}": number(table(cost).get(key))
                for device, cost in table(entry.get("latency")).items()
                for quantity, key in MEASURED.items()
            },
        }
        network = Network(
            name=name,
            kind="shipped" if entry.get("shipped") else "deployed",
            metrics={key: value for key, value in measured.items() if value is not None},
            notes=(f"{'retrained in full; ' if name in retrained else ''}latency of the exported file",),
        )
        if source is not None:
            network = replace(
                network,
                metrics={**source.metrics, **network.metrics},
                choices=source.choices,
                before=source.metrics,
            )
        found.append(network)
    return found
