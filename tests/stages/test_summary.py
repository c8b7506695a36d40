"""summary.json: one file that says everything, whole and true at every moment of a run."""

import importlib
import itertools
import json
from unittest import mock

import pytest
import tiny
from tiny import experiment, opened

from nasflow import pareto, stages, training
from nasflow.errors import NasflowError
from nasflow.files import read_json
from nasflow.record import RecordError
from nasflow.stages import STAGES, summarise

NUMBER = (int, float)
METRICS = {"*": NUMBER}
STAGE = {"status": str, "seconds": (int, float, type(None)), "message": str}
# What the report, `nasflow show`, MLflow and everybody's scripts may rely on.
SCHEMA = {
    "nasflow": str,
    "run": str,
    "folder": str,
    "status": str,
    "message": str,
    "experiment": dict,
    "data": {
        "name": str,
        "sha256": str,
        "shape": [int],
        "classes": int,
        "train": int,
        "validation": int,
        "skipped": {"*": int},
    },
    "space": {
        "size": (int, type(None)),
        "parameters": int,
        "sha256": str,
        "first": {"*": NUMBER},
        "last": {"*": NUMBER},
    },
    "objectives": [{"metric": str, "goal": str, "limit": (*NUMBER, type(None)), "optimise": bool}],
    "stages": dict.fromkeys(STAGES, STAGE),
    "trials": {
        "pending": int,
        "done": int,
        "failed": int,
        "refused": int,
        "duplicate": int,
        "failures": {"*": int},
    },
    "points": [
        {
            "trial": int,
            "state": str,
            "point": dict,
            "fidelity": NUMBER,
            "metrics": METRICS,
            "on_front": bool,
            "error": (str, type(None)),
            "seconds": NUMBER,
        }
    ],
    "front": [{"trial": int, "point": dict, "metrics": METRICS, "knee": bool}],
    "latency": {"*": dict},
    "time": {"*": {"original": str, "before": dict, "after": dict}},
    "hypervolume": {"reference": METRICS, "curve": [NUMBER]},
    "compression": [
        {
            "name": str,
            "parent": str,
            "kind": str,
            "policy": dict,
            "accepted": bool,
            "reason": str,
            "before": METRICS,
            "after": METRICS,
        }
    ],
    "retrained": [{"name": str, "error": NUMBER, "errors": [NUMBER], "epochs": int, "curve": [[NUMBER]]}],
    "choice": {"name": str, "rule": str, "why": str, "limits_kept": bool},
    "deployed": [
        {
            "name": str,
            "shipped": bool,
            "file": str,
            "sha256": str,
            "size_kb": NUMBER,
            "network": dict,
            "parity": {"max_abs_difference": NUMBER, "agreement": NUMBER, "samples": int},
            "test_error": NUMBER,
            "validation_error": NUMBER,
            "metrics": METRICS,
            "latency": {"*": dict},
            "limits": [{"metric": str, "limit": NUMBER, "value": NUMBER, "holds": bool}],
            "certificate": str,
        }
    ],
    "report": str,
    "seconds": NUMBER,
    "environment": {"python": str, "system": str, "processor": str, "cores": int, "memory_gb": NUMBER},
}


def differing(value, schema, where="summary"):
    """Where a value is not what a schema says: keys missing or too many, or of another type."""
    if isinstance(schema, (type, tuple)):
        fits = isinstance(value, schema) and (schema is bool or not isinstance(value, bool))
        return [] if fits else [f"{where}: {value!r}"]
    if isinstance(schema, list):
        if not isinstance(value, list):
            return [f"{where}: {value!r}"]
        return [one for i, item in enumerate(value) for one in differing(item, schema[0], f"{where}[{i}]")]
    if "*" in schema:
        schema = dict.fromkeys(value, schema["*"])
    if value.keys() != schema.keys():
        return [f"{where}: {sorted(value.keys() ^ schema.keys())}"]
    return [one for key in schema for one in differing(value[key], schema[key], f"{where}.{key}")]


def test_a_finished_run_says_everything_a_summary_should(finished_run):
    assert differing(finished_run.summary, SCHEMA) == []
    assert all(finished_run.summary[key] for key in SCHEMA if key != "time")  # nothing compressed may ship


def test_what_is_returned_is_what_is_on_disk_and_is_json_for_everyone(finished_run):
    text = (finished_run.folder / "summary.json").read_text()
    assert json.loads(text, parse_constant=pytest.fail) == finished_run.summary


def test_the_watch_over_the_schema_sees_what_is_wrong():
    said = {"pending": 0, "done": "1", "failed": True, "refused": 0, "failures": {"x": 1.5}, "more": 1}
    assert differing(said, SCHEMA["trials"]) == ["summary: ['duplicate', 'more']"]
    said = {**dict.fromkeys(SCHEMA["trials"], 0), "done": "1", "failed": True, "failures": {"x": 1.5}}
    assert differing(said, SCHEMA["trials"]) == [
        "summary.done: '1'",
        "summary.failed: True",
        "summary.failures.x: 1.5",
    ]


