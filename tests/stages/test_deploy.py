"""What ships is chosen on validation data and written down; then the test data is opened, and all is certified."""

import hashlib
import math
import re
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tiny
from tiny import Scripted, experiment, opened

from nasflow import data as datasets
from nasflow import stages
from nasflow.data import Preprocess
from nasflow.export import ExportError, Parity, parity, predict
from nasflow.files import read_json
from nasflow.network import Network
from nasflow.stages import RunError
from nasflow.stages.deploy import AGREEMENT, Candidate, _candidates, choose, limits, read_choice
from nasflow.study import Objective


def deployed(run, cost=tiny.by_size, **changes):
    """The summary of deploying a finished run with other settings, or on a device of another kind."""
    if not changes:
        (run.folder / "stages" / "deploy.json").unlink()
    return tiny.run(experiment(run.data, **changes), run.folder, cost=cost)


# The order of things


def test_the_test_data_is_opened_once_by_deploy_after_the_choice_is_on_disk(finished_run):
    assert finished_run.tested == [("deploy", True)]


def test_no_choice_is_made_if_choosing_fails(copied):
    (copied.folder / "choice.json").unlink()
    with (
        mock.patch("nasflow.stages.deploy.choose", side_effect=RunError("no")),
        mock.patch("nasflow.data.load_test", side_effect=AssertionError("it looked")),
        pytest.raises(RunError),
    ):
        deployed(copied)
    assert not (copied.folder / "choice.json").exists()


def test_the_choice_is_the_same_whatever_the_test_data_say(copied):
    def liar(*_, **__):
        x, y = tiny.images(64, seed=9)
        return datasets.Split(x[:, None], (y + 1) % 4)

    with mock.patch("nasflow.data.load_test", liar):
        summary = deployed(copied)
    assert summary["choice"] == copied.summary["choice"]
    assert all(one["test_error"] > 0.5 for one in summary["deployed"])


def test_the_choice_can_be_read_and_is_the_summary_s(finished_run, tmp_path):
    assert read_choice(finished_run.folder) == finished_run.summary["choice"]
    with pytest.raises(RunError, match="nothing is chosen yet; the deploy stage does that"):
        read_choice(tmp_path)


# What ships

LATENCY = Scripted().latency


def candidate(name: str, error: float, ms: float, **metrics: float) -> Candidate:
    known = {"error": error, "latency_ms@local-cpu": ms, "flops": 1e5, AGREEMENT: 1.0, **metrics}
    return Candidate(Network(name, {}), Path(name), known, {})


FAST, MIDDLE, GOOD = candidate("fast", 0.5, 1.0), candidate("middle", 0.05, 2.0), candidate("good", 0.04, 9.0)


@pytest.fixture
def choosing(finished_run, study_of, monkeypatch):
    """Chooses by a rule, before a front whose errors and times are given."""

    def choose_by(rule, candidates, front=((0.04, 9.0), (0.5, 1.0)), limits=None):
        wanted = experiment(
            finished_run.data,
            objectives=["error", "latency_ms"],
            limits=limits or {"latency_ms": 100.0},
            deploy={"ship": rule},
        )
        run = stages.Run(wanted, Path("x"))
        study = study_of(
            [Objective("error"), Objective("latency_ms@local-cpu")],
            *({"error": e, "latency_ms@local-cpu": ms} for e, ms in front),
        )
        monkeypatch.setattr(stages.Run, "study", lambda _: study)
        with tiny.world():
            return choose(run, candidates)

    return choose_by


@pytest.mark.parametrize(
    ("rule", "name", "why"),
    [
        ("knee", "middle", r"best compromise: 5\.00% validation error in the mean over seeds at 2 ms"),
        ("best error", "good", r"least validation error, 4\.00%"),
        (
            "fastest within 2 points",
            "middle",
            r"fastest \(2 ms\) of those within 2 points of the least .* 4\.00%",
        ),
        ("fastest within 0.5 points", "good", "of those within 0.5 points"),
        ("fastest within 50 points", "fast", "of those within 50 points"),
    ],
)
def test_the_rule_chooses_and_says_why(choosing, rule, name, why):
    found = choosing(rule, [FAST, MIDDLE, GOOD])
    assert (found["name"], found["rule"]) == (name, rule)
    assert re.search(why, found["why"])
    assert found["limits_kept"]


@pytest.mark.parametrize("rule", ["best error", "fastest within 0.5 points"])
def test_a_lucky_seed_does_not_make_a_network_the_best(choosing, rule):
    lucky, steady = replace(GOOD, luck=0.03), candidate("steady", 0.05, 8.0)
    assert choosing(rule, [lucky, steady])["name"] == "steady"
    assert choosing(rule, [GOOD, steady])["name"] == "good"


