"""A registered model says what certifies it and where it came from, and every run says what became of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from test_tracking import client, few, held, sync

from flows.lineage import DESCRIPTION, PIPELINE, Model, entries
from flows.tracking import REGISTERED, Address
from nasflow.study import Trial

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own

Finished = tuple[dict[str, Any], list[Trial], Path]
LINE = (PIPELINE, "trial-38", "trial-38-pruned-1", "trial-38-pruned-1/retrained")


def champion(known: MlflowClient, device: str = "local-cpu") -> Any:
    return known.get_model_version_by_alias("digits", f"champion-{device}")


def again(finished: Finished, **certified: Any) -> Finished:
    """Another run that ships one file with another certificate; `ms` is its latency on every device."""
    summary, trials, folder = finished
    summary = copy.deepcopy(few(finished, deployed=1)[0])
    (one,) = summary["deployed"]
    ms = certified.pop("ms", None)
    for cost in one["latency"].values() if ms else ():
        cost.update(p50_ms=ms, ci=[0.99 * ms, 1.01 * ms])
    one.update(certified)
    file = folder / one["certificate"]
    file.write_text(json.dumps({**json.loads(file.read_text()), **one}))
    (folder / "tracking.json").unlink(missing_ok=True)  # as after --fresh: it is another run to MLflow
    return summary, trials[:0], folder


def test_a_version_leads_to_all_the_runs_it_came_from(store: Address, finished: Finished) -> None:
    sync(store, few(finished))
    runs, shipped = held(store), client(store).get_model_version_by_alias("digits", "shipped")
    ids = [runs[key].info.run_id for key in LINE]
    stages = ("pipeline", "search", "compress", "retrain")
    assert [shipped.tags[f"run.{stage}"] for stage in stages] == ids
    experiment = runs[PIPELINE].info.experiment_id
    places = [shipped.description.index(f"(#/experiments/{experiment}/runs/{one})") for one in ids]
    assert places == sorted(places)


def test_every_run_on_the_way_leads_to_the_version(store: Address, finished: Finished) -> None:
    sync(store, few(finished))
    runs, shipped = held(store), client(store).get_model_version_by_alias("digits", "shipped")
    for key in LINE:
        tags = runs[key].data.tags
        assert f"digits/{shipped.version}" in tags[REGISTERED].split()
        assert (
            f"[digits version {shipped.version}](#/models/digits/versions/{shipped.version})"
            in tags[DESCRIPTION]
        )
    assert len(runs[PIPELINE].data.tags[REGISTERED].split()) == 3
    assert REGISTERED not in runs["trial-99"].data.tags


def test_a_version_carries_certificate_hashes_and_environment(store: Address, finished: Finished) -> None:
    summary, *_ = finished
    summary["space"] = {"sha256": "5" * 64}
    summary["deployed"][0]["latency"]["local-cpu"]["environment"] = {
        "cpu": "A53",
        "runtime": "onnxruntime 1.30",
    }
    sync(store, few(finished))
    tags = client(store).get_model_version_by_alias("digits", "shipped").tags
    said, file = json.loads(tags["certificate"]), finished[2] / summary["deployed"][0]["certificate"]
    whole = json.loads(file.read_text())
    assert said["parity"] == whole["parity"] and said["limits"] == whole["limits"]
    assert said["latency"]["local-cpu"]["ci"] == whole["latency"]["local-cpu"]["ci"]
    assert "samples_ms" not in said["latency"]["local-cpu"]
    assert tags["data.sha256"] == summary["data"]["sha256"] and tags["space.sha256"] == "5" * 64
    assert tags["environment.python"] == summary["environment"]["python"]
    assert tags["environment.cpu/local-cpu"] == "A53"
    assert tags["environment.runtime/local-cpu"] == "onnxruntime 1.30"


def test_the_first_that_ships_is_champion_of_every_device_it_was_measured_on(
    store: Address, finished: Finished
) -> None:
    sync(store, few(finished))
    known = client(store)
    shipped = known.get_model_version_by_alias("digits", "shipped").version
    for device in ("local-cpu", "raspberry-pi-4"):
        assert champion(known, device).version == shipped
    assert champion(known).tags["champion-local-cpu"] == "the first"


def test_only_a_better_certificate_moves_the_champion(store: Address, finished: Finished) -> None:
    known = client(store)
    sync(store, again(finished))
    first = champion(known).version
    sync(store, again(finished, validation_error=0.9))
    worse = known.get_model_version_by_alias("digits", "shipped")
    assert worse.version != first == champion(known).version
    assert worse.tags["champion-local-cpu"].startswith(f"not better than version {first}, by the rule knee:")
    sync(store, again(finished, validation_error=0.0, ms=0.001))
    best = champion(known)
    assert best.version == known.get_model_version_by_alias("digits", "shipped").version != first
    assert best.tags["champion-local-cpu"].startswith(f"better than version {first}, by the rule knee:")
    assert champion(known, "raspberry-pi-4").version == best.version


def test_a_champion_that_was_chosen_by_hand_stays(store: Address, finished: Finished) -> None:
    known = client(store)
    sync(store, again(finished))
    by_hand = known.create_model_version("digits", source="somewhere").version
    known.set_registered_model_alias("digits", "champion-local-cpu", by_hand)
    sync(store, again(finished, validation_error=0.0, ms=0.001))
    assert champion(known).version == by_hand
    tags = known.get_model_version_by_alias("digits", "shipped").tags
    assert "has no certificate to be compared with" in tags["champion-local-cpu"]


def test_a_champion_that_was_deleted_has_a_successor(store: Address, finished: Finished) -> None:
    known = client(store)
    sync(store, again(finished))
    known.delete_model_version("digits", champion(known).version)
    sync(store, again(finished))
    assert champion(known).tags["champion-local-cpu"] == "the first"


def test_secrets_of_an_experiment_do_not_reach_mlflow(
    store: Address, finished: Finished, tmp_path: Path
) -> None:
    summary, trials, folder = few(finished, deployed=0)
    summary["experiment"]["data"]["arguments"] = {"api_token": "t0ps3cret", "url": "ftp://me:pa55word@host/x"}
    summary["experiment"]["mlflow"] = {"uri": "postgresql://me:an0ther@host/db"}
    (folder / "summary.json").write_text(json.dumps(summary))
    sync(store, (summary, trials, folder))
    params = held(store)[PIPELINE].data.params
    assert params["data.arguments.api_token"] == "***"
    assert params["data.arguments.url"] == "ftp://me:***@host/x"
    kept = [file for file in (tmp_path / "mlartifacts").rglob("*") if file.is_file()]
    assert "summary.json" in [file.name for file in kept]
    for file in [*kept, tmp_path / "mlflow.db"]:
        content = file.read_bytes()
        assert not [word for word in (b"t0ps3cret", b"pa55word", b"an0ther") if word in content], file
    assert "t0ps3cret" in (folder / "summary.json").read_text(), "the run's own folder is the user's"


def test_what_is_told_of_a_file_is_a_sentence(finished: Finished) -> None:
    (shipped,) = [e.model for e in entries(*finished) if e.model and e.model.shipped]
    assert isinstance(shipped, Model)
    assert shipped.told.startswith("trial-38-pruned-1 of digits, which ships: it is the pruned form")
    assert shipped.told.endswith("on raspberry-pi-4, 27.6 kB; every limit kept.")


def test_the_pipeline_leads_to_the_comparison_of_its_front(store: Address, finished: Finished) -> None:
    summary, _, folder = few(finished, deployed=0)
    numbers = [member["trial"] for member in summary["front"]]
    sync(store, (summary, [trial for trial in finished[1] if trial.number in numbers], folder))
    runs = held(store)
    described = runs[PIPELINE].data.tags[DESCRIPTION]
    assert f"[Compare the {len(numbers)} networks of the front](#/compare-runs?runs=" in described
    assert all(runs[f"trial-{number}"].info.run_id in described for number in numbers)
