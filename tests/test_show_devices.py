"""What devices can tell and what was measured on one, in windows of every width."""

import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from nasflow import show_devices
from nasflow.hardware import Comparison, load_profile, profiles, timing
from nasflow.hardware.device import Progress

A, B = Path("a.onnx"), Path("b.onnx")
ENVIRONMENT = {
    "date": "2026-01-01T00:00:00Z",
    "cpu": "A Processor",
    "threads": 1,
    "affinity": [1],
    "governor": "performance",
    "runtime": "onnxruntime 1.31.1",
    "load_average": [0.4, 0.3, 0.2],
    "core_share": 0.99,
    "seconds": 1.0,
    "preemptions": 1,
}


def measured(ms=0.05, **change):
    rng = np.random.default_rng(0)
    samples = (1e6 * ms * rng.normal(1.0, 0.01, (8, 4, 10))).astype(int)
    samples[3, 2, 1] *= 9  # one call is disturbed
    one = timing.latency(samples.tolist(), samples.tolist(), ENVIRONMENT)
    return dataclasses.replace(one, **change)


def shown(show, *what, width=100, terminal=False):
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
    show(*what, console)
    return console.file.getvalue()


def flat(text):
    return " ".join(text.split())


def test_a_measurement_is_a_picture_with_its_percentiles_interval_outliers_and_drift_in_plain_words():
    one = measured()
    text = shown(show_devices.latency, "my-board", A, one)
    low, high = one.ci
    assert "a.onnx on my-board" in text and "█" in text and "p50" in text and "p90" in text
    assert f"p50 {one.p50_ms:.4f} ms (95 % interval {low:.4f} to {high:.4f} ms, within ±0.1%)" in flat(text)
    assert "calls 320 in 8 loads" in flat(text) and "all kept" in text
    assert "1 call beyond" in text and f"the longest {max(one.samples_ms):.3f} ms" in text
    assert "no drift (a fixed small network took 0.0500 ms)" in flat(text)
    assert (
        "A Processor, 1 thread, core 1, governor performance, onnxruntime 1.31.1, load 0.4, others had"
        in flat(text)
    )
    assert "Steady" in text


def test_what_the_device_cannot_tell_is_unavailable_with_the_reason_and_never_0():
    text = flat(
        shown(show_devices.latency, "my-board", A, measured(energy_source="unavailable: no RAPL counters"))
    )
    assert "energy unavailable: no RAPL counters" in text and "memory unavailable" in text
    assert "throughput" not in text
    told = {
        "energy_mj": 1.234,
        "energy_source": "RAPL package",
        "peak_memory_kb": 2048.0,
        "throughput_per_s": 812.0,
        "throughput_batch": 32,
    }
    text = flat(shown(show_devices.latency, "my-board", A, measured(**told)))
    assert "energy 1.23 mJ a call (RAPL package)" in text and "throughput 812 a second, 32 at a time" in text
    assert "memory 2.05 MB at most" in text


def test_a_measurement_too_noisy_to_tell_says_so_and_how_noisy():
    text = flat(shown(show_devices.latency, "my-board", A, measured(noisy="others had the core", drift=0.12)))
    assert "Too noisy to tell: others had the core." in text and "Steady" not in text
    assert "it got 12.0% slower meanwhile" in text


def test_rounds_that_were_left_out_are_told_with_the_p50_of_all():
    text = flat(shown(show_devices.latency, "my-board", A, measured(disturbed=0.25, met_ms=0.08)))
    assert "disturbed 25% of the rounds; the p50 of all calls is 0.0800 ms" in text
    assert "of the rounds" not in shown(show_devices.latency, "my-board", A, measured())


def test_a_prediction_is_not_shown_as_a_measurement():
    one = timing.Latency(2.0, 2.2, (1.8, 2.2), (), (), 0, None, 0.0, "predicted", "2026-01-01")
    text = flat(shown(show_devices.latency, "my-board", A, one))
    assert "Predicted, not measured." in text and "Steady" not in text and "calls" not in text