@pytest.mark.parametrize("rule", ["best error", "fastest within 0.1 points", "knee"])
def test_the_best_of_a_few_seeds_is_not_taken_for_better_than_it_is(choosing, rule):
    lucky = replace(candidate("lucky", 0.02, 9.0), luck=0.3)
    found = choosing(rule, [lucky, GOOD])
    assert found["name"] == "good" and "mean over seeds" in found["why"]


def test_of_two_with_the_same_error_the_faster_ships(choosing):
    assert (
        choosing("best error", [replace(GOOD, network=Network("slow", {})), candidate("quick", 0.04, 1.0)])[
            "name"
        ]
        == "quick"
    )


def test_the_knee_is_seen_on_the_scale_of_the_whole_front(choosing):
    """Between two candidates, whether a millisecond or a point weighs more is for the front to say."""
    candidates = [candidate("a", 0.10, 1.5), candidate("b", 0.08, 1.9)]
    assert choosing("knee", candidates, front=((0.0, 2.0), (0.9, 1.0)))["name"] == "a"
    assert choosing("knee", candidates, front=((0.05, 90.0), (0.11, 1.0)))["name"] == "b"


def test_what_breaks_a_limit_does_not_ship_if_something_keeps_all(choosing):
    over = candidate("over", 0.0, 0.1, flops=2e5)
    found = choosing("best error", [over, GOOD])
    assert found["name"] == "good" and found["limits_kept"]


def test_if_nothing_keeps_every_limit_that_is_said_with_the_limits(choosing):
    found = choosing(
        "best error", [candidate("over", 0.0, 5.0, flops=2e5)], limits={"flops": 1e5, "latency_ms": 1}
    )
    assert found["name"] == "over" and not found["limits_kept"]
    assert found["why"].endswith(
        "; no network keeps every limit as measured on its file, this one oversteps latency_ms@local-cpu, flops"
    )


def test_int8_that_answers_otherwise_than_its_network_does_not_ship(choosing):
    strange = candidate("strange", 0.0, 0.1, **{AGREEMENT: 0.4})
    assert choosing("best error", [strange, GOOD])["name"] == "good"


def test_limits_are_the_user_s_and_that_files_answer_like_their_networks(finished_run):
    with opened(finished_run.experiment, finished_run.folder) as run:
        assert [(o.metric, o.goal, o.limit) for o in limits(run)] == [
            ("latency_ms@local-cpu", "min", 1.0),
            ("flops", "min", 1.5e5),
            (AGREEMENT, "max", 0.5),
        ]


def test_luck_is_how_much_better_the_kept_seed_is_than_the_mean(finished_run):
    results = {one["name"]: one for one in finished_run.summary["retrained"]}
    with (
        opened(finished_run.experiment, finished_run.folder) as run,
        mock.patch("nasflow.stages.deploy.to_onnx"),
        mock.patch("nasflow.stages.deploy.quantised"),
    ):
        found = _candidates(run)
    assert {one.name for one in found} >= set(results)
    for one in found:
        said = results[one.name.removesuffix("-int8")]
        assert one.luck == pytest.approx(said["error"] - min(said["errors"]))
        if not one.network.int8:
            assert one.error == pytest.approx(said["error"])


# What is certified


def test_every_network_trained_in_full_is_a_file_with_a_certificate(finished_run):
    summary, folder = finished_run.summary, finished_run.folder
    names = [one["name"] for one in summary["deployed"]]
    assert set(names) >= {one["name"] for one in summary["retrained"]}
    assert {path.name for path in (folder / "models").iterdir()} == set(names)
    for one in summary["deployed"]:
        certificate = read_json(folder / one["certificate"])
        assert {**certificate, "certificate": one["certificate"]}.items() >= one.items()
        content = (folder / one["file"]).read_bytes()
        assert one["sha256"] == hashlib.sha256(content).hexdigest()
        assert one["size_kb"] == len(content) / 1024
        cost = tiny.by_size(folder / one["file"])
        told = certificate["latency"]["local-cpu"]
        assert (told["p50_ms"], told["samples_ms"]) == (cost, [0.99 * cost, cost, 1.1 * cost])
        assert {"p90_ms", "ci", "loads", "environment", "date", "source"} <= told.keys()
        assert certificate["input"] == {"name": "input", "shape": ["batch", 1, 8, 8], "type": "float32"}
        assert certificate["data"]["sha256"] == summary["data"]["sha256"]
        assert certificate["data"]["test_images"] == 64
        assert [limit["metric"] for limit in one["limits"]] == ["latency_ms@local-cpu", "flops", AGREEMENT]
        assert all(limit["holds"] for limit in one["limits"])
    assert [one["name"] for one in summary["deployed"] if one["shipped"]] == [summary["choice"]["name"]]


