"""A search by predictions: its front is measured, and everything afterwards goes by what was measured."""

import pickle
import shutil
from unittest import mock

import pytest
import tiny
from foretelling import BySize, built
from tiny import experiment, opened

from nasflow import stages
from nasflow.evaluators.accuracy import Accuracy
from nasflow.evaluators.counts import Counts
from nasflow.evaluators.foretold import Records
from nasflow.files import read_json, write_bytes
from nasflow.hardware import DeviceError, Unreachable, store
from nasflow.stages import RunError, finalists
from nasflow.stages.search import latency


class Killed(BaseException):
    """Nothing catches it, as nothing catches kill -9."""


@pytest.fixture(autouse=True)
def world(monkeypatch):
    """Trainings, exports and counts that take no time, and a kind of predictor that only tests know."""

    def export(model, shape, file):
        write_bytes(file, bytes(4 * sum(one.numel() for one in model.parameters())))

    def count(self, model, original, recipe):
        size = float(sum(one.numel() for one in model.parameters()))
        return dict.fromkeys(("flops", "params", "size_kb", "peak_memory_kb", "training_memory_mb"), size)

    monkeypatch.setattr("nasflow.evaluators.latency.to_onnx", export)
    monkeypatch.setattr(Counts, "_count", count)
    monkeypatch.setattr(Accuracy, "__call__", lambda self, trial: {"error": 0.1 + 0.1 * (trial.number % 4)})
    monkeypatch.setitem(store.KINDS, "fake", "foretelling:BySize")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.write_images(tmp_path_factory.mktemp("data") / "images.npz")


@pytest.fixture
def wanted(data):
    return experiment(data, limits={}, search={"latency": "predicted", "trials": 8})


@pytest.fixture
def predictor(monkeypatch):
    """Sets the predictor that local-cpu has."""

    def set_(one, **environment):
        known = None if one is None else built(one, **environment)
        monkeypatch.setattr(store, "load", lambda profile, file=None: known)

    return set_


def kept(run, number):
    return read_json(run.folder / "trials" / f"{number:05d}" / "latency@local-cpu.json")


def told(run):
    study = finalists.found(run)
    return [(t.number, t.state, dict(t.metrics)) for t in study.trials], [t.number for t in study.front]


def test_the_front_is_measured_and_the_rest_predicted(wanted, predictor, tmp_path):
    predictor(BySize(1.5))
    with opened(wanted, tmp_path / "run") as run:
        stages.search(run)
        study, view = run.study(), finalists.found(run)
        done = [t.number for t in study.trials if t.state == "done"]
        front = [t.number for t in view.front]
        rounds = read_json(run.folder / "stages" / "finalists.json")["rounds"]
        measured = {n for n in done if kept(run, n)["source"] == "measured"}
        assert set(front) <= measured == {n for members in rounds for n in members} and measured < set(done)
        for trial in view.front:
            truth = tiny.by_size(run.folder / "trials" / f"{trial.number:05d}" / "candidate.onnx")
            assert trial.metrics["latency_ms@local-cpu"] == truth
            assert study.trials[trial.number].metrics["latency_ms@local-cpu"] == pytest.approx(1.5 * truth)


def test_what_stays_predicted_is_predicted_anew_once_the_front_is_measured(wanted, predictor, tmp_path):
    predictor(BySize(1.5))
    with opened(wanted, tmp_path / "run") as run:
        result = stages.search(run)
        for number, one in result["latency"]["local-cpu"].items():
            file = run.folder / "trials" / f"{int(number):05d}" / "candidate.onnx"
            assert one["p50_ms"] == pytest.approx(
                tiny.by_size(file)
            )  # which 1.5 times as much was foretold of
        assert {one["source"] for one in result["latency"]["local-cpu"].values()} == {"measured", "predicted"}


def test_networks_come_and_go_until_the_whole_front_is_measured(data, predictor, tmp_path):
    predictor(BySize(large=0.2))  # so large ones look fast, until they are measured
    search = {"latency": "predicted", "trials": 8}
    mine = experiment(data, limits={}, objectives=["error", "latency_ms"], search=search)
    with opened(mine, tmp_path / "run") as run:
        stages.search(run)
        view = finalists.found(run)
        assert all(kept(run, trial.number)["source"] == "measured" for trial in view.front)
        assert len(read_json(run.folder / "stages" / "finalists.json")["rounds"]) > 1


def test_a_front_that_is_over_the_limit_when_measured_is_not_the_front(data, predictor, tmp_path):
    predictor(BySize(0.5, deviation=0.001))
    mine = experiment(data, limits={"latency_ms": 0.012}, search={"latency": "predicted", "trials": 6})
    with opened(mine, tmp_path / "run") as run:
        with pytest.raises(
            stages.Infeasible, match=r"latency_ms@local-cpu must be at most 0\.012, best seen"
        ):
            stages.search(run)
        assert any(t.state == "done" for t in run.study().trials)


def test_later_stages_and_the_summary_go_by_what_was_measured(wanted, predictor, tmp_path):
    predictor(BySize(1.5))
    with opened(wanted, tmp_path / "run") as run:
        stages.search(run)
        summary = stages.summarise(run)
        for entry in summary["front"]:
            file = run.folder / "trials" / f"{entry['trial']:05d}" / "candidate.onnx"
            assert entry["metrics"]["latency_ms@local-cpu"] == tiny.by_size(file)


