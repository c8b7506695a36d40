"""MLflow ends up agreeing with the run, whatever happened before, and never holds anything twice."""

from __future__ import annotations

import copy
import doctest
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnxruntime
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as MlflowRun

from flows import tracking
from flows.lineage import DESCRIPTION, PIPELINE, Entry, entries, trial_entry
from flows.tracking import Address, DamagedStore, Mirror, Tracker, TrackingError, address, identity
from nasflow.experiment import from_mapping
from nasflow.study import Trial

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own

Finished = tuple[dict[str, Any], list[Trial], Path]


def sync(store: Address, finished: Finished) -> None:
    summary, trials, folder = finished
    tracker = Tracker(store, folder)
    try:
        tracker.sync(summary, trials).result()
    finally:
        tracker.close()


def client(store: Address) -> MlflowClient:
    return MlflowClient(store.uri, registry_uri=store.uri)


def held(store: Address) -> dict[str, MlflowRun]:
    """Every run in the store by its key within the nasflow run; fails if one is there twice."""
    known = client(store)
    experiment = known.get_experiment_by_name(store.experiment)
    assert experiment is not None
    runs = list(known.search_runs([experiment.experiment_id], max_results=1000))
    keys = [run.data.tags[tracking.KEY].partition("/")[2] for run in runs]
    assert [key for key, count in Counter(keys).items() if count > 1] == []
    return dict(zip(keys, runs, strict=True))


def agrees(store: Address, finished: Finished) -> dict[str, MlflowRun]:
    """Assert that the store holds exactly what it should, and give its runs."""
    runs = held(store)
    wanted = {entry.key: entry for entry in entries(*finished)}
    assert runs.keys() == wanted.keys()
    for key, entry in wanted.items():
        run = runs[key]
        assert run.info.status == entry.status, key
        assert run.data.params == dict(entry.params), key
        assert run.data.metrics.items() >= entry.metrics.items(), key
        tags = {name: value for name, value in entry.tags.items() if name != DESCRIPTION}
        assert run.data.tags.items() >= tags.items(), key
        assert run.data.tags.get(DESCRIPTION, "").endswith(entry.tags.get(DESCRIPTION, "")), key
        parent = run.data.tags.get("mlflow.parentRunId")
        assert parent == (runs[entry.parent].info.run_id if entry.parent else None), key
    return runs


def few(finished: Finished, deployed: int = 3) -> Finished:
    """The finished run with two trials, one compression step and one retrained network."""
    summary, trials, folder = finished
    kept = {
        **summary,
        "compression": summary["compression"][:1],
        "retrained": summary["retrained"][:1],
        "deployed": summary["deployed"][:deployed],
    }
    return kept, [trial for trial in trials if trial.number in (38, 99)], folder