@pytest.mark.parametrize(
    ("verdict", "words"),
    [("faster", "is faster than"), ("slower", "is slower than"), ("cannot tell", "cannot be told from")],
)
def test_two_files_are_shown_on_one_scale_with_the_verdict(verdict, words):
    one, other = measured(0.05), measured(0.06)
    found = Comparison(verdict, 1.2, (1.1, 1.3), 1e-4, one, other)
    text = shown(show_devices.comparison, "my-board", (A, B), found, width=200)
    assert f"b.onnx {words} a.onnx: 1.200× its time (95 % interval 1.100 to 1.300, p = 0.0001)" in text
    ends = [
        line.split() for line in text.splitlines() if line.strip().endswith(" ms") and "beyond" not in line
    ]
    assert len(ends) == 2 and ends[0] == ends[1], "both histograms have one axis"


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_every_line_fits_the_window(width):
    one = measured()
    text = shown(show_devices.latency, "my-board", A, one, width=width)
    text += shown(show_devices.device, load_profile("raspberry-pi-4"), None, "", width=width)
    assert max(map(len, text.splitlines())) <= width


def test_bars_grow_with_what_falls_into_them():
    rows = show_devices.histogram([1.0] * 4 + [2.0] * 2 + [9.0], 1.0, 3.0, width=3, height=4)
    assert rows == ["█  ", "█  ", "██ ", "██ "], "what lies beyond is not drawn"
    assert show_devices.histogram([1.0] * 1000 + [3.0], 1.0, 3.0, width=3, height=2)[-1] == "█ ▁"


def test_a_watcher_sees_the_picture_grow_and_then_only_the_result(monkeypatch):
    monkeypatch.setattr(show_devices, "EVERY_S", 0.0)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with show_devices.watching("my-board", [A], console) as watch:
        watch(Progress(None, 0, (0.03, 0.03)))
        assert "measuring on my-board" in console.file.getvalue()
        for load in range(4):
            watch(Progress(A, load, (0.05, 0.051, 0.052)))
            watch(Progress(None, load + 1, (0.03 + 0.001 * load,)))
    text = console.file.getvalue()
    assert "12 calls in 4 loads" in text and "p50 0.0510 ms" in text
    assert "reference network ▁▁▄▆█" in text or "reference network ▁▁▃▆█" in text


def test_nothing_is_drawn_where_nobody_looks():
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    with show_devices.watching("my-board", [A], console) as watch:
        assert watch is None
    assert console.file.getvalue() == ""


@pytest.mark.parametrize("width", [80, 120, 140])
def test_every_device_says_what_it_can_tell_and_whether_it_answers(width):
    known = [(load_profile(name), None) for name in profiles()]
    silent = {profile.name: "" if profile.name == "local-cpu" else "away" for profile, _ in known}
    text = shown(show_devices.devices, known, silent, width=width)
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line.split()}
    assert rows["local-cpu"][:5] == ["local-cpu", "–", "–", "here", "answers"]
    assert rows["raspberry-pi-4"][2:7] == ["roofline", "on", "paper", "–", "–"]
    assert int(rows["raspberry-pi-4"][1]) == len(load_profile("raspberry-pi-4").facts)
    assert rows["facts"] == ["facts", "predicted", "by", "measured", "now"], "no title is cut short"
    assert ("four Arm Cortex-A72 cores" in text) is (width >= 130)
    assert "…" not in text and all(len(line) <= width for line in text.splitlines())


def test_a_device_shows_every_fact_with_unit_kind_and_source():
    board = load_profile("raspberry-pi-4")
    text = shown(show_devices.device, board, None, "raspberry-pi-4 is not connected", width=300)
    sources = dict(re.findall(r"^  (\[\d+\]) (.+?) *$", text, re.MULTILINE))
    assert len(set(sources.values())) == len(sources), "each is listed once"
    for fact in board.facts:
        line = next(
            line for line in text.splitlines() if line.strip().startswith(fact.quantity.replace("_", " "))
        )
        number = re.search(r"\[\d+\]", line)
        assert sources[number[0]] == f"{fact.source} ({fact.date})"
        assert fact.kind in line and fact.note in line
        assert fact.unit == "text" or fact.unit in line
    assert "raspberry-pi-4 is not connected" in text
