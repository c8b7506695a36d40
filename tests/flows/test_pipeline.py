"""A run as Prefect sees it: real flows against a real server, with stages that take no time."""

from __future__ import annotations

import io
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings
from rich.console import Console
from sqlalchemy.exc import SADeprecationWarning
from tiny_onnx import linear

import flows
import flows.stages
from flows import pipeline as pipelines
from flows import server
from flows.pipeline import pipeline, run_pipeline
from flows.tracking import Tracker, TrackingError
from nasflow import stages
from nasflow.errors import NasflowError, Unavailable
from nasflow.evaluators.accuracy import RESULT
from nasflow.experiment import Experiment, from_mapping
from nasflow.files import FolderError, read_json, sha256, write_json
from nasflow.loop import Evaluate
from nasflow.pool import InProcess
from nasflow.stages import STAGES, Infeasible, Run
from nasflow.study import Trial

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own


@pytest.fixture(autouse=True)
def made_store(tmp_path: Path, empty_store: Path) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")


Fake = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def api(prefect_home: Path) -> Iterator[str]:
    """The server that the runs of this module report to. Without heartbeats, whose end takes a flow a second."""
    with server.reachable() as url, temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield url


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return from_mapping(
        {
            "name": "quick",
            "data": {"name": "digits", "train_limit": 100},
            "objectives": ["error", "flops"],
            "search": {"strategy": "random", "trials": 4, "batch": 2},
            "compress": {"enabled": False},
        },
        "the test",
    )


