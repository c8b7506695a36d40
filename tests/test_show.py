"""A run's result in the terminal, for runs in every state and windows of every width."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from nasflow import show

SUMMARY = json.loads((Path(__file__).parent / "data" / "summary.json").read_text())


def shown(summary, folder=Path("runs/digits"), width=120):
    console = Console(file=io.StringIO(), width=width)
    show.summary(summary, folder, "sqlite:///somewhere/mlflow.db", console)
    return console.file.getvalue()


def lines(text, word):
    return [" ".join(line.split()) for line in text.splitlines() if word in line]


def test_the_front_is_a_table_with_every_objective_and_the_knee_marked():
    text = shown(SUMMARY)
    for entry in SUMMARY["front"]:
        assert lines(text, f"trial-{entry['trial']} ")
    assert lines(text, "origin of") == ["trial-38 2.1 % 0.0360 ms 176 k knee, origin of what ships"]
    assert lines(text, "latency on local-cpu")[0] == "error latency on local-cpu multiply-adds"


def test_the_shipped_network_is_named_with_the_reason_and_its_file():
    text = shown(SUMMARY)
    assert "Ship trial-38-pruned-1." in text
    assert "pruned form of the front's knee" in " ".join(text.split())
    assert "runs/digits/models/trial-38-pruned-1/model.onnx" in text
    assert "mlflow ui --backend-store-uri sqlite:///somewhere/mlflow.db" in text


def test_of_the_files_the_shipped_one_is_marked():
    rows = [line for line in lines(shown(SUMMARY), "0.") if line.startswith("trial") and "kB" in line]
    assert [row for row in rows if "ships" in row] == [
        "trial-38-pruned-1 ships 1.9 % 0.0247 ms 0.179 ms 27.6 kB"
    ]
    assert len(rows) == len(SUMMARY["deployed"])


def test_every_compression_step_says_whether_it_was_kept_and_both_numbers():
    text = " ".join(shown(SUMMARY).split())
    for step in SUMMARY["compression"]:
        assert f"{step['name']} {'kept' if step['accepted'] else 'refused'}" in text
    assert "0.0360 ms → 0.0246 ms" in text and "0.0360 ms → 0.0483 ms" in text


def test_every_compression_step_says_what_it_did():
    policy = {"channels.stem": 0.5, "block.last": False}
    steps = [{**SUMMARY["compression"][0], "policy": policy}]
    text = " ".join(shown({**SUMMARY, "compression": steps}).split())
    assert "50 % of the channels in stem; without last" in text


def test_every_stage_is_shown_with_its_time():
    text = shown(SUMMARY)
    assert lines(text, "search ")[0] == "search done 1 min 36 s 48 trials"


def test_a_file_over_a_limit_is_marked():
    over = json.loads(json.dumps(SUMMARY))
    over["deployed"][0]["limits"][0]["holds"] = False
    assert "over a limit" in shown(over) and "over a limit" not in shown(SUMMARY)


def test_latencies_that_are_not_to_be_trusted_are_marked_and_said():
    doubtful = json.loads(json.dumps(SUMMARY))
    doubtful["latency"] = {"local-cpu": {"noisy": {"38": "others had the core"}, "moved": {"38": 0.12}}}
    doubtful["deployed"][0]["latency"]["local-cpu"]["noisy"] = "the p50 is known to within 9% only"
    text = " ".join(shown(doubtful, width=200).split())
    assert "knee, origin of what ships, noisy on local-cpu, local-cpu was 12.0 % slower" in text
    assert "ships, noisy on local-cpu" in text
    assert "The latency of trial-38 on local-cpu is too noisy to tell: others had the core." in text
    assert "noisy" not in shown(SUMMARY)


def test_the_report_is_named_if_it_is_there(tmp_path):
    assert "report.html" not in shown(SUMMARY, tmp_path)
    (tmp_path / "report.html").write_text("")
    assert str(tmp_path / "report.html") in shown(SUMMARY, tmp_path, width=40)


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_names_and_places_stay_whole_however_narrow_the_window(width):
    text = shown(SUMMARY, width=width)
    assert "runs/digits/models/trial-38-pruned-1/model.onnx" in text
    if width >= 60:
        assert "trial-38-pruned-1-int8" in text


@pytest.mark.parametrize(
    "missing",
    [
        *SUMMARY,
        ("deployed", "compression", "retrained", "choice"),
        ("front", "points", "deployed"),
        tuple(SUMMARY),
    ],
)
def test_a_run_in_the_middle_is_shown_as_far_as_it_is(missing):
    keys = (missing,) if isinstance(missing, str) else missing
    part = {key: value for key, value in SUMMARY.items() if key not in keys}
    assert "run folder" in shown(part)
    assert "run folder" in shown({**SUMMARY, **dict.fromkeys(keys)})


@pytest.mark.parametrize("status", ["running", "failed", "infeasible"])
def test_an_unfinished_run_does_not_claim_to_ship(status):
    part = {**SUMMARY, "status": status, "deployed": [], "choice": None, "message": "the device is [gone]"}
    text = shown(part)
    assert "Ship " not in text and "he device is [gone]" in text


def test_a_plan_is_shown_step_by_step_with_the_sum():
    from nasflow.plan import Plan, Step  # brings torch along

    console = Console(file=io.StringIO(), width=100)
    show.plan(
        Plan("digits", (Step("search", "28 trainings", 90.0), Step("deploy", "files", 10.0)), ("A note.",)),
        console,
    )
    text = console.file.getvalue()
    assert lines(text, "search") == ["search 28 trainings 1 min 30 s"]
    assert lines(text, "all") == ["all 1 min 40 s"] and "A note." in text
