"""What MLflow should hold is made of the summary and the trials alone."""

from __future__ import annotations

import copy
import doctest
import re
from pathlib import Path
from typing import Any

from flows import lineage
from flows.lineage import PIPELINE, Entry, entries, front_rows, front_table
from nasflow.report import words
from nasflow.study import Trial

Finished = tuple[dict[str, Any], list[Trial], Path]


def by_key(found: list[Entry]) -> dict[str, Entry]:
    return {entry.key: entry for entry in found}


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(lineage).failed == 0


def test_every_run_hangs_under_one_that_comes_before_it(finished: Finished) -> None:
    seen: set[str] = set()
    for entry in entries(*finished):
        assert entry.key not in seen
        assert (entry.parent is None) == (entry.key == PIPELINE)
        assert entry.parent is None or entry.parent in seen
        seen.add(entry.key)


def test_the_line_from_pipeline_to_shipped_file_is_unbroken(finished: Finished) -> None:
    found = by_key(entries(*finished))
    shipped = next(entry for entry in found.values() if entry.model and entry.model.shipped)
    line = [shipped.key]
    while (parent := found[line[-1]].parent) is not None:
        line.append(parent)
    assert line == ["trial-38-pruned-1/retrained", "trial-38-pruned-1", "trial-38", PIPELINE]


def test_names_are_such_as_mlflow_takes(finished: Finished) -> None:
    for entry in entries(*finished):
        for name in [*entry.metrics, *entry.curves, *entry.params, *entry.tags]:
            assert re.fullmatch(r"[A-Za-z0-9_\-. :/]+", name), name


def test_only_what_was_trained_becomes_a_run_and_the_rest_is_counted(finished: Finished) -> None:
    summary, trials, _ = finished
    found = by_key(entries(*finished))
    trained = {f"trial-{t.number}" for t in trials if t.state in ("done", "failed")}
    assert {key for key in found if re.fullmatch(r"trial-\d+", key)} == trained
    assert found[PIPELINE].metrics["trials/refused"] == summary["trials"]["refused"] > 0


def test_marks_front_knee_and_failures(finished: Finished) -> None:
    summary, *_ = finished
    found = by_key(entries(*finished))
    pareto = {key for key, entry in found.items() if entry.tags.get("pareto") == "true"}
    assert pareto == {f"trial-{member['trial']}" for member in summary["front"]}
    knees = [member["trial"] for member in summary["front"] if member["knee"]]
    assert [key for key, entry in found.items() if "knee" in entry.tags] == [f"trial-{n}" for n in knees]
    failed = found["trial-99"]
    assert failed.status == "FAILED"
    assert failed.tags["reason"] == "Diverged: the loss is NaN"


def test_refused_compression_steps_say_why(finished: Finished) -> None:
    summary, *_ = finished
    found = by_key(entries(*finished))
    for step in summary["compression"]:
        tags = found[step["name"]].tags
        assert tags["state"] == ("accepted" if step["accepted"] else "refused")
        assert tags["reason"] == step["reason"]
        told = found[step["name"]].metrics
        assert told["size_kb"] == step["after"]["size_kb"]
        assert told["before/size_kb"] == step["before"]["size_kb"]
        assert tags["change"] == words.change(step["before"], step["after"]) != ""
        described = tags["mlflow.note.content"]
        assert tags["change"] in described and step["reason"] in described
        assert all(f"- {how} {where}" in described for how, where in words.policy(step["policy"]))


def test_every_deployed_file_is_kept_as_a_model_once(finished: Finished) -> None:
    summary, *_ = finished
    kept = [entry.model for entry in entries(*finished) if entry.model]
    assert sorted(model.sha256 for model in kept) == sorted(one["sha256"] for one in summary["deployed"])
    assert [model.tags["network"] for model in kept if model.shipped] == [summary["choice"]["name"]]


def test_the_error_of_a_retrained_network_stays_the_mean_of_its_seeds(finished: Finished) -> None:
    summary, trials, folder = finished
    changed = copy.deepcopy(summary)
    for one in changed["deployed"]:
        one["metrics"] = {"error": 0.5, "flops": 7.0}
    retrained = by_key(entries(changed, trials, folder))["trial-38-pruned-1/retrained"]
    (known,) = (one for one in summary["retrained"] if one["name"] == "trial-38-pruned-1")
    assert retrained.metrics["error"] == known["error"]
    assert retrained.metrics["flops"] == 7.0
    assert len(retrained.curves["training/loss"]) == len(known["curve"])


def test_a_run_that_has_only_begun_has_a_pipeline_and_nothing_else(finished: Finished) -> None:
    summary, _, folder = finished
    begun = {
        **summary,
        "status": "running",
        "message": "",
        "data": {},
        "stages": {
            stage: {"status": "pending", "seconds": None, "message": ""} for stage in summary["stages"]
        },
        "trials": {},
        "points": [],
        "front": [],
        "hypervolume": {"reference": {}, "curve": []},
        "compression": [],
        "retrained": [],
        "choice": None,
        "deployed": [],
    }
    (only,) = entries(begun, [], folder)
    assert only.status == "RUNNING"
    assert only.params["search.trials"] == "48"
    assert only.files == ()


def test_the_front_table_has_a_row_per_member_with_its_objectives(finished: Finished) -> None:
    summary, *_ = finished
    rows = front_rows(summary)
    assert len(rows) == len(summary["front"])
    assert list(rows[0]) == ["network", "error", "latency on local-cpu", "multiply-adds", "note"]
    assert rows[0]["error"] == "1.0 %"
    assert sum("knee" in row["note"] for row in rows) == 1
    assert front_table(summary).count("\n") == len(rows) + 1
    assert front_table({**summary, "front": []}) == ""
