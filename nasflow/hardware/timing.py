"""What repeated timings say: the latency of a file, and whether one file is faster than another.

Samples come as `[load][round][call]` nanoseconds, as nasflow/hardware/runner.py takes them. A load is what repeats
independently (each puts the network elsewhere in memory, which alone moves its time by a percent), so intervals
and tests count loads, never single calls: with calls the same file would be told from itself every second time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Samples = Sequence[Sequence[Sequence[int]]]
Floats = NDArray[np.float64]
Source = Literal["measured", "predicted"]
Verdict = Literal["faster", "slower", "cannot tell"]

RESAMPLES = 500
SIGNIFICANT = 0.01
NOTICEABLE = 0.01  # a smaller share of the time is never called a difference


@dataclass(frozen=True)
class Latency:
    """How long one call of a file takes on a device, in milliseconds.

    `p50_ms` and `p90_ms` are percentiles of all `samples_ms`, in the order they were taken; `loads` says how many
    of them each load of the file gave. `ci` is the bootstrap 95 % interval of the p50 over loads: it speaks for
    these minutes on this machine. `outliers` are samples more than 3.5 robust standard deviations from the p50;
    they are counted, and kept. `reference_ms` is what a fixed small network took meanwhile, and `noise` how far
    apart the middle 80 % of its rounds lay, as a share: what the machine did on its own account. `drift` is by
    what share the reference became slower (+) or faster (-) from the first load to the last, 0 where that cannot
    be told from chance. `noisy` says why the measurement is not to be trusted; it is empty where nothing is wrong.

    `peak_memory_kb` is what the calls took at most, above what the idle runtime takes; `energy_mj` what one call
    took above idling, in millijoules, with where that is from; `throughput_per_s` samples a second where many
    are asked for at once. None where the device cannot tell.

    What was predicted instead of measured (`source`) has no samples, no loads and no reference.
    """

    p50_ms: float
    p90_ms: float
    ci: tuple[float, float]
    samples_ms: tuple[float, ...]
    loads: tuple[int, ...]
    outliers: int
    reference_ms: float | None
    noise: float
    source: Source
    date: str
    environment: Mapping[str, Any] = field(default_factory=dict)
    p99_ms: float | None = None
    drift: float = 0.0
    noisy: str = ""
    peak_memory_kb: float | None = None
    energy_mj: float | None = None
    energy_source: str = "unavailable"
    throughput_per_s: float | None = None

    @property
    def relative(self) -> float:
        """The p50 as a multiple of the reference's. The clock of a shared machine drifts by some percent from
        minute to minute and takes both along, so this repeats better; it is no time, though."""
        if self.reference_ms is None:
            raise ValueError(
                "expected a measured latency; a predicted one has no reference to be relative to"
            )
        return self.p50_ms / self.reference_ms

    @property
    def uncertainty(self) -> float:
        """Half the interval as a share of the p50."""
        return (self.ci[1] - self.ci[0]) / 2 / self.p50_ms

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Latency:
        """The opposite of `to_json`; fields that are younger than the record get their defaults.

        ValueError says what is wrong with `value`.
        """
        try:
            low, high = map(float, value["ci"])
            samples = tuple(map(float, value["samples_ms"]))
            latency = cls(
                p50_ms=float(value["p50_ms"]),
                p90_ms=float(value["p90_ms"]),
                ci=(low, high),
                samples_ms=samples,
                loads=tuple(map(int, value["loads"])),
                outliers=int(value["outliers"]),
                reference_ms=_optional(value["reference_ms"]),
                noise=float(value["noise"]),
                source=value["source"],
                date=str(value["date"]),
                environment=dict(value["environment"]),
                p99_ms=_optional(value.get("p99_ms", float(np.percentile(samples, 99)) if samples else None)),
                drift=float(value.get("drift", 0.0)),
                noisy=str(value.get("noisy", "")),
                peak_memory_kb=_optional(value.get("peak_memory_kb")),
                energy_mj=_optional(value.get("energy_mj")),
                energy_source=str(value.get("energy_source", "unavailable")),
                throughput_per_s=_optional(value.get("throughput_per_s")),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"expected a latency as nasflow writes it: {error!r}") from error
        reference = () if latency.reference_ms is None else (latency.reference_ms,)
        times = (*latency.samples_ms, latency.p50_ms, *reference)
        amounts = (latency.peak_memory_kb or 0.0, latency.energy_mj or 0.0, latency.throughput_per_s or 0.0)
        if not all(0 < ms < math.inf for ms in times) or not all(0 <= one < math.inf for one in amounts):
            raise ValueError("expected a latency as nasflow writes it: positive times and amounts")
        if latency.source not in get_args(Source):
            raise ValueError(
                f"expected a latency as nasflow writes it: measured or predicted, got {latency.source}"
            )
        if sum(latency.loads) != len(latency.samples_ms):
            raise ValueError("expected a latency as nasflow writes it: as many samples as its loads gave")
        if latency.source == "measured" and (not latency.samples_ms or latency.reference_ms is None):
            raise ValueError("expected a latency as nasflow writes it: samples of what was measured")
        return latency


@dataclass(frozen=True)
class Comparison:
    """Whether file b is faster or slower than file a: `ratio` is b's time over a's, `ci` its 95 % interval.

    `p_value` is that of the signed-rank test over loads. A verdict needs p below 1 % and a difference of at least
    1 %; "cannot tell" does not say that they are equal.
    """

    verdict: Verdict
    ratio: float
    ci: tuple[float, float]
    p_value: float
    a: Latency
    b: Latency


def latency(samples: Samples, reference: Samples, environment: Mapping[str, Any], seed: int = 0) -> Latency:
    """What the samples of one file say; `reference` are those of the reference network taken in between."""
    loads = [_flat(load) for load in samples]
    everything = np.concatenate(loads)
    p50, p90, p99 = np.percentile(everything, [50, 90, 99])
    rounds = np.array([np.median(block) for load in reference for block in load])
    spread = np.percentile(rounds, [10, 90])
    return Latency(
        p50_ms=float(p50),
        p90_ms=float(p90),
        ci=_interval(loads, np.random.default_rng(seed)),
        samples_ms=tuple(everything.tolist()),
        loads=tuple(map(len, loads)),
        outliers=outliers(everything),
        reference_ms=float(np.median(np.concatenate([_flat(load) for load in reference]))),
        noise=float((spread[1] - spread[0]) / np.median(rounds)),
        source="measured",
        date=str(environment["date"]),
        environment=dict(environment),
        p99_ms=float(p99),
    )


def compare(a: Samples, b: Samples, of_a: Latency, of_b: Latency) -> Comparison:
    """Test b against a, load by load; their rounds were taken in turns, so each has met the same machine."""
    logs = np.array(
        [
            np.median([np.log(np.median(y) / np.median(x)) for x, y in zip(one, other, strict=True)])
            for one, other in zip(a, b, strict=True)
        ]
    )
    centre, low, high = shift(logs)
    p_value = signed_rank(logs)
    verdict: Verdict = "cannot tell"
    if p_value < SIGNIFICANT and abs(math.expm1(centre)) >= NOTICEABLE:
        verdict = "faster" if centre < 0 else "slower"
    return Comparison(verdict, math.exp(centre), (math.exp(low), math.exp(high)), p_value, of_a, of_b)


def outliers(values: Floats) -> int:
    """How many values lie more than 3.5 robust standard deviations (1.4826 MAD) from the median."""
    away = np.abs(values - np.median(values))
    return int((away > 3.5 * 1.4826 * np.median(away)).sum())


def signed_rank(values: Floats) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test that `values` lie evenly around 0, exact without ties.

    >>> signed_rank(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]))
    0.0078125
    """
    values = values[values != 0]
    size = np.abs(values)
    ranks = np.array(
        [(size < one).sum() + ((size == one).sum() + 1) / 2 for one in size]
    )  # ties share theirs
    chances = _rank_sums(len(values))
    below = math.ceil(min(ranks[values > 0].sum(), ranks[values < 0].sum()))
    return min(1.0, 2.0 * float(chances[: below + 1].sum()))