def small(finished: Finished, count: int = 3) -> Finished:
    """The same run after its first trials, with nothing deployed."""
    summary, trials, folder = finished
    begun = {
        **summary,
        "status": "running",
        "front": [],
        "compression": [],
        "retrained": [],
        "deployed": [],
        "hypervolume": {"reference": {}, "curve": []},
    }
    return begun, trials[:count], folder


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often each method of MLflow that writes was called."""
    calls: Counter[str] = Counter()
    for name in ("create_run", "log_batch", "set_tag", "delete_tag", "delete_run", "log_artifact", "log_text",
                 "set_terminated", "update_run", "create_model_version", "create_logged_model"):  # fmt: skip
        original = getattr(MlflowClient, name)

        def call(*args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
            calls[_name] += 1
            return _original(*args, **kwargs)

        monkeypatch.setattr(MlflowClient, name, call)
    yield calls


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(tracking).failed == 0


def test_holds_the_whole_run_with_its_lineage_and_files(store: Address, finished: Finished) -> None:
    sync(store, finished)
    runs = agrees(store, finished)
    known = client(store)
    files = {file.path for file in known.list_artifacts(runs[PIPELINE].info.run_id)}
    assert {"report.html", "summary.json", "front.svg", "front.md"} <= files
    shipped = runs["trial-38-pruned-1/retrained"]
    assert shipped.data.tags["shipped"] == "true"
    assert "certificate.json" in {file.path for file in known.list_artifacts(shipped.info.run_id)}
    trial = runs["trial-8"]
    assert trial.data.metrics["latency_ms/local-cpu"] == pytest.approx(0.1434)
    seconds = next(t.seconds for t in finished[1] if t.number == 8)
    assert trial.info.end_time - trial.info.start_time == pytest.approx(1000 * seconds, abs=1)


def test_a_second_sync_writes_nothing(
    store: Address, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(store, few(finished))
    with counted(monkeypatch) as calls:
        sync(store, few(finished))
    assert calls == {}


def test_a_trial_costs_three_writes(
    store: Address, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary, trials, folder = small(finished, 0)
    sync(store, (summary, trials, folder))
    mirror = Mirror.open(store, identity(folder))
    with counted(monkeypatch) as calls:
        mirror.put(trial_entry(finished[1][0]))
    assert calls == {"create_run": 1, "log_batch": 1, "set_terminated": 1}


@pytest.mark.parametrize("call", ["create_run", "log_batch", "set_terminated", "set_tag", "log_artifact",
                                  "create_logged_model", "log_model_artifacts", "create_model_version"])  # fmt: skip
@pytest.mark.parametrize("after", [False, True])
def test_what_a_kill_left_half_written_is_completed(
    store: Address, finished: Finished, monkeypatch: pytest.MonkeyPatch, call: str, after: bool
) -> None:
    run = summary, trials, folder = few(finished, deployed=1)
    original = getattr(MlflowClient, call)
    times = 0

    class Killed(BaseException):
        pass

    def kill(*args: Any, **kwargs: Any) -> Any:
        nonlocal times
        times += 1
        if times != (1 if "model" in call else 2):
            return original(*args, **kwargs)
        if after:
            original(*args, **kwargs)
        raise Killed

    monkeypatch.setattr(MlflowClient, call, kill)
    tracker = Tracker(store, folder)
    with pytest.raises(Killed):
        tracker._sync(summary, trials)
    tracker.close()
    monkeypatch.setattr(MlflowClient, call, original)
    sync(store, run)
    agrees(store, run)
    versions = client(store).search_model_versions("name = 'digits'")
    assert len(versions) == len(summary["deployed"])
    assert len({version.tags[tracking.KEY] for version in versions}) == len(versions)


def test_a_batch_that_was_cut_short_is_not_logged_twice(store: Address, finished: Finished) -> None:
    summary, *_ = finished
    sync(store, few(finished, deployed=0))
    known, runs = client(store), held(store)
    run = runs["trial-38-pruned-1/retrained"].info.run_id
    known.delete_tag(run, tracking.STEPS)  # the curve is there, the tags that come after it are not
    sync(store, few(finished, deployed=0))
    (said,) = (one for one in summary["retrained"] if one["name"] == "trial-38-pruned-1")
    history = known.get_metric_history(run, "training/loss")
    assert [(point.step, point.value) for point in history] == [(row[0], row[1]) for row in said["curve"]]


def test_a_resumed_retraining_goes_on_in_the_same_run(store: Address, finished: Finished) -> None:
    summary, _, folder = finished
    begun = copy.deepcopy({**summary, "deployed": []})
    for one in begun["retrained"]:
        one["curve"] = one["curve"][:7]
    sync(store, (begun, [], folder))
    before = held(store)["trial-38-pruned-1/retrained"].info.run_id
    sync(store, ({**summary, "deployed": []}, [], folder))
    assert held(store)["trial-38-pruned-1/retrained"].info.run_id == before
    steps = [point.step for point in client(store).get_metric_history(before, "training/loss")]
    assert steps == list(range(1, 41))


def test_marks_follow_the_front(store: Address, finished: Finished) -> None:
    summary, trials, folder = small(finished, 12)
    first = next(member for member in finished[0]["front"] if member["trial"] == 8)
    second = {**first, "trial": 6, "knee": True}
    sync(store, ({**summary, "front": [{**first, "knee": True}]}, trials, folder))
    assert {"pareto", "knee"} <= held(store)["trial-8"].data.tags.keys()
    sync(store, ({**summary, "front": [second]}, trials, folder))
    runs = held(store)
    assert not {"pareto", "knee"} & runs["trial-8"].data.tags.keys()
    assert {"pareto", "knee"} <= runs["trial-6"].data.tags.keys()


def test_a_parameter_that_changed_makes_another_run_in_its_place(store: Address, finished: Finished) -> None:
    summary, trials, folder = small(finished)
    sync(store, (summary, trials, folder))
    more = copy.deepcopy(summary)
    more["experiment"]["search"]["trials"] = 96
    sync(store, (more, trials, folder))
    agrees(store, (more, trials, folder))


def test_fresh_runs_stand_beside_the_old_ones(store: Address, finished: Finished) -> None:
    summary, trials, folder = small(finished)
    sync(store, (summary, trials, folder))
    (folder / "tracking.json").unlink()  # as --fresh does with all that is in the folder
    sync(store, (summary, trials, folder))
    experiment = client(store).get_experiment_by_name("digits")
    assert experiment is not None
    keys = [r.data.tags[tracking.KEY] for r in client(store).search_runs([experiment.experiment_id])]
    assert len(keys) == len(set(keys)) == 2 * (1 + len(trials))


def test_more_values_than_one_call_takes(store: Address, finished: Finished) -> None:
    mirror = Mirror.open(store, "many")
    entry = Entry(
        key=PIPELINE,
        name="many",
        parent=None,
        params={f"p{n}": "x" * 7000 for n in range(230)},
        metrics={f"m{n}": float(n) for n in range(30)},
        tags={"note": "y" * 9000},
        curves={"c": [float(n) for n in range(2100)]},
    )
    run_id = mirror.put(entry)
    run = client(store).get_run(run_id)
    assert len(run.data.params) == 230
    for kept, letter, most, all_of_it in (
        (run.data.params["p0"], "x", 6000, "7,000"),
        (run.data.tags["note"], "y", 8000, "9,000"),
    ):
        assert len(kept) == most and kept.startswith(letter * 5000)
        assert kept.endswith(f"… (cut off: {all_of_it} characters; see summary.json)")
    assert len(client(store).get_metric_history(run_id, "c")) == 2100
    assert run.data.metrics["m29"] == 29.0


def test_the_registry_has_a_certified_version_per_file_and_knows_the_shipped_one(
    store: Address, finished: Finished
) -> None:
    summary, *_ = finished
    sync(store, few(finished))
    sync(store, few(finished))
    known = client(store)
    versions = {v.tags["network"]: v for v in known.search_model_versions("name = 'digits'")}
    assert versions.keys() == {one["name"] for one in summary["deployed"]}
    shipped = known.get_model_version_by_alias("digits", "shipped")
    assert shipped.tags["network"] == summary["choice"]["name"]
    assert shipped.tags["shipped"] == "true"
    assert shipped.tags["limits"] == "kept"
    assert float(shipped.tags["latency_ms/local-cpu"]) == pytest.approx(0.02467)
    assert shipped.run_id == held(store)["trial-38-pruned-1/retrained"].info.run_id
    assert shipped.tags["data.sha256"] == summary["data"]["sha256"]


def test_the_model_answers_without_nasflow_as_the_file_does(
    store: Address, finished: Finished, tmp_path: Path
) -> None:
    summary, _, folder = finished
    sync(store, few(finished))
    program = """
