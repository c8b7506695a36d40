import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from nasflow.hardware import Comparison, Latency, timing

ENVIRONMENT = {"date": "2026-11-22T00:00:00Z", "cpu": "a test"}


def drawn(rng, ms=1.0, loads=12, rounds=4, calls=10, placement=0.004, noise=0.01, drift=None):
    """Samples of a file whose every load sits elsewhere in memory, on a machine that drifts."""
    drift = np.ones((loads, rounds)) if drift is None else drift
    placed = ms * rng.normal(1.0, placement, size=(loads, 1, 1)) * drift[:, :, None]
    return (1e6 * placed * rng.normal(1.0, noise, size=(loads, rounds, calls))).astype(int).tolist()


def told(samples, reference=None):
    return timing.latency(samples, reference or samples, ENVIRONMENT)


def compared(a, b) -> Comparison:
    return timing.compare(a, b, PLAIN, PLAIN)  # whose own intervals take long, and decide nothing


PLAIN = told(drawn(np.random.default_rng(0)))


@pytest.fixture
def few_resamples(monkeypatch):
    """For tests of many latencies that do not look at their intervals, which is what takes long."""
    monkeypatch.setattr(timing, "RESAMPLES", 5)


def test_the_p50_is_the_median_of_the_kept_samples_in_milliseconds():
    one = told([[[1_000_000, 3_000_000], [2_000_000]], [[2_500_000], [2_200_000, 9_000_000]]])
    assert one.samples_ms == (1.0, 3.0, 2.0, 2.5, 2.2, 9.0)
    assert one.p50_ms == np.median(one.samples_ms)
    assert one.p90_ms == np.percentile(one.samples_ms, 90)
    assert one.loads == (3, 3)
    assert one.source == "measured" and one.date == ENVIRONMENT["date"]


def test_outliers_are_counted_and_kept_and_do_not_move_the_p50():
    rng = np.random.default_rng(0)
    samples = drawn(rng, ms=2.0, placement=0.0)
    clean = told(samples)
    for load in samples:
        for block in load[::2]:
            block[0] *= 20  # a twentieth of all
    one = told(samples)
    assert one.p50_ms == pytest.approx(clean.p50_ms, rel=0.01)
    assert one.outliers >= 24 and len(one.samples_ms) == 480
    assert max(one.samples_ms) > 30


def test_outliers_are_those_beyond_three_and_a_half_robust_deviations():
    # median 3, absolute deviations 2 1 0 1 2 7, their median 1.5: beyond 3.5 * 1.4826 * 1.5 = 7.78
    assert timing.outliers(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 10.0])) == 0
    assert timing.outliers(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 12.0])) == 1


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    held = 0
    for seed in range(60):
        one = told(drawn(np.random.default_rng(seed), placement=0.01))
        held += one.ci[0] <= 1.0 <= one.ci[1]
    assert held >= 50  # 57 expected; an interval over calls instead of loads holds it in 27


def test_the_interval_is_that_of_the_medians_of_loads_drawn_anew():
    loads = [np.random.default_rng(seed).normal(1.0, 0.01, 30 + seed) for seed in range(7)]
    draws = np.random.default_rng(5).integers(7, size=(timing.RESAMPLES, 7))
    medians = [np.median(np.concatenate([loads[i] for i in draw])) for draw in draws]
    found = timing._interval(loads, np.random.default_rng(5))
    assert found == pytest.approx(tuple(np.percentile(medians, [2.5, 97.5])), rel=1e-12)


def test_the_interval_is_the_same_every_time_and_narrows_with_more_loads():
    few, many = drawn(np.random.default_rng(1), loads=5), drawn(np.random.default_rng(1), loads=80)
    assert told(few).ci == told(few).ci
    assert told(many).uncertainty < told(few).uncertainty / 2