@pytest.mark.parametrize(
    "share", [0.1, 0.8, *(pytest.param(share, marks=pytest.mark.long) for share in (0.5, 1.0))]
)
def test_a_search_that_is_killed_as_it_writes_down_a_latency_ends_as_one_that_was_not(
    wanted, predictor, tmp_path, share
):
    predictor(BySize(1.3, deviation=0.04, large=0.5))
    written, really, last = 0, Records.write, 0.0

    def write(self, *record):
        nonlocal written
        written += 1
        if written == last:
            raise Killed
        really(self, *record)

    with mock.patch.object(Records, "write", write), opened(wanted, tmp_path / "whole") as run:
        stages.search(run)
        whole, rounds = told(run), read_json(run.folder / "stages" / "finalists.json")
        written, last = 0, max(1, round(share * written))
    with (
        mock.patch.object(Records, "write", write),
        pytest.raises(Killed),
        opened(wanted, tmp_path / "cut") as run,
    ):
        stages.search(run)
    predictor(BySize(9.0))  # built anew meanwhile: that is for the next run
    with opened(wanted, tmp_path / "cut") as run:
        stages.search(run)
        assert told(run) == whole
        assert read_json(run.folder / "stages" / "finalists.json") == rounds


def test_without_a_predictor_the_error_names_the_command(wanted, predictor, tmp_path):
    predictor(None)
    with (
        opened(wanted, tmp_path / "run") as run,
        pytest.raises(RunError, match="nasflow profile local-cpu --build network --minutes 15"),
    ):
        stages.define(run)
    assert not (tmp_path / "run" / "stages" / "predictors.json").exists()


def test_a_device_that_is_away_leaves_predictions_marked_as_such(wanted, predictor, tmp_path, caplog):
    predictor(BySize(1.5))

    def away(*_):
        raise Unreachable("local-cpu does not answer")

    with (
        mock.patch.multiple(tiny.Scripted, latencies=away, latency=away, check=away),
        opened(wanted, tmp_path / "run") as run,
    ):
        stages.define(run)
        found = stages.search(run)
        front = finalists.found(run).front
    assert f"{len(front)} of them not measured on local-cpu" in found["message"]
    assert {one["source"] for one in found["latency"]["local-cpu"].values()} == {"predicted"}
    assert "does not answer; its latency is predicted" in caplog.text


def test_a_finalist_that_the_device_cannot_run_leaves_the_front(wanted, predictor, tmp_path):
    predictor(BySize(1.5))
    with opened(wanted, tmp_path / "run") as run:
        stages.search(run)
        first = finalists.found(run).front[0].number
    bad = f"{first:05d}"

    def latencies(self, files):
        if any(file.parent.name == bad for file in files):
            raise DeviceError("it has no such operator")
        return [self.latency(file) for file in files]

    with mock.patch.object(tiny.Scripted, "latencies", latencies), opened(wanted, tmp_path / "other") as run:
        found = stages.search(run)
        assert found["latency"]["local-cpu"][str(first)]["error"] == "it has no such operator"
        assert first not in [t.number for t in finalists.found(run).front]
        assert finalists.found(run).trials[first].state == "failed"


def test_measured_latencies_are_the_default_and_the_predictor_stands_beside_them(data, predictor, tmp_path):
    predictor(BySize(1.5))
    mine = experiment(data, limits={}, search={"trials": 3})
    assert mine.search.latency == "measured"
    with opened(mine, tmp_path / "run") as run:
        assert not stages.search(run)["latency"]
        for trial in run.study().trials:
            if trial.state == "done":
                assert kept(run, trial.number)["source"] == "measured" and "predicted" in kept(
                    run, trial.number
                )
        assert finalists.found(run).trials == run.study().trials


def test_a_limit_refuses_what_is_surely_over_it_without_measuring(data, predictor, tmp_path):
    predictor(BySize(deviation=0.01))
    mine = experiment(data, limits={"latency_ms": 0.0195}, search={"trials": 3})
    with opened(mine, tmp_path / "run") as run:
        stages.search(run)
        refused = [t for t in run.study().trials if t.state == "refused"]
        assert refused
        for trial in run.study().trials:
            if trial.state in ("done", "refused"):
                predicted = kept(run, trial.number)["predicted"]
                over = predicted["p50_ms"] - 2 * predicted["deviation_ms"] > 0.0195
                assert kept(run, trial.number)["source"] == ("predicted" if over else "measured")


def test_a_stale_predictor_is_told_when_the_search_starts(wanted, predictor, tmp_path, caplog):
    predictor(BySize(), runtime="onnxruntime 1.20")
    with (
        mock.patch.object(store, "stale", lambda built, now: ["runtime was onnxruntime 1.20, is 1.31"]),
        opened(wanted, tmp_path / "run") as run,
    ):
        stages.search(run)
    assert "runtime was onnxruntime 1.20, is 1.31; build it anew: nasflow profile local-cpu" in caplog.text


def test_the_search_can_be_moved_and_its_evaluator_sent_to_another_process(wanted, predictor, tmp_path):
    predictor(BySize())
    with opened(wanted, tmp_path / "run") as run:
        stages.search(run)
        before = told(run)
        assert pickle.loads(pickle.dumps(latency(run))).foresight == latency(run).foresight
    shutil.move(tmp_path / "run", tmp_path / "moved")
    with opened(wanted, tmp_path / "moved") as run:
        assert told(run) == before
