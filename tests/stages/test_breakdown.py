"""What of a run's latencies is said beside the numbers."""

from dataclasses import replace

from nasflow.evaluators.foretold import Record, Records
from nasflow.hardware import timing
from nasflow.stages import breakdown
from nasflow.study import Trial


def test_latencies_of_the_front_that_are_noisy_or_of_a_device_that_had_moved_are_told(tmp_path):
    steady = timing.latency([[[1_000_000] * 3] * 4] * 5, [[[50_000] * 3] * 4] * 5, {"date": "2026-11-22"})
    measured = {
        0: steady,
        1: replace(steady, noisy="others had the core"),
        2: replace(steady, reference_ms=1.15 * 0.05),
        3: replace(steady, reference_ms=1.05 * 0.05),
    }
    kept = Records(tmp_path)
    for number, latency in measured.items():
        kept.write(number, "board", Record({"a": number}, "0" * 64, latency=latency))
    front = [Trial(number, {"a": number}) for number in (*measured, 4)]  # of the last nothing is known
    said = breakdown._doubtful(kept, front, "board")
    assert said["noisy"] == {"1": "others had the core"}
    assert list(said["moved"]) == ["2"] and 0.11 < said["moved"]["2"] < 0.15
    assert breakdown._doubtful(kept, front[:1], "board") == {}
    assert breakdown._doubtful(kept, front, "another") == {}
