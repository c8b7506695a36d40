"""What repeated timings say: the latency of a file, and whether one file is faster than another.

Samples come as `[load][round][call]` nanoseconds, as nasflow/hardware/board takes them. A load is what repeats
independently (each puts the network elsewhere in memory, which alone moves its time by a percent), so intervals
and tests count loads, never single calls: with calls the same file would be told from itself every second time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
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

# A measurement beyond one of these is too noisy to tell (`trouble`); each is a share. How they were chosen:
# benchmarks/latency_noise.py. Others on the core cost calls of 0.02 ms nothing, being seldom met by them, and made
# calls of 4 ms look five times as long with an interval of 1.5 %; the reference varied by 8 % at most meanwhile.
NEAR = 0.1  # of the quickest look at the reference; a round between two such looks was not disturbed
LEAST_LOADS = 2  # with undisturbed rounds; of one alone nothing is known but how it lay in memory
UNSURE = 0.05  # half the interval: twice as wide, and networks a tenth apart cannot be put in order
SHARED = 0.1  # of the time, how much of it others had the core ...
INTERRUPTED = 0.05  # ... and the share of calls they broke into
STOLEN = 0.05  # of the processor's time, how much other machines on the same hardware took
MOST_DISTURBED = 0.9  # of the rounds; fewer undisturbed ones are chance
RESTLESS = 0.25  # how far apart the reference's rounds lie where they are not beside those of files: the clock jumped
DRIFTED = 0.1  # by how much the reference got slower or faster from the first load to the last


@dataclass(frozen=True)
class Latency:
    """How long one call of a file takes on a device, in milliseconds.

    `samples_ms` are all calls in the order they were taken; `loads` says how many of them each load of the file gave.
    Each round of them lies between two looks at a fixed small network, the reference. `disturbed` is the share of
    rounds beside a look that was more than a tenth slower than the machine can be. `p50_ms`, `p90_ms`, `p99_ms`, `ci`
    and `reference_ms`, what the reference took, are of the other rounds; of all, where the others are not of two loads.
    `met_ms` is the p50 of all. `ci` is the bootstrap 95 % interval of the p50 over loads: it speaks for these minutes
    on this machine. `outliers` are samples more than 3.5 robust standard deviations from the p50 of all; they are
    counted, and kept. `noise` is how far apart the middle 80 % of the looks lay, as a share: what the machine did on
    its own account. `drift` is by what share the reference became slower (+) or faster (-) from the first load to the
    last, 0 where that cannot be told from chance. `noisy` says why the measurement is not to be trusted; it is empty
    where nothing is wrong.

    `peak_memory_kb` is what the calls took at most, above what the idle runtime takes; `energy_mj` what one call
    took above idling, in millijoules, with where that is from; `throughput_per_s` samples a second where
    `throughput_batch` of them are asked for at once. None where the device cannot tell.

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
    disturbed: float = 0.0
    met_ms: float | None = None
    noisy: str = ""
    peak_memory_kb: float | None = None
    energy_mj: float | None = None
    energy_source: str = "unavailable"
    throughput_per_s: float | None = None
    throughput_batch: int | None = None

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
                disturbed=float(value.get("disturbed", 0.0)),
                met_ms=_optional(value.get("met_ms")),
                noisy=str(value.get("noisy", "")),
                peak_memory_kb=_optional(value.get("peak_memory_kb")),
                energy_mj=_optional(value.get("energy_mj")),
                energy_source=str(value.get("energy_source", "unavailable")),
                throughput_per_s=_optional(value.get("throughput_per_s")),
                throughput_batch=None if (batch := value.get("throughput_batch")) is None else int(batch),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"expected a latency as nasflow writes it: {error!r}") from error
        others = (one for one in (latency.reference_ms, latency.met_ms) if one is not None)
        times = (*latency.samples_ms, latency.p50_ms, *others)
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