def test_its_parts_agree_with_one_another(finished_run):
    summary = finished_run.summary
    points = {point["trial"]: point for point in summary["points"]}
    assert [p["trial"] for p in summary["points"] if p["on_front"]] == sorted(
        e["trial"] for e in summary["front"]
    )
    assert sum(entry["knee"] for entry in summary["front"]) == 1
    for entry in summary["front"]:
        assert entry["metrics"] == points[entry["trial"]]["metrics"]
        assert entry["point"] == points[entry["trial"]]["point"]
    errors = [entry["metrics"]["error"] for entry in summary["front"]]
    assert errors == sorted(errors)
    states = [point["state"] for point in summary["points"]]
    assert all(
        states.count(state) <= count for state, count in summary["trials"].items() if state != "failures"
    )
    assert summary["trials"]["done"] == len(summary["hypervolume"]["curve"])
    names = {step["name"] for step in summary["compression"]} | {f"trial-{number}" for number in points}
    assert (
        {one["name"] for one in summary["retrained"]} <= {one["name"] for one in summary["deployed"]} <= names
    )
    assert summary["choice"]["name"] in {one["name"] for one in summary["deployed"]}
    assert summary["seconds"] == pytest.approx(sum(stage["seconds"] for stage in summary["stages"].values()))


def test_the_front_and_its_knee_are_those_of_the_study(finished_run):
    with opened(finished_run.experiment, finished_run.folder) as run:
        study = run.study()
    front = study.front
    assert {entry["trial"] for entry in finished_run.summary["front"]} == {trial.number for trial in front}
    knee = next(entry["trial"] for entry in finished_run.summary["front"] if entry["knee"])
    assert knee == front[pareto.knee(study.losses(front))].number


def test_the_hypervolume_grows_to_that_of_the_front(finished_run):
    curve = finished_run.summary["hypervolume"]["curve"]
    assert all(0 <= a <= b <= 1 for a, b in itertools.pairwise(curve))
    reference = finished_run.summary["hypervolume"]["reference"]
    assert set(reference) == {"error", "latency_ms@local-cpu", "flops"}
    done = [point["metrics"] for point in finished_run.summary["points"] if point["state"] == "done"]
    assert all(reference[name] >= max(metrics[name] for metrics in done) for name in reference)


def test_curves_are_those_of_the_best_seed(finished_run):
    for one in finished_run.summary["retrained"]:
        assert [row[0] for row in one["curve"]] == list(range(1, one["epochs"] + 1)) == [1, 2, 3, 4, 5, 6]
        assert one["curve"][-1][2] == min(one["errors"])


def test_book_keeping_is_not_shown(finished_run):
    assert "training_memory_mb" not in json.dumps(
        finished_run.summary["points"] + finished_run.summary["front"]
    )
    assert [o["metric"] for o in finished_run.summary["objectives"]] == [
        "error",
        "latency_ms@local-cpu",
        "flops",
    ]


def test_it_is_true_after_every_stage(finished_run, tmp_path):
    mine = experiment(
        finished_run.data,
        search={"trials": 1},
        compress={"trials": 1, "epochs": 1},
        retrain={"seeds": 1, "epochs": 1},
    )
    with opened(mine, tmp_path / "run") as run:
        done = []
        for stage in (None, *STAGES[:-1]):
            if stage is not None:
                getattr(stages, stage)(run)
                done.append(stage)
            summary = summarise(run)
            assert summary["status"] == ("done" if stage == "deploy" else "running")
            assert [s for s in STAGES if summary["stages"][s]["status"] == "done"] == done
            assert [s for s in STAGES if summary["stages"][s]["status"] == "pending"] == [
                s for s in STAGES if s not in done
            ]
            assert bool(summary["data"]) == ("define" in done)
            assert bool(summary["front"]) == ("search" in done)
            assert bool(summary["compression"]) == ("compress" in done)
            assert bool(summary["retrained"]) == ("retrain" in done)
            assert (summary["choice"] is not None) == bool(summary["deployed"]) == ("deploy" in done)


@pytest.mark.parametrize("stage", ["define", "search", "compress", "retrain", "deploy"])
def test_a_stage_that_fails_is_named_with_its_reason_and_the_rest_kept(copied, stage):
    for later in STAGES[STAGES.index(stage) :]:
        (copied.folder / "stages" / f"{later}.json").unlink()
    module = importlib.import_module(f"nasflow.stages.{stage}")
    with (
        mock.patch.object(module, f"_{stage}", side_effect=NasflowError("it broke")),
        pytest.raises(NasflowError, match="it broke"),
    ):
        tiny.run(copied.experiment, copied.folder)
    summary = read_json(copied.folder / "summary.json")
    assert (summary["status"], summary["message"]) == ("failed", "it broke")
    assert summary["stages"][stage] == {"status": "failed", "seconds": None, "message": "it broke"}
    before = STAGES[: STAGES.index(stage)]
    assert all(summary["stages"][earlier]["status"] == "done" for earlier in before)
    assert summary["front"] == copied.summary["front"]
    assert tiny.run(copied.experiment, copied.folder)["status"] == "done"


def test_failed_trials_are_counted_by_reason(finished_run, tmp_path):
    calls = []

    def train(*given, **more):
        calls.append(1)
        if len(calls) % 2:
            raise RuntimeError("no luck")
        return training.train(*given, **more)

    with (
        mock.patch("nasflow.evaluators.accuracy.train", train),
        opened(finished_run.experiment, tmp_path / "run") as run,
    ):
        stages.search(run)
        summary = summarise(run)
    assert summary["trials"]["failed"] == 3
    assert summary["trials"]["failures"] == {"RuntimeError: no luck": 3}


def test_a_broken_record_keeps_no_summary_from_being_written(copied):
    (copied.folder / "stages" / "search.json").unlink()
    journal = copied.folder / "study.journal"
    journal.write_bytes(b"garbage\n" + journal.read_bytes())
    with pytest.raises(RecordError, match="line 1 is broken"):
        tiny.run(copied.experiment, copied.folder)
    summary = read_json(copied.folder / "summary.json")
    assert summary["status"] == "failed" and "line 1 is broken" in summary["message"]
    assert summary["front"] == []