@pytest.fixture(scope="module", autouse=True)
def quick() -> Iterator[pytest.MonkeyPatch]:
    """The real search, record and summary, with nothing to train, to measure or to export."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        _make_quick(monkeypatch)
        yield monkeypatch


def _make_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def define(run: Run) -> dict[str, Any]:
        data = {"name": "digits", "sha256": run.data.sha256, "shape": [1, 8, 8], "classes": 10,
                "train": 80, "validation": 20, "skipped": {}}  # fmt: skip
        space = {"size": 100, "parameters": 2}
        return run.carry_out("define", lambda: {"message": "100 images", "data": data, "space": space})

    def retrain(run: Run) -> dict[str, Any]:
        def work() -> dict[str, Any]:
            best = min(run.study().front, key=lambda trial: trial.metrics["error"])
            folder = run.folder / "retrain"
            epochs = [{"number": n, "train_loss": 1 / n, "error": 0.5 / n, "seconds": 0.1} for n in (1, 2, 3)]
            write_json(folder / RESULT, {"epochs": [epochs]})
            one = {"name": f"trial-{best.number}", "error": 0.1, "errors": [0.1], "folder": str(folder)}
            return {"message": "1 network", "networks": [one]}

        return run.carry_out("retrain", work)

    monkeypatch.setattr(stages, "define", define)
    monkeypatch.setattr(stages, "retrain", retrain)
    monkeypatch.setattr(stages, "deploy", deploys(limits_kept=True))
    search = sys.modules["nasflow.stages.search"]
    monkeypatch.setattr(search, "evaluation", lambda run: Evaluate(train=_trained))
    monkeypatch.setattr(search, "Processes", lambda *_, **__: InProcess())
    again = {"retry_delay_seconds": 0}
    monkeypatch.setattr(flows.stages, "carry_out", flows.stages.carry_out.with_options(**again))
    monkeypatch.setattr(flows.stages, "track", flows.stages.track.with_options(**again))


def _trained(trial: Trial) -> dict[str, float]:
    rng = np.random.default_rng(trial.number)
    return {
        "error": float(rng.uniform(0.05, 0.5)),
        "flops": float(rng.integers(1e5, 1e6)),
        "training_memory_mb": 1.0,
    }


def deploys(limits_kept: bool) -> Fake:
    def deploy(run: Run) -> dict[str, Any]:
        def work() -> dict[str, Any]:
            name = run.result("retrain")["networks"][0]["name"]
            file = linear(run.folder / "models" / name / "model.onnx")
            limits = [
                {"metric": "flops", "limit": 5.0, "value": 4.0 if limits_kept else 9.0, "holds": limits_kept}
            ]
            one = {
                "name": name, "shipped": True, "file": str(file.relative_to(run.folder)), "sha256": sha256(file),
                "size_kb": 3.0, "parity": {"max_abs_difference": 0.0, "agreement": 1.0, "samples": 9},
                "test_error": 0.1, "validation_error": 0.1, "limits": limits,
                "latency": {"local-cpu": {"p50_ms": 0.1, "p90_ms": 0.2, "ci": [0.1, 0.1], "samples_ms": [0.1]}},
                "certificate": str(file.with_name("certificate.json").relative_to(run.folder)),
            }  # fmt: skip
            told = {"input": {"name": "input", "shape": ["batch", 1, 8, 8]}, "classes": list("0123456789")}
            write_json(file.with_name("certificate.json"), {**one, **told, "preprocess": {}})
            choice = {"name": name, "rule": "knee", "why": "it oversteps flops", "limits_kept": limits_kept}
            return {"message": f"{name} ships", "choice": choice, "deployed": [one]}

        return run.carry_out("deploy", work)

    return deploy


def runs(flow_run_id: Any) -> dict[str, FlowRun]:
    """The flow runs inside one, by the name of their flow."""
    inside = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[flow_run_id]))
    with get_client(sync_client=True) as client:
        return {
            client.read_flow(run.flow_id).name: run for run in client.read_flow_runs(flow_run_filter=inside)
        }


def newest() -> FlowRun:
    """The last pipeline that was started."""
    pipelines = FlowFilter(name=FlowFilterName(any_=["pipeline"]))
    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_filter=pipelines, sort=FlowRunSort.EXPECTED_START_TIME_DESC)[0]


def tasks(flow_run_id: Any, wanted: int) -> list[TaskRun]:
    """The task runs of a flow run; the server hears of them a little later."""
    until = time.monotonic() + 20
    while True:
        with get_client(sync_client=True) as client:
            found = client.read_task_runs(
                flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run_id]))
            )
        if len(found) >= wanted and all(run.state and run.state.is_final() for run in found):
            return found
        assert time.monotonic() < until, found
        time.sleep(0.2)


def logged(flow_run_id: Any, words: str) -> None:
    """Wait until the log of a flow run, which is sent now and then, holds these words."""
    until = time.monotonic() + 20
    while True:
        with get_client(sync_client=True) as client:
            logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])))
        if any(words in log.message for log in logs):
            return
        assert time.monotonic() < until
        time.sleep(0.2)


def artifacts(flow_run_id: Any) -> dict[str, Any]:
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
        )
    return {str(one.key): one for one in found}


def failing(error: Exception, times: int = 10**6) -> tuple[Fake, list[int]]:
    """A search that raises so many times before it works, and how often it was called."""
    calls: list[int] = []
    search = stages.search

    def fake(run: Run, **observers: Any) -> dict[str, Any]:
        calls.append(1)

        def work() -> dict[str, Any]:
            raise error

        return run.carry_out("search", work) if len(calls) <= times else search(run, **observers)

    return fake, calls


@dataclass(frozen=True)
class Done:
    """A finished run, as its summary and as Prefect knows it."""

    folder: Path
    summary: dict[str, Any]
    whole: FlowRun


@pytest.fixture(scope="module")
def done(
    api: str,
    quick: pytest.MonkeyPatch,
    experiment: Experiment,
    tmp_path_factory: pytest.TempPathFactory,
    empty_store: Path,
) -> Done:
    folder = tmp_path_factory.mktemp("runs") / "quick"
    shutil.copyfile(empty_store, folder.parent / "mlflow.db")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SADeprecationWarning)
        summary = run_pipeline(experiment, folder)
    return Done(folder, summary, newest())


def test_a_run_is_a_flow_of_stages_with_names_and_states(done: Done) -> None:
    assert done.summary["status"] == "done"
    assert done.whole.state is not None
    assert (done.whole.state.name, done.whole.state.message) == ("Completed", done.summary["message"])
    inside = runs(done.whole.id)
    assert {done.whole.name, *(run.name for run in inside.values())} == {"quick with random"}
    assert set(inside) == set(STAGES)
    assert {str(run.state_name) for run in inside.values()} == {"Completed"}
    assert done.whole.parameters["experiment"] == str(done.folder / "experiment.yaml")


def test_progress_front_answer_and_report_are_artifacts(done: Done) -> None:
    shown = artifacts(done.whole.id)
    assert shown.keys() == {"quick-progress", "quick-front", "quick-result", "quick-report"}
    assert shown["quick-progress"].data == 100.0
    assert "![The front](data:image/svg+xml;base64," in shown["quick-result"].data
    assert shown["quick-report"].data == f"[Report of quick]({(done.folder / 'report.html').as_uri()})"
    assert artifacts(runs(done.whole.id)["search"].id)["quick-search-progress"].data == 100.0


def test_a_stage_is_one_task_however_many_trials_it_trains(done: Done) -> None:
    (only,) = tasks(runs(done.whole.id)["search"].id, 1)
    assert only.name == "search"


def test_trials_are_in_mlflow(done: Done) -> None:
    client = MlflowClient(f"sqlite:///{done.folder.parent}/mlflow.db")
    known = client.get_experiment_by_name("quick")
    assert known is not None
    names = sorted(run.info.run_name for run in client.search_runs([known.experiment_id]))
    shipped = done.summary["choice"]["name"]
    assert names == sorted(["quick random", *(f"trial-{n}" for n in range(4)), f"{shipped} retrained"])


def test_run_again_it_says_so_in_no_time_and_starts_nothing(
    done: Done, experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipelines, "pipeline", None)
    monkeypatch.setattr(server, "reachable", None)
    start = time.monotonic()
    again = run_pipeline(experiment, done.folder)
    assert time.monotonic() - start < 5
    assert again["deployed"] == done.summary["deployed"]


def test_limits_that_nothing_keeps_end_in_a_state_that_says_so(
    api: str, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, calls = failing(Infeasible("no network keeps every limit: flops must be at most 5, best seen 9"))
    monkeypatch.setattr(stages, "search", fake)
    summary = run_pipeline(experiment, tmp_path / "quick")
    assert (summary["status"], len(calls)) == ("infeasible", 1)
    whole = newest()
    assert whole.state is not None
    assert (whole.state.type.value, whole.state.name) == ("FAILED", "Infeasible")
    assert whole.state.message == "no network keeps every limit: flops must be at most 5, best seen 9"
    assert {stage: run.state_name for stage, run in runs(whole.id).items()} == {
        "define": "Completed",
        "search": "Infeasible",
        "report": "Completed",
    }
    assert (tmp_path / "quick" / "report.html").exists()


def test_a_file_over_its_limits_is_reported_and_never_a_silent_success(
    api: str, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "deploy", deploys(limits_kept=False))
    summary = run_pipeline(experiment, tmp_path / "quick")
    assert summary["status"] == "infeasible"
    assert (tmp_path / "quick" / "report.html").exists()
    whole = newest()
    assert whole.state is not None
    assert whole.state.name == "Infeasible"
    assert "oversteps flops" in str(whole.state.message)
    assert runs(whole.id)["report"].state_name == "Completed"


def test_trials_that_failed_are_counted_in_the_state(
    api: str, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(trial: Trial) -> dict[str, float]:
        if trial.number == 1:
            raise ValueError("the loss is NaN")
        return _trained(trial)

    search = sys.modules["nasflow.stages.search"]
    monkeypatch.setattr(search, "evaluation", lambda run: Evaluate(train=train))
    assert run_pipeline(experiment, tmp_path / "quick")["status"] == "done"
    whole = newest()
    assert whole.state is not None
    assert (whole.state.name, "1 of 4 trials failed" in str(whole.state.message)) == ("Completed", True)
    inside = runs(whole.id)["search"].state
    assert inside is not None and str(inside.message).endswith("; 1 of 4 trials failed")


def test_compression_that_was_in_vain_is_said_in_its_state_and_in_the_whole_run_s(
    api: str, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compress(run: Run) -> dict[str, Any]:
        step = {"name": "trial-1-int8", "parent": "trial-1", "kind": "int8", "policy": {}, "accepted": False,
                "reason": "not measurably faster: 1 -> 2 ms on local-cpu", "before": {}, "after": {}}  # fmt: skip
        result = {"message": "0 of 2 steps kept", "steps": [step, step], "networks": []}
        return run.carry_out("compress", lambda: result)

    monkeypatch.setattr(stages, "compress", compress)
    assert run_pipeline(experiment, tmp_path / "quick")["status"] == "done"
    whole = newest()
    words = "compression kept none of 2: trial-1-int8 not measurably faster: 1 -> 2 ms on local-cpu"
    assert whole.state is not None
    assert (whole.state.name, str(whole.state.message).endswith(words)) == ("Completed", True)
    inside = runs(whole.id)["compress"].state
    assert inside is not None
    assert (inside.type.value, inside.name) == ("COMPLETED", "Refused")
    assert inside.message == f"0 of 2 steps kept; {words}"


def test_a_device_that_comes_back_is_asked_again(
    api: str, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, calls = failing(Unavailable("pixel-3 does not answer"), times=2)
    monkeypatch.setattr(stages, "search", fake)
    assert run_pipeline(experiment, tmp_path / "quick")["status"] == "done"
    assert len(calls) == 3


def test_a_device_that_is_away_at_the_start_is_told_at_once(
    api: str, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def define(run: Run) -> dict[str, Any]:
        calls.append(1)
        raise Unavailable("pixel-3 is described but not connected")

    monkeypatch.setattr(stages, "define", define)
    with pytest.raises(Unavailable, match="not connected"):
        run_pipeline(experiment, tmp_path / "quick")
    assert len(calls) == 1


def test_a_mistake_is_not_tried_again_and_its_words_are_the_state(
    api: str, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, calls = failing(NasflowError("all 5 trials so far failed"))
    monkeypatch.setattr(stages, "search", fake)
    with pytest.raises(NasflowError, match="all 5 trials so far failed"):
        run_pipeline(experiment, tmp_path / "quick")
    assert len(calls) == 1
    whole = newest()
    assert whole.state is not None
    assert (whole.state.name, whole.state.message) == ("Failed", "all 5 trials so far failed")
    assert read_json(tmp_path / "quick" / "summary.json")["status"] == "failed"


def test_a_bug_is_a_failure_with_its_traceback_in_the_log_and_is_raised(
    api: str, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, calls = failing(KeyError("what is this"))
    monkeypatch.setattr(stages, "search", fake)
    with pytest.raises(KeyError, match="what is this"):
        run_pipeline(experiment, tmp_path / "quick")
    assert len(calls) == 1
    assert newest().state_name == "Failed"


def test_what_mlflow_lacks_is_said_in_the_state_and_on_the_console(
    api: str, experiment: Experiment, tmp_path: Path
) -> None:
    (tmp_path / "mlflow.db").write_text("this is not a database, " * 10)
    out = Console(file=io.StringIO(), width=400)
    summary = run_pipeline(experiment, tmp_path / "quick", console=out)
    assert summary["status"] == "done"
    assert "is damaged" in out.file.getvalue()  # type: ignore[attr-defined]
    whole = newest()
    assert whole.state is not None
    assert (whole.state.type.value, whole.state.name) == ("COMPLETED", "Untracked")
    assert "mv " in str(whole.state.message)
    logged(whole.id, "is damaged")


def test_mlflow_is_asked_again_when_its_trouble_may_pass(
    api: str, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, times = Tracker._sync, []

    def flaky(self: Tracker, summary: Any, trials: Any) -> None:
        times.append(summary["status"])
        if (
            summary["status"] == "done" and times.count("done") < 4
        ):  # the last stage's, and two tries at the end
            raise TrackingError("MLflow does not answer")
        original(self, summary, trials)

    monkeypatch.setattr(Tracker, "_sync", flaky)
    run_pipeline(experiment, tmp_path / "quick")
    assert newest().state_name == "Completed"


def test_no_server_costs_a_warning_and_not_the_run(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away() -> None:
        raise server.NoServer("the Prefect server at http://nowhere/api does not answer")

    monkeypatch.setattr(server, "reachable", away)
    out = Console(file=io.StringIO(), width=400)
    assert run_pipeline(experiment, tmp_path / "quick", console=out)["status"] == "done"
    said = out.file.getvalue()  # type: ignore[attr-defined]
    assert "going on without Prefect: the Prefect server at http://nowhere/api does not answer" in said
    assert [line.split()[0] for line in said.splitlines() if " s  " in line] == list(STAGES)


def test_flows_run_alone_one_after_the_other(api: str, experiment: Experiment, tmp_path: Path) -> None:
    from nasflow.experiment import dump

    file = tmp_path / "quick.yaml"
    file.write_text(dump(experiment))
    for stage in STAGES:
        state = flows.stages.FLOWS[stage](str(file), folder=str(tmp_path / "run"), return_state=True)
        assert state.name == "Completed", state
    assert read_json(tmp_path / "run" / "summary.json")["status"] == "done"


def test_a_stage_before_its_time_says_what_comes_first(
    api: str, experiment: Experiment, tmp_path: Path
) -> None:
    from nasflow.experiment import dump

    file = tmp_path / "quick.yaml"
    file.write_text(dump(experiment))
    state = flows.stages.FLOWS["deploy"](str(file), folder=str(tmp_path / "run"), return_state=True)
    assert (state.name, state.type.value) == ("Failed", "FAILED")
    assert "retrain comes first" in str(state.message)
    assert read_json(tmp_path / "run" / "summary.json")["stages"]["deploy"]["status"] == "failed"


def test_a_folder_in_use_is_refused(api: str, experiment: Experiment, tmp_path: Path) -> None:
    with stages.open_run(experiment, tmp_path / "quick"):
        with pytest.raises(FolderError, match="is in use by process"):
            run_pipeline(experiment, tmp_path / "quick")
        state = pipeline("digits", folder=str(tmp_path / "quick"), return_state=True)
    assert (state.name, state.type.value) == ("Failed", "FAILED")
    assert "is in use by process" in str(state.message)


def test_a_form_filled_in_wrong_is_a_failed_run_with_the_reason(api: str, tmp_path: Path) -> None:
    state = pipeline("digitz", folder=str(tmp_path / "quick"), return_state=True)
    assert (state.name, state.type.value) == ("Failed", "FAILED")
    assert str(state.message).startswith("digitz: no such experiment file")


def test_the_console_shows_stages_and_no_chatter(
    api: str, experiment: Experiment, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_pipeline(
        experiment, tmp_path / "quick", console=Console(force_terminal=True, width=120, file=sys.stdout)
    )
    out, err = capfd.readouterr()
    assert "INFO" not in out + err
    assert "flow run" not in out + err
    for stage in STAGES:
        assert stage in out
    assert "✓" in out


@pytest.mark.long
def test_a_server_that_dies_during_the_run_is_started_again(
    api: str, experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, kills = stages.retrain, []

    def retrain(run: Run) -> dict[str, Any]:
        if not kills:
            kills.append(1)
            for own in server._own.values():
                own.process.kill()
                own.process.wait()
        return work(run)

    monkeypatch.setattr(stages, "retrain", retrain)
    out = Console(file=io.StringIO(), width=400)
    assert run_pipeline(experiment, tmp_path / "quick", console=out)["status"] == "done"
    assert "Prefect's server went away" in out.file.getvalue()  # type: ignore[attr-defined]
    assert "going on without" not in out.file.getvalue()  # type: ignore[attr-defined]
    with server.reachable():
        assert newest().state_name == "Completed"