def test_noise_is_what_the_reference_did_and_relative_takes_it_out():
    rng = np.random.default_rng(2)
    drift = np.repeat([[1.0], [1.3]], 6, axis=0) * np.ones((1, 4))
    quiet = told(drawn(rng, 3.0), drawn(rng, 1.0))
    slow = told(drawn(rng, 3.9), drawn(rng, 1.3))
    restless = told(drawn(rng, 3.0, drift=drift), drawn(rng, 1.0, drift=drift))
    assert quiet.noise < 0.05 and restless.noise == pytest.approx(0.3 / 1.15, abs=0.05)
    assert slow.p50_ms == pytest.approx(3.9, rel=0.02), "milliseconds stay what was measured"
    assert slow.relative == pytest.approx(quiet.relative, rel=0.02)


def quiet(**about):
    """A measurement that nothing disturbed, told in an environment."""
    samples = drawn(np.random.default_rng(6), ms=4.0, placement=0.001, noise=0.003)
    reference = drawn(np.random.default_rng(7), ms=0.03, placement=0.001, noise=0.003)
    seen = {
        "seconds": 1.0,
        "cores": 2,
        "threads": 1,
        "core_share": 0.99,
        "preemptions": 10,
        "stolen_ticks": 1,
    }
    return timing.latency(samples, reference, {**ENVIRONMENT, **seen, **about})


def test_a_quiet_measurement_is_trusted_and_so_is_one_whose_machine_tells_nothing():
    assert quiet().noisy == "" == told(drawn(np.random.default_rng(6))).noisy


@pytest.mark.parametrize(
    ("about", "said"),
    [
        (
            {"core_share": 0.2, "preemptions": 90, "seconds": 1.7},
            "others had the core for 80% of the time (at most 10%) and broke into 65% of the calls (at most 5%)",
        ),
        ({"core_share": 0.2, "preemptions": 0, "stolen_ticks": 41}, "took 20% of the processor's time"),
    ],
)
def test_a_machine_too_noisy_to_tell_says_how_noisy(about, said):
    assert said in quiet(**about).noisy


def test_others_on_the_core_do_not_spoil_calls_too_short_to_meet_them():
    about = {"core_share": 0.1, "preemptions": 18, "seconds": 0.65}
    short = drawn(np.random.default_rng(6), ms=0.02, placement=0.001)
    assert timing.latency(short, short, {**ENVIRONMENT, **about}).noisy == ""
    assert quiet(**about).noisy


def test_what_only_the_samples_show_is_said_too():
    rng = np.random.default_rng(8)
    scattered = told(drawn(rng, placement=0.3, loads=5), drawn(rng))
    assert "the p50 is known to within" in scattered.noisy
    slope = np.linspace(1.0, 1.2, 12)[:, None] * np.ones((1, 4))
    warming = told(drawn(rng, drift=slope), drawn(rng, drift=slope))
    assert "the machine got 18% slower meanwhile (at most 10%)" in warming.noisy
    jumping = np.tile([[1.0], [1.5]], (6, 1)) * np.ones((1, 4))
    assert "the machine itself varied by" in told(drawn(rng), drawn(rng, drift=jumping)).noisy


def looked(slow, ms=0.05):
    """What the reference took around each of the rounds of which some were `slow`ed by a share ([load][round])."""
    return (1e6 * ms * np.stack([1 + slow, 1 + slow], axis=2)).round().astype(int).tolist()


def among(slow, **known):
    """A file of 2 ms, on a machine that others slowed in some rounds."""
    samples = drawn(np.random.default_rng(10), ms=2.0, loads=len(slow), drift=1 + slow)
    around = looked(slow)
    return timing.latency(samples, around, ENVIRONMENT, around=around, **known)


def test_the_p50_is_of_the_rounds_that_nobody_disturbed():
    slow = np.zeros((12, 4))
    slow[3:, :] = 0.6
    one = among(slow)
    assert one.p50_ms == pytest.approx(2.0, rel=0.02) and one.met_ms == pytest.approx(3.2, rel=0.02)
    assert one.ci[1] < 2.1 and one.p90_ms < 2.2 and one.reference_ms == pytest.approx(0.05)
    assert one.disturbed == 0.75 and one.noisy == "" and len(one.samples_ms) == 480


def test_little_that_the_reference_does_leaves_no_round_out():
    slow = 0.08 * np.random.default_rng(11).random((12, 4))
    one = among(slow)
    assert one.disturbed == 0 and one.p50_ms == one.met_ms == np.median(one.samples_ms)


