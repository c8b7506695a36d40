"""What a file takes on an undisturbed machine: its quickest call.

Whoever shares the core, its caches or the other half of it makes calls longer, never shorter, by another factor for
each network and minute; hardly ever are all calls of a network disturbed. So what is learned is learned from floors;
`stretch` leads back to the p50 that is measured when nobody disturbs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from nasflow.hardware.timing import Latency

NEAR = 0.05  # of the floor; two loads of a file whose quickest calls lie so close have both met an undisturbed moment


def floor_ms(measured: Latency) -> float:
    """Milliseconds of the quickest call."""
    return min(measured.samples_ms)


def unsure(measured: Latency) -> bool:
    """Whether the quickest call stands alone: no second load came near it, so all may have been disturbed."""
    ends = list(itertools.accumulate(measured.loads))
    quickest = sorted(min(load) for load in np.split(np.array(measured.samples_ms), ends[:-1]))
    return len(quickest) < 2 or bool(quickest[1] > (1 + NEAR) * quickest[0])


def stretch(told: Sequence[tuple[float, bool]]) -> float:
    """The p50 as a multiple of the floor where nobody disturbs, from such multiples and whether each was measured
    without noise: the median of those that were, or the least of all. 1 without any.

    >>> stretch([(1.0, True), (1.2, True), (3.0, False)]), stretch([(2.5, False), (1.5, False)])
    (1.1, 1.5)
    """
    steady = [one for one, without_noise in told if without_noise]
    return float(np.median(steady)) if steady else min((one for one, _ in told), default=1.0)