def latency(
    samples: Samples,
    reference: Samples,
    environment: Mapping[str, Any],
    seed: int = 0,
    around: Samples | None = None,
    quickest_ns: float | None = None,
) -> Latency:
    """What the samples of one file say; `reference` are those of the reference network taken in between, and `around`
    what it took just before and after each round, as [load][round][2]. `quickest_ns` is what it takes when nobody
    disturbs, where more is known of that than what these looks say."""
    everything = np.concatenate([_flat(load) for load in samples])
    looks = np.array([np.median(block) for load in reference for block in load])
    spread = np.percentile(looks, [10, 90])
    every = [[True] * len(load) for load in samples]
    quiet = every if around is None else _quiet(around, quickest_ns or quickest(reference))
    disturbed = 1 - float(np.mean([one for load in quiet for one in load]))
    if sum(map(any, quiet)) < LEAST_LOADS:
        quiet = every
    loads = [_flat(rounds) for rounds in _only(samples, quiet) if rounds]
    beside = (
        looks if around is None else [ns for load in _only(around, quiet) for pair in load for ns in pair]
    )
    p50, p90, p99 = np.percentile(np.concatenate(loads), [50, 90, 99])
    told = Latency(
        p50_ms=float(p50),
        p90_ms=float(p90),
        ci=_interval(loads, np.random.default_rng(seed)),
        samples_ms=tuple(everything.tolist()),
        loads=tuple(sum(map(len, load)) for load in samples),
        outliers=outliers(everything),
        reference_ms=float(np.median(beside)) / 1e6,
        noise=float((spread[1] - spread[0]) / np.median(looks)),
        source="measured",
        date=str(environment["date"]),
        environment=dict(environment),
        p99_ms=float(p99),
        drift=drift([float(np.median(_flat(load))) for load in reference]),
        disturbed=disturbed,
        met_ms=float(np.median(everything)),
    )
    return replace(told, noisy=trouble(told))


def quickest(reference: Samples) -> float:
    """Nanoseconds of the reference where nobody disturbs: one of the quickest looks at it, and not the quickest, so
    that a single lucky one does not make all others look disturbed."""
    return float(np.percentile([np.median(block) for load in reference for block in load], 5))


def trouble(measured: Latency) -> str:
    """Why a measurement was taken on a machine too noisy to tell, with how noisy it was; empty if it was not.

    Noise that the interval shows, and noise that it cannot show since it met all loads alike.
    """
    about, pace = measured.environment, "slower" if measured.drift > 0 else "faster"
    others, broken = 1 - about.get("core_share", 1.0), _interrupted(measured)
    stolen, unsure, away = _stolen(about), measured.uncertainty, abs(measured.drift)
    why = [
        (unsure > UNSURE, f"the p50 is known to within {unsure:.0%} only (at most {UNSURE:.0%})"),
        (
            others > SHARED and broken > INTERRUPTED,
            f"others had the core for {others:.0%} of the time (at most {SHARED:.0%}) and broke into"
            f" {broken:.0%} of the calls (at most {INTERRUPTED:.0%})",
        ),
        (stolen > STOLEN, f"other machines took {stolen:.0%} of the processor's time (at most {STOLEN:.0%})"),
        (
            measured.disturbed > MOST_DISTURBED,
            f"the machine was slower than it can be in {measured.disturbed:.0%} of the rounds"
            f" (at most {MOST_DISTURBED:.0%})",
        ),
        (
            not measured.disturbed and measured.noise > RESTLESS,
            f"the machine itself varied by {measured.noise:.0%} (at most {RESTLESS:.0%})",
        ),
        (away > DRIFTED, f"the machine got {away:.0%} {pace} meanwhile (at most {DRIFTED:.0%})"),
    ]
    return "; ".join(words for wrong, words in why if wrong)


def steadier(first: Latency, again: Latency) -> Latency:
    """Which of two measurements of one file to keep: one that is not too noisy, then the surer one."""
    return min(first, again, key=lambda one: (bool(one.noisy), one.uncertainty))


def drift(levels: Sequence[float]) -> float:
    """By what share values taken one after the other rise (+) or fall (-) from the first to the last: the slope of
    Theil and Sen, 0 where Kendall's test cannot tell it from none at 1 %.

    >>> round(drift([1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.06, 1.07, 1.08]), 4), drift([1.0, 1.1, 1.0, 1.1, 1.0])
    (0.0769, 0.0)
    """
    values = np.asarray(levels, dtype=np.float64)
    count = len(values)
    first, last = np.triu_indices(count, 1)
    rises = values[last] - values[first]
    score = float(np.sign(rises).sum())
    deviation = math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    if count < 5 or math.erfc(max(0.0, abs(score) - 1) / deviation / math.sqrt(2)) >= SIGNIFICANT:
        return 0.0
    return float(np.median(rises / (last - first)) * (count - 1) / np.median(values))