def test_a_whole_measurement_that_others_slowed_is_seen_beside_one_that_nobody_did():
    slow = np.full((12, 4), 0.6)
    slow[2, 1] = 0.0
    alone, beside = among(slow), among(slow, quickest_ns=timing.quickest(looked(np.zeros((12, 4)))))
    for one in (alone, beside):
        assert one.p50_ms == one.met_ms == pytest.approx(3.2, rel=0.02)
    assert alone.disturbed == 0 and alone.noisy == "", "a single quick look is luck"
    assert "the machine was slower than it can be in 98% of the rounds (at most 90%)" in beside.noisy


def test_drift_is_the_trend_of_the_reference_and_0_where_chance_would_do(few_resamples):
    rng = np.random.default_rng(9)
    slope = np.linspace(1.0, 1.05, 12)[:, None] * np.ones((1, 4))
    assert told(drawn(rng), drawn(rng, drift=slope)).drift == pytest.approx(0.05, abs=0.015)
    assert told(drawn(rng), drawn(rng, drift=slope[::-1])).drift == pytest.approx(-0.05, abs=0.015)
    found = sum(told(drawn(rng, loads=12), drawn(rng, loads=12)).drift != 0 for _ in range(100))
    assert found <= 4  # 1 expected
    assert timing.drift([1.0, 2.0, 3.0]) == 0.0, "three loads cannot tell"


def test_the_machine_moving_between_measurements_is_told_from_their_references():
    one, other = quiet(), quiet()
    slow = dataclasses.replace(other, reference_ms=1.1 * one.reference_ms)
    predicted = Latency(2.0, 2.2, (1.8, 2.2), (), (), 0, None, 0.0, "predicted", "2026-01-01")
    assert timing.moved([one, slow, other, predicted]) == pytest.approx([0.0, 0.1, 0.0, 0.0], abs=1e-6)
    assert timing.moved([]) == []


def test_of_two_measurements_the_one_that_is_not_noisy_is_kept_then_the_surer_one():
    one, noisy = quiet(), quiet(stolen_ticks=40)
    assert timing.steadier(noisy, one) is timing.steadier(one, noisy) is one
    wide = dataclasses.replace(one, ci=(one.ci[0] / 2, one.ci[1]))
    assert timing.steadier(wide, one) is one


def test_programs_get_the_same_names_from_one_file_and_from_two():
    import json

    one = quiet()
    told_one = json.loads(json.dumps(timing.answer(one)))
    assert Latency.from_json(told_one) == one
    assert told_one["verdict"] == "steady" and told_one["interval"] == list(one.ci)
    assert timing.answer(quiet(stolen_ticks=40))["verdict"] == "too noisy"
    samples = drawn(np.random.default_rng(6), ms=4.0)
    both = json.loads(json.dumps(timing.answer(timing.compare(samples, samples, one, one))))
    names = {"p50_ms", "p90_ms", "interval", "samples", "environment", "verdict"}
    assert names <= told_one.keys() and names <= both.keys() and names <= both["a"].keys()
    assert both["verdict"] == "cannot tell" and both["p50_ms"] == {"a": one.p50_ms, "b": one.p50_ms}
    assert both["interval"]["ratio"] == [1.0, 1.0]


def test_a_latency_survives_json():
    one = told(drawn(np.random.default_rng(3), loads=3))
    import json

    assert Latency.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_a_record_of_before_its_younger_fields_still_loads():
    one = told(drawn(np.random.default_rng(3), loads=3))
    old = one.to_json()
    for key in (
        "p99_ms",
        "drift",
        "disturbed",
        "met_ms",
        "noisy",
        "peak_memory_kb",
        "energy_mj",
        "energy_source",
        "throughput_per_s",
        "throughput_batch",
    ):
        del old[key]
    loaded = Latency.from_json(old)
    assert loaded.p99_ms == np.percentile(one.samples_ms, 99) == one.p99_ms
    assert (loaded.noisy, loaded.energy_mj, loaded.energy_source) == ("", None, "unavailable")


