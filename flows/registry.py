"""Exported files as MLflow models: logged once, registered once, certified, and linked to the runs they came from."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import champion
from flows.lineage import Model
from nasflow.experiment import ShipRule
from nasflow.files import read_json

if TYPE_CHECKING:
    from mlflow import MlflowClient

KEY = "nasflow.key"
CERTIFICATE = "certificate"


@dataclass(frozen=True)
class Ancestor:
    """A run that a model came from: its stage, its name, and its id in MLflow."""

    stage: str
    name: str
    run_id: str


class Registry:
    """The registered models of one MLflow experiment."""

    def __init__(self, client: MlflowClient, experiment_id: str) -> None:
        self.client = client
        self.experiment_id = experiment_id

    def version(self, model: Model, key: str) -> str | None:
        """The number of the version that was made of a file, None if there is none yet."""
        found = self._find(model, key)
        return None if found is None else str(found.version)

    def keep(self, model: Model, key: str, run_id: str, line: Sequence[Ancestor]) -> str:
        """Register a file unless it is there, and say of it what is known now; returns its version's number.

        `key` names the file for good, `run_id` is the MLflow run it belongs to, `line` all it came from.
        """
        found = self._find(model, key) or self._register(model, key, run_id)
        number = str(found.version)
        tags = {**model.tags, CERTIFICATE: certified(model), **_ancestry(line)}
        self._tag(model.name, number, tags, found.tags)
        described = description(model, line, self.experiment_id)
        if found.description != described:
            self.client.update_model_version(model.name, number, described)
        if model.shipped:
            self._crown(model, number, found.tags)
        return number

    def _find(self, model: Model, key: str) -> Any:
        from mlflow.exceptions import MlflowException

        query = f"name = '{model.name}' and tags.`{KEY}` = '{key}'"
        with contextlib.suppress(MlflowException):  # there is no such name yet
            for version in self.client.search_model_versions(query):
                return version
        return None

    def _register(self, model: Model, key: str, run_id: str) -> Any:
        from mlflow.exceptions import MlflowException

        with contextlib.suppress(MlflowException):  # the name is there already
            self.client.create_registered_model(
                model.name,
                description=f"Networks found, certified and exported by the nasflow run {model.name}.",
            )
        logged = self._logged(model, key, run_id)
        return self.client.create_model_version(
            model.name,
            source=logged.artifact_location,
            run_id=run_id,
            model_id=logged.model_id,
            tags={KEY: key, **model.tags},
        )

    def _logged(self, model: Model, key: str, run_id: str) -> Any:
        """The MLflow model made of a file. It is loaded and asked with MLflow and ONNX Runtime alone."""
        from mlflow.entities import LoggedModelOutput

        for one in self.client.search_logged_models([self.experiment_id], f"tags.`{KEY}` = '{key}'"):
            if str(one.status) == "READY":
                return one
        logged = self.client.create_logged_model(
            self.experiment_id,
            name=model.tags["network"],
            source_run_id=run_id,
            tags={KEY: key},
            model_type="onnx",
        )
        with tempfile.TemporaryDirectory() as folder:
            save_model(model, Path(folder) / "model", logged.model_id)
            self.client.log_model_artifacts(logged.model_id, str(Path(folder) / "model"))
        self.client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, 0)])
        return self.client.finalize_logged_model(logged.model_id, "READY")

    def _tag(self, name: str, number: str, wanted: Mapping[str, str], held: Mapping[str, str]) -> None:
        for tag, value in wanted.items():
            if held.get(tag) != value:
                self.client.set_model_version_tag(name, number, tag, value)

    def _crown(self, model: Model, number: str, held: Mapping[str, str]) -> None:
        """Let the aliases point at what ships: `shipped` of the last run, `champion-DEVICE` if it is the best yet."""
        aliases = {a: str(v) for a, v in self.client.get_registered_model(model.name).aliases.items()}
        if aliases.get("shipped") != number:
            self.client.set_registered_model_alias(model.name, "shipped", number)
        new = json.loads(certified(model))
        for device in new["latency"]:
            alias = champion.alias(device)
            if aliases.get(alias) == number:
                continue
            wins, why = self._against(model, new, aliases.get(alias), device)
            if wins:
                self.client.set_registered_model_alias(model.name, alias, number)
            self._tag(model.name, number, {alias: why}, held)

    def _against(
        self, model: Model, new: champion.Certificate, holder: str | None, device: str
    ) -> tuple[bool, str]:
        """Whether a file takes the place of the version that is champion now, with the reason."""
        if holder is None:
            return True, "the first"
        told = self.client.get_model_version(model.name, holder).tags.get(CERTIFICATE)
        if told is None:
            return False, f"version {holder} has no certificate to be compared with, and stays"
        wins, why = champion.better(new, json.loads(told), device, ShipRule.model_validate(model.rule))
        return wins, f"{'better than' if wins else 'not better than'} version {holder}, {why}"


def certified(model: Model) -> str:
    """A file's certificate for a tag: without the samples, of which the artifact has all."""
    said = dict(read_json(model.certificate))
    said["latency"] = {
        device: {name: value for name, value in cost.items() if name not in ("samples_ms", "loads")}
        for device, cost in said["latency"].items()
    }
    return json.dumps(said)


def _ancestry(line: Sequence[Ancestor]) -> dict[str, str]:
    """The ids of the runs a model came from, by their stage; of several, one after the other."""
    stages = dict.fromkeys(one.stage for one in line)
    return {f"run.{stage}": " ".join(one.run_id for one in line if one.stage == stage) for stage in stages}


def description(model: Model, line: Sequence[Ancestor], experiment_id: str) -> str:
    """Where a model came from, for the page of its version: one link for each step on the way."""
    steps = " → ".join(f"[{one.name}](#/experiments/{experiment_id}/runs/{one.run_id})" for one in line)
    return f"{model.told}\n\nMade by {steps}."


def link(name: str, number: str) -> str:
    """The page of a version, in Markdown."""
    return f"[{name} version {number}](#/models/{name}/versions/{number})"


def save_model(model: Model, path: Path, model_id: str | None = None) -> None:
    """Write an exported file in MLflow's format, with its signature, its certificate and what it needs to run."""
    from importlib.metadata import version

    import mlflow.onnx
    import numpy as np
    import onnx
    from mlflow.models import Model as Description
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    said = read_json(model.certificate)
    shape, classes = said["input"]["shape"][1:], len(said["classes"])
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype("float32"), (-1, *shape), said["input"]["name"])]),
        outputs=Schema([TensorSpec(np.dtype("float32"), (-1, classes), "logits")]),
    )
    mlflow.onnx.save_model(
        onnx.load(model.file),
        str(path),
        mlflow_model=Description(model_id=model_id),
        signature=signature,
        pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow", "numpy", "onnx", "onnxruntime")],
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
        metadata={"preprocess": said["preprocess"], "classes": said["classes"], "sha256": said["sha256"]},
        extra_files=[str(model.certificate)],
    )
