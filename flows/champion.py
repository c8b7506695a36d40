"""Which of two certified files is the better one on a device, by the rule by which a run chooses what it ships.

The alias `champion-DEVICE` of a registered model points at the best that ever shipped under its name. It moves
only to a file that is better beyond doubt, so it never goes back and forth between two that are much alike.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nasflow.experiment import ShipRule
from nasflow.hardware.store import DECISIVE
from nasflow.report import words

Certificate = Mapping[str, Any]
"""What certificate.json says; samples may be left out."""


def alias(device: str) -> str:
    """What the best model on a device is called in the registry.

    >>> alias("local-cpu"), alias("pixel 6.1")
    ('champion-local-cpu', 'champion-pixel-6-1')
    """
    return f"champion-{re.sub(r'[^A-Za-z0-9_-]+', '-', device)}"


def better(new: Certificate, old: Certificate, device: str, rule: ShipRule) -> tuple[bool, str]:
    """Whether `new` is better than `old` on a device, and why, in words.

    Both must be certified on the same data and the same machine. One that keeps its limits is better than one that
    does not. Then by the rule: `best error` wants less validation error (as much, but faster, will do);
    `fastest within P points` the faster one, unless its error is more than P points above the other's; `knee` has no
    scale for two, so the new one must be better in error or latency and worse in neither. Faster means that the
    intervals of the two medians do not touch.
    """
    if (told := _incomparable(new, old, device)) is not None:
        return False, told
    if not _keeps(new):
        return False, "it breaks a limit"
    if not _keeps(old):
        return True, "it keeps its limits, the other does not"
    error, before = float(new["validation_error"]), float(old["validation_error"])
    pace = _pace(new["latency"][device], old["latency"][device])
    shown = (
        f"validation error {words.share(error)} against {words.share(before)},"
        f" {_ms(new, device)} against {_ms(old, device)}"
    )
    if rule.rule == "best error":
        wins = error < before or (error == before and pace < 0)
    elif rule.rule == "fastest":
        points = rule.points / 100
        close = abs(error - before) <= points
        wins = error < before - points or (close and (pace < 0 or (pace == 0 and error < before)))
    else:
        wins = error <= before and pace <= 0 and (error < before or pace < 0)
    return wins, f"by the rule {rule}: {shown}"


def _incomparable(new: Certificate, old: Certificate, device: str) -> str | None:
    """Why two certificates say nothing of one another; None if they do."""
    if new["data"]["sha256"] != old["data"]["sha256"]:
        return "it was certified on other data"
    if device not in old["latency"]:
        return f"the other was not measured on {device}"
    here, there = (one["latency"][device].get("environment") or {} for one in (new, old))
    for key in DECISIVE:
        if key in here and key in there and here[key] != there[key]:
            return f"it was measured on another machine: {key} is {here[key]}, was {there[key]}"
    return None


def _keeps(certificate: Certificate) -> bool:
    return all(limit["holds"] for limit in certificate["limits"])


def _pace(new: Mapping[str, Any], old: Mapping[str, Any]) -> int:
    """-1 if the new one is faster, 1 if it is slower, 0 if nobody can tell."""
    (low, high), (other_low, other_high) = new["ci"], old["ci"]
    return -1 if high < other_low else 1 if low > other_high else 0


def _ms(certificate: Certificate, device: str) -> str:
    return words.amount("latency_ms", float(certificate["latency"][device]["p50_ms"]))