import sys
class Away:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nasflow", "flows", "torch", "prefect"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Away())
import mlflow, numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/digits@champion-local-cpu")
x = np.random.default_rng(0).normal(size=(5, 1, 8, 8)).astype("float32")
np.save(sys.argv[2], model.predict(x)["logits"])
file = mlflow.onnx.load_model("models:/digits@shipped").SerializeToString()
import onnxruntime
(again,) = onnxruntime.InferenceSession(file).run(None, {"input": x})
assert np.array_equal(again, np.load(sys.argv[2]))
print(model.metadata.signature.inputs.inputs[0].shape, model.metadata.metadata["classes"][9])
"""
    told = subprocess.run(
        [sys.executable, "-P", "-c", program, store.uri, str(tmp_path / "answer.npy")],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    )  # fmt: skip
    assert told.stdout.split("\n")[-2] == "(-1, 1, 8, 8) 9"
    x = np.random.default_rng(0).normal(size=(5, 1, 8, 8)).astype("float32")
    file = folder / next(one["file"] for one in summary["deployed"] if one["shipped"])
    wanted = onnxruntime.InferenceSession(file).run(None, {"input": x})[0]
    np.testing.assert_array_equal(np.load(tmp_path / "answer.npy"), wanted)


def test_a_search_is_not_held_up(store: Address, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    summary, trials, folder = small(finished, 20)
    wait = threading.Event()
    original = Mirror.put

    def slow(self: Mirror, entry: Entry) -> str:
        wait.wait(10)
        return original(self, entry)

    monkeypatch.setattr(Mirror, "put", slow)
    tracker = Tracker(store, folder)
    tracker.sync(summary, [])
    done = [trial for trial in trials if trial.state == "done"]
    took = []
    for trial in done:
        start = time.perf_counter()
        tracker(trial)
        took.append(time.perf_counter() - start)
    wait.set()
    tracker._thread.shutdown(wait=True)
    assert sorted(took)[len(took) // 2] < 1e-3
    assert {f"trial-{trial.number}" for trial in done} <= held(store).keys()


def test_refused_trials_are_not_written_one_by_one(store: Address, finished: Finished) -> None:
    summary, _, folder = small(finished)
    tracker = Tracker(store, folder)
    tracker.sync(summary, []).result()
    tracker(Trial(7, {"a": 1}, state="refused", error="flops 9 is over its limit 5"))
    tracker._thread.shutdown(wait=True)
    assert held(store).keys() == {PIPELINE}


def test_a_store_that_is_away_costs_a_search_nothing(
    finished: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    summary, trials, folder = small(finished, 20)
    away = Address("http://me:secret@127.0.0.1:9", "digits", None)
    tracker = Tracker(away, folder)
    start = time.monotonic()
    for trial in trials:
        tracker(trial)
    with pytest.raises(TrackingError, match=r"MLflow at http://me:\*\*\*@127.0.0.1:9 cannot be written"):
        tracker.sync(summary, trials).result()
    tracker.close()
    assert time.monotonic() - start < 15
    assert "secret" not in caplog.text
    warnings = [record for record in caplog.records if record.name == "nasflow.tracking"]
    assert len(warnings) == 2  # one for all trials, one for the sync


@pytest.mark.parametrize("harm", ["header", "middle"])
def test_a_damaged_file_is_named_with_what_to_do_and_rebuilt_once_away(
    store: Address, finished: Finished, harm: str, empty_store: Path
) -> None:
    summary, trials, folder = small(finished)
    sync(store, (summary, trials, folder))
    file = store.file
    assert file is not None
    content = bytearray(file.read_bytes())
    if harm == "header":
        content[:100] = b"#" * 100
    else:
        content[len(content) // 4 : 3 * len(content) // 4] = b"\xff" * (len(content) // 2)
    file.write_bytes(content)
    with pytest.raises(DamagedStore, match=r"mv .*mlflow\.db .*run again: it is rebuilt"):
        sync(store, (summary, trials, folder))
    assert file.read_bytes() == bytes(content)
    file.rename(file.with_suffix(".damaged"))
    shutil.copyfile(empty_store, file)  # what making it anew gives, for less time
    client(store)._tracking_client.store.engine.dispose()  # as in another process: nothing is open any more
    sync(store, (summary, trials, folder))
    agrees(store, (summary, trials, folder))


def test_a_store_whose_making_was_killed_is_made_again(tmp_path: Path, finished: Finished) -> None:
    (tmp_path / ".mlflow.db.part").write_bytes(b"SQLite format 3\0 and no more")
    store = Address(f"sqlite:///{tmp_path}/mlflow.db", "digits", tmp_path / "mlartifacts")
    run = small(finished, 1)
    sync(store, run)
    agrees(store, run)
    assert not (tmp_path / ".mlflow.db.part").exists()


def test_a_folder_that_cannot_be_written_is_a_tracking_error(finished: Finished, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    store = Address(f"sqlite:///{blocked}/mlflow.db", "digits", blocked / "mlartifacts")
    with pytest.raises(TrackingError, match="cannot"):
        sync(store, small(finished, 1))


def test_a_locked_file_is_trouble_that_may_pass(store: Address) -> None:
    assert store.file is not None
    with sqlite3.connect(store.file) as database:
        database.execute("BEGIN EXCLUSIVE")
        tracking._check(store.file)
    database.close()


def test_an_experiment_deleted_in_mlflow_is_brought_back(store: Address, finished: Finished) -> None:
    run = small(finished, 1)
    sync(store, run)
    known = client(store)
    experiment = known.get_experiment_by_name("digits")
    assert experiment is not None
    known.delete_experiment(experiment.experiment_id)
    sync(store, run)
    agrees(store, run)


def test_where_it_is_tracked(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "digits"
    plain = from_mapping({"name": "digits", "data": {"name": "digits"}}, "here")
    set_so = from_mapping(
        {
            "name": "digits",
            "data": {"name": "digits"},
            "mlflow": {"uri": "http://tracker:5000", "experiment": "team"},
        },
        "here",
    )
    environ = {"MLFLOW_TRACKING_URI": "postgresql://tracker/mlflow"}
    runs = tmp_path / "runs"
    assert address(plain, folder, {}) == Address(
        f"sqlite:///{runs}/mlflow.db", "digits", runs / "mlartifacts"
    )
    assert address(plain, folder, environ) == Address(
        "postgresql://tracker/mlflow", "digits", runs / "mlartifacts"
    )
    assert address(set_so, folder, environ) == Address("http://tracker:5000", "team", None)


def test_leaves_mlflows_own_settings_alone(store: Address, finished: Finished) -> None:
    before = mlflow.get_tracking_uri()
    sync(store, few(finished, deployed=1))
    assert mlflow.get_tracking_uri() == before
    assert mlflow.active_run() is None


def test_the_identity_of_a_run_stays(tmp_path: Path) -> None:
    assert identity(tmp_path) == identity(tmp_path)
    assert json.loads((tmp_path / "tracking.json").read_text())["key"] == identity(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "moved")
    assert identity(tmp_path / "moved") == identity(tmp_path)


def test_a_run_says_whether_mlflow_may_lack_something_of_it(
    store: Address, finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = finished[2]

    def behind() -> bool:
        return bool(json.loads((folder / "tracking.json").read_text())["behind"])

    sync(store, small(finished, 1))
    assert behind()
    sync(store, few(finished, deployed=0))
    assert not behind()
    with monkeypatch.context() as broken:
        broken.setattr(Mirror, "put", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(TrackingError, match="disk full"):
            sync(store, few(finished, deployed=0))
    assert behind()


KILLED = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import trials
from flows.tracking import Address, Tracker
folder = Path(sys.argv[2])
summary = json.loads((folder / "summary.json").read_text())
store = Address(f"sqlite:///{folder.parent}/mlflow.db", "digits", folder.parent / "mlartifacts")
tracker = Tracker(store, folder)
tracker._open()
print("opened", flush=True)
tracker.sync(summary, trials(summary)).result()
"""


@pytest.mark.long
def test_killed_for_good_at_random_moments_it_ends_up_agreeing(store: Address, finished: Finished) -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        program = [sys.executable, "-W", "ignore", "-c", KILLED, str(Path(__file__).parent), str(finished[2])]
        with subprocess.Popen(program, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"opened\n"
            time.sleep(rng.uniform(0.0, 2.0))
            process.kill()
    sync(store, finished)
    agrees(store, finished)
    versions = client(store).search_model_versions("name = 'digits'")
    assert len(versions) == len({version.tags[tracking.KEY] for version in versions}) == 3