def test_what_is_predicted_has_no_samples_and_no_reference():
    one = Latency(2.0, 2.2, (1.8, 2.2), (), (), 0, None, 0.0, "predicted", "2026-01-01")
    assert Latency.from_json(one.to_json()) == one
    with pytest.raises(ValueError, match="expected a measured latency"):
        one.relative  # noqa: B018
    with pytest.raises(ValueError, match="expected a latency"):
        Latency.from_json({**one.to_json(), "source": "measured"})


@pytest.mark.parametrize(
    "change",
    [
        {"p50_ms": "fast"},
        {"reference_ms": 0.0},
        {"energy_mj": -1.0},
        {"throughput_per_s": float("inf")},
        {"p50_ms": float("nan")},
        {"samples_ms": []},
        {"samples_ms": [1.0, -1.0]},
        {"loads": [1]},
        {"source": "guessed"},
        {"ci": [1.0]},
        {"environment": None},
    ],
)
def test_what_is_no_latency_is_refused(change):
    good = told(drawn(np.random.default_rng(3), loads=3)).to_json()
    with pytest.raises(ValueError, match="expected a latency"):
        Latency.from_json({**good, **change})
    for broken in (None, [], {}, "text"):
        with pytest.raises(ValueError, match="expected a latency"):
            Latency.from_json(broken)


def test_the_same_file_is_hardly_ever_told_from_itself():
    alarms = 0
    for seed in range(150):
        rng = np.random.default_rng(seed)
        drift = np.cumprod(rng.normal(1.0, 0.02, size=(12, 4)).ravel()).reshape(12, 4)
        a, b = drawn(rng, placement=0.02, drift=drift), drawn(rng, placement=0.02, drift=drift)
        alarms += compared(a, b).verdict != "cannot tell"
    assert alarms <= 3  # 2 %; a test that counts rounds instead of loads raises 19


@pytest.mark.parametrize(("factor", "verdict"), [(1.05, "slower"), (0.95, "faster")])
def test_a_difference_of_a_twentieth_is_found_in_spite_of_drift(factor, verdict):
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        drift = np.cumprod(rng.normal(1.0, 0.02, size=(12, 4)).ravel()).reshape(12, 4)
        one = compared(drawn(rng, drift=drift), drawn(rng, factor, drift=drift))
        found += one.verdict == verdict
        assert one.ratio == pytest.approx(factor, rel=0.02)
    assert found >= 39


def test_a_difference_too_small_to_matter_is_not_told():
    rng = np.random.default_rng(4)
    one = compared(drawn(rng, placement=1e-4), drawn(rng, 1.005, placement=1e-4))
    assert one.p_value < 0.01 and one.verdict == "cannot tell"


def test_a_few_disturbed_loads_do_not_decide():
    rng = np.random.default_rng(5)
    a, b = drawn(rng), drawn(rng)
    for load in b[:3]:
        for block in load:
            block[:] = [3 * ns for ns in block]
    assert compared(a, b).verdict == "cannot tell"


@pytest.mark.parametrize("count", [5, 8, 16])
def test_the_signed_rank_test_and_its_interval_are_scipys(count):
    rng = np.random.default_rng(count)
    for _ in range(20):
        values = rng.normal(0.4, 1.0, count)
        assert timing.signed_rank(values) == pytest.approx(stats.wilcoxon(values, method="exact").pvalue)
        centre, low, high = timing.shift(values)
        assert low <= centre <= high
        # The interval is the set of shifts that the test does not refuse: its bounds are where the verdict turns.
        if count >= 8:
            inside, outside = 1e-9, -1e-9
            assert (
                timing.signed_rank(values - low - inside) > 0.05 >= timing.signed_rank(values - low - outside)
            )
            assert (
                timing.signed_rank(values - high + inside)
                > 0.05
                >= timing.signed_rank(values - high + outside)
            )


def test_ties_and_equal_pairs_do_not_make_a_difference():
    assert timing.signed_rank(np.zeros(8)) == 1.0
    assert timing.signed_rank(np.array([1.0, -1.0] * 4)) == pytest.approx(1.0, abs=0.1)
    assert not math.isnan(timing.shift(np.zeros(8))[0])