def moved(measured: Sequence[Latency]) -> list[float]:
    """By what share the machine itself was slower (+) or faster (-) during each measurement than during most of them,
    as the reference tells; 0 for what was predicted.

    `relative` takes this out; milliseconds of candidates measured far apart differ by as much for nothing.
    """
    usual = np.median([one.reference_ms for one in measured if one.reference_ms is not None] or [1.0])
    return [float((one.reference_ms or usual) / usual) - 1 for one in measured]


def answer(measured: Latency | Comparison) -> dict[str, Any]:
    """What `nasflow profile --json` writes: everything known, and under names that both of its forms share p50_ms,
    p90_ms, interval (95 %, in milliseconds), samples, environment and verdict; where two files were compared,
    those of `a` and `b`, and in `interval` that of the `ratio` of their times too."""
    if isinstance(measured, Latency):
        verdict = "too noisy" if measured.noisy else "steady"
        own = measured.to_json()
        return {**own, "interval": own["ci"], "samples": own["samples_ms"], "verdict": verdict}
    both = {"a": answer(measured.a), "b": answer(measured.b)}
    shared = {key: {name: one[key] for name, one in both.items()} for key in ("p50_ms", "p90_ms", "samples")}
    interval = {"a": measured.a.ci, "b": measured.b.ci, "ratio": measured.ci}
    environment = measured.b.to_json()["environment"]
    return {**asdict(measured), **both, **shared, "interval": interval, "environment": environment}


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


def _quiet(around: Samples, quickest_ns: float) -> list[list[bool]]:
    """Which rounds lie between two looks that found the machine about as quick as it gets."""
    return [[max(pair) <= (1 + NEAR) * quickest_ns for pair in load] for load in around]


def _only(samples: Samples, wanted: Sequence[Sequence[bool]]) -> list[list[Sequence[int]]]:
    """The rounds that are wanted, by their loads."""
    return [
        [one for one, fit in zip(load, fits, strict=True) if fit]
        for load, fits in zip(samples, wanted, strict=True)
    ]


def _interrupted(measured: Latency) -> float:
    """The share of calls that others broke into: a call that takes longer meets more of them. All of them, where
    the system does not count."""
    about = measured.environment
    worked_s = about.get("core_share", 1.0) * about.get("seconds", 0.0) * about.get("threads", 1)
    if "preemptions" not in about or not worked_s:
        return 1.0
    return 1 - math.exp(-about["preemptions"] / worked_s * measured.p50_ms / 1000)


def _stolen(about: Mapping[str, Any]) -> float:
    """The share of the processor's time that other machines took; the kernel's ticks are hundredths of seconds."""
    seconds = float(about.get("seconds", 0.0)) * int(about.get("cores", 1))
    # A single tick of a very short measurement is chance.
    ticks = max(0, int(about.get("stolen_ticks", 0)) - 1)
    return ticks / 100 / seconds if seconds else 0.0


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)


def _interval(loads: Sequence[Floats], rng: np.random.Generator) -> tuple[float, float]:
    """The 95 % interval of the median of all samples, were the loads drawn anew."""
    draws = rng.integers(len(loads), size=(RESAMPLES, len(loads)))
    # Sorted once: what is drawn anew is only how often each sample counts.
    values, owners = np.concatenate(loads), np.repeat(np.arange(len(loads)), [len(load) for load in loads])
    order = np.argsort(values)
    values, owners = values[order], owners[order]
    medians = []
    for draw in draws:
        upto = np.cumsum(np.bincount(draw, minlength=len(loads))[owners])
        middle = np.searchsorted(upto, [(upto[-1] - 1) // 2, upto[-1] // 2], side="right")
        medians.append(values[middle].mean())
    low, high = np.percentile(medians, [2.5, 97.5])
    return float(low), float(high)


def _flat(load: Sequence[Sequence[int]]) -> Floats:
    """The samples of a load in milliseconds."""
    return np.concatenate([np.asarray(block, dtype=np.float64) for block in load]) / 1e6
