"""What a compressed network may cost at most, as people say it: `latency_ms=0.6x@local-cpu`, `size_kb=200`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from nasflow.study import Objective

METRICS = ("flops", "latency_ms", "params", "peak_memory_kb", "size_kb")
EXPECTED = "a target such as latency_ms=0.6x@local-cpu (times the original's) or latency_ms=1.5@local-cpu"

_FORM = re.compile(r"(?P<metric>\w+)\s*=\s*(?P<amount>[0-9.eE+-]+?)(?P<times>x?)(?:@(?P<device>[\w.-]+))?")


@dataclass(frozen=True)
class Target:
    """The most that a metric may be: `amount` of its own unit or, if `relative`, times what the original has.

    `metric` carries its device as metrics do (`latency_ms@local-cpu`); without one it means every device.

    >>> Target.parse("latency_ms=0.6x@local-cpu")
    Target(metric='latency_ms@local-cpu', amount=0.6, relative=True)
    >>> str(Target.parse("flops = 0.50x")), Target.parse("size_kb=200").limit({})
    ('flops=0.5x', 200.0)
    """

    metric: str
    amount: float
    relative: bool = False

    @classmethod
    def parse(cls, text: str) -> Target:
        """ValueError says what was expected."""
        found = _FORM.fullmatch(text.strip())
        try:
            amount = float(found["amount"]) if found else 0.0
        except ValueError:
            amount = 0.0
        if found is None or not 0 < amount < float("inf"):
            raise ValueError(f"expected {EXPECTED}, got {text!r}")
        device = f"@{found['device']}" if found["device"] else ""
        return cls(found["metric"] + device, amount, bool(found["times"]))

    def __str__(self) -> str:
        metric, at, device = self.metric.partition("@")
        return f"{metric}={self.amount:g}{'x' if self.relative else ''}{at}{device}"

    def limit(self, original: Mapping[str, float]) -> float:
        """In the metric's own unit; `original` holds what the uncompressed network costs."""
        return self.amount * original[self.metric] if self.relative else self.amount

    def objective(self, original: Mapping[str, float]) -> Objective:
        """The target as a limit of a search for networks smaller than `original`."""
        return Objective(self.metric, limit=self.limit(original), optimise=False)