def shift(values: Floats, confidence: float = 0.95) -> tuple[float, float, float]:
    """How far `values` lie from 0 (Hodges and Lehmann: the median of the means of all pairs), low and high bound."""
    row, column = np.triu_indices(len(values))
    means = np.sort((values[row] + values[column]) / 2)
    beyond = np.searchsorted(np.cumsum(_rank_sums(len(values))), (1 - confidence) / 2, side="right")
    cut = max(int(beyond) - 1, 0)
    return float(np.median(means)), float(means[cut]), float(means[-1 - cut])


def _rank_sums(count: int) -> Floats:
    """The chance of each sum of positive ranks from 0 up, if every one of `count` signs is a toss of a coin."""
    chances = np.array([1.0])
    for rank in range(1, count + 1):
        tossed = np.zeros(len(chances) + rank)
        tossed[: len(chances)] += chances / 2
        tossed[rank:] += chances / 2
        chances = tossed
    return chances


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)


def _interval(loads: Sequence[Floats], rng: np.random.Generator) -> tuple[float, float]:
    """The 95 % interval of the median of all samples, were the loads drawn anew."""
    draws = rng.integers(len(loads), size=(RESAMPLES, len(loads)))
    medians = [float(np.median(np.concatenate([loads[i] for i in draw]))) for draw in draws]
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


def _flat(load: Sequence[Sequence[int]]) -> Floats:
    """The samples of a load in milliseconds."""
    return np.concatenate([np.asarray(block, dtype=np.float64) for block in load]) / 1e6
