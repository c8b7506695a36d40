"""Given points first: to train a list once each, or to start any search from points worth trying."""

from __future__ import annotations

from collections.abc import Sequence

from nasflow.loop import Strategy
from nasflow.space import Point
from nasflow.study import Proposal, Trial


class Listed:
    """Proposes `points` in their order, then whatever `then` asks for; `then` is told about all of them."""

    def __init__(self, points: Sequence[Point], then: Strategy | None = None) -> None:
        self._left = [dict(point) for point in reversed(points)]
        self._then = then

    def ask(self, count: int) -> list[Proposal]:
        if self._left:
            return [Proposal(self._left.pop()) for _ in range(min(count, len(self._left)))]
        return list(self._then.ask(count)) if self._then is not None else []

    def tell(self, trials: Sequence[Trial]) -> None:
        if self._then is not None:
            self._then.tell(trials)