def test_the_file_does_what_its_certificate_says_with_nothing_else_at_hand(finished_run):
    """A person with the certificate and the file alone: preprocess, ask, count."""
    x, y = tiny.images()
    for one in finished_run.summary["deployed"]:
        said = read_json(finished_run.folder / one["certificate"])
        how = said["preprocess"]
        preprocess = Preprocess(how["scale"], tuple(how["mean"]), tuple(how["std"]))
        file = finished_run.folder / said["file"]
        test = datasets.load_test(finished_run.experiment.data)
        assert datasets.digest(test) == said["data"]["test_sha256"]
        wrong = predict(file, preprocess(test.x)).argmax(1) != test.y
        assert np.mean(wrong) == said["test_error"]
        assert np.mean(predict(file, preprocess(x[:, None])).argmax(1) != y) < 0.3


def test_files_answer_as_the_retrained_networks_do(finished_run):
    with opened(finished_run.experiment, finished_run.folder) as run:
        said = {one["name"]: one for one in stages.retrain(run)["networks"]}
        x = run.data.preprocess(datasets.load_test(run.experiment.data).x)
        for one in finished_run.summary["deployed"]:
            float_name = one["name"].removesuffix("-int8")
            network = Network.from_dict(said[float_name]["network"], run.folder).build(run.architecture)
            assert asdict(parity(network, run.folder / one["file"], x)) == one["parity"]
            assert (one["parity"]["max_abs_difference"] < 1e-4) == (float_name == one["name"])


def test_a_file_that_is_not_the_network_stops_the_run_loudly(copied):
    with pytest.raises(
        ExportError, match=r"the exported file is not the network: logits differ .* at most 1e-09"
    ):
        deployed(copied, deploy={"max_difference": 1e-9})
    summary = read_json(copied.folder / "summary.json")
    assert summary["status"] == "failed"
    assert summary["stages"]["deploy"]["status"] == "failed"
    assert "is not the network" in summary["message"]


def test_a_file_that_differs_on_test_images_alone_stops_the_run_too(copied):
    def different(model, file, x):
        return Parity(5.0 if len(x) == 64 else 0.0, 1.0, len(x))

    with (
        mock.patch("nasflow.stages.deploy.parity", different),
        pytest.raises(ExportError, match=r"differ by up to 5.* of 64 answers"),
    ):
        deployed(copied)


def test_answers_that_are_no_numbers_are_never_certified(copied):
    with (
        mock.patch("nasflow.stages.deploy.parity", lambda *_: Parity(math.inf, 1.0, 64)),
        pytest.raises(ExportError, match="is not the network"),
    ):
        deployed(copied)


def test_a_limit_that_the_final_file_breaks_is_reported_and_the_run_infeasible(copied):
    """The device became slower since the search, and a limit that held then no longer does."""
    summary = deployed(copied, cost=lambda _: 2.0)
    assert summary["status"] == "infeasible"
    assert not summary["choice"]["limits_kept"]
    assert "oversteps latency_ms@local-cpu" in summary["choice"]["why"]
    for one in summary["deployed"]:
        limit = next(limit for limit in one["limits"] if limit["metric"] == "latency_ms@local-cpu")
        assert limit == {"metric": "latency_ms@local-cpu", "limit": 1.0, "value": 2.0, "holds": False}
    assert any(one["shipped"] for one in summary["deployed"])
    assert "latency_ms" in (copied.folder / "report.html").read_text()


def test_files_of_an_earlier_deployment_do_not_stay_beside_the_new_ones(copied):
    summary = deployed(copied, retrain={"networks": 1, "epochs": 2, "seeds": 1}, compress={"enabled": False})
    assert [one["name"] for one in summary["deployed"]] == copied.front[:1]
    assert [path.name for path in (copied.folder / "models").iterdir()] == copied.front[:1]


def test_only_the_choice_is_marked_as_shipped_after_it_changed(copied):
    summary = deployed(copied, deploy={"ship": "best error"})
    shipped = [
        one["name"] for one in summary["deployed"] if read_json(copied.folder / one["certificate"])["shipped"]
    ]
    assert shipped == [summary["choice"]["name"]]
