"""The deploy stage: files written, measured and chosen; then, and only then, the test data is opened.

Each network that was trained in full becomes an ONNX file with a certificate: what it answers (parity with the
trained network, error on the test data), what it costs on every device, and which limits it keeps.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nasflow import data as datasets
from nasflow import experiment as experiments
from nasflow import pareto
from nasflow.evaluators.counts import Counts
from nasflow.evaluators.measured import metrics_of
from nasflow.export import parity, predict, to_onnx
from nasflow.files import read_json, sha256, write_json
from nasflow.hardware import Latency
from nasflow.network import Network
from nasflow.stages import breakdown, finalists
from nasflow.stages.integers import quantised, validation_error
from nasflow.stages.run import TRAINING_MEMORY, Run, RunError
from nasflow.study import Metrics, Objective

AGREEMENT = "agreement"  # share of validation images on which the file and the trained network say the same


@dataclass(frozen=True)
class Candidate:
    """A network as the file that would be shipped, with what is known of it before the test data is opened.

    `luck` is by how much the seed whose weights are in the file beats the mean over seeds on the validation data,
    `targets` what compression was to reach, as limits for this one.
    """

    network: Network
    file: Path
    metrics: Metrics
    latency: Mapping[str, Latency]
    luck: float = 0.0
    targets: tuple[Objective, ...] = ()

    @property
    def error(self) -> float:
        """What to expect of it: the file's validation error without the luck of having been picked for it."""
        return self.metrics["error"] + self.luck

    @property
    def name(self) -> str:
        return self.network.name

    def broken(self, limits: Sequence[Objective]) -> list[str]:
        """The metrics that are over one of these limits, or over a target."""
        over = [one.metric for one in (*limits, *self.targets) if one.violation(self.metrics)]
        return list(dict.fromkeys(over))

    def keeps(self, limits: Sequence[Objective]) -> bool:
        return not self.broken(limits)


def deploy(run: Run) -> dict[str, Any]:
    """Export, measure and certify every network trained in full, and say which one ships."""
    return run.carry_out("deploy", lambda: _deploy(run))


def _deploy(run: Run) -> dict[str, Any]:
    candidates = _candidates(run)
    choice = choose(run, candidates)
    write_json(run.folder / "choice.json", choice)
    test = datasets.load_test(run.experiment.data, cache=run.cache)
    deployed = []
    for done, candidate in enumerate(candidates):
        run.notify("deploy", done, len(candidates), f"testing {candidate.name}")
        deployed.append(_certified(run, candidate, choice["name"], test))
    for folder in (run.folder / "models").iterdir():
        if folder.name not in {candidate.name for candidate in candidates}:
            shutil.rmtree(
                folder
            )  # of an earlier deployment with other settings: its certificate no longer holds
    shipped = next(one for one in deployed if one["shipped"])
    file = next(candidate.file for candidate in candidates if candidate.name == shipped["name"])
    return {
        "message": f"{shipped['name']} ships: test error {shipped['test_error']:.2%}",
        "choice": choice,
        "deployed": deployed,
        "breakdown": breakdown.layers(run, file),
        "time": _time(run, candidates, shipped["name"]),
    }


def _time(run: Run, candidates: Sequence[Candidate], shipped: str) -> dict[str, dict[str, Any]]:
    """Where the time of the shipped network went before it was compressed and goes now, by device and kind of kernel;
    nothing if it was not, or its original is not there."""
    files = {one.name: one.file for one in candidates}
    origin = _origin(shipped, {one.name: one.network.parent for one in candidates})
    if origin == shipped or origin not in files:
        return {}
    before, after = breakdown.kinds(run, files[origin]), breakdown.kinds(run, files[shipped])
    return {
        device: {"original": origin, "before": before[device], "after": after[device]} for device in after
    }


def _candidates(run: Run) -> list[Candidate]:
    """Every network trained in full, and its int8 file where compression kept one, measured side by side."""
    results = run.result("retrain")["networks"]
    retrained = [Network.from_dict(one["network"], run.folder) for one in results]
    luck = {one["name"]: one["error"] - min(one["errors"]) for one in results}
    int8 = [
        Network.from_dict(said, run.folder) for said in run.result("compress")["networks"] if said["int8"]
    ]
    by_name = {network.name: network for network in retrained}
    quantised = [
        replace(
            by_name[str(network.parent)],
            name=network.name,
            int8=True,
            floats=network.floats,
            parent=network.parent,
        )
        for network in int8
        if network.parent in by_name
    ]
    networks = [*retrained, *quantised]
    files = []
    for done, network in enumerate(networks):
        run.notify("deploy", done, len(networks), f"exporting {network.name}")
        files.append(_write(run, network))
    measured = {device.name: device.latencies(files) for device in run.devices}
    found = [
        Candidate(
            network,
            file,
            _metrics(run, network, file, {name: latencies[i] for name, latencies in measured.items()}),
            {name: latencies[i] for name, latencies in measured.items()},
            luck[network.name] if network.name in luck else luck[str(network.parent)],
        )
        for i, (network, file) in enumerate(zip(networks, files, strict=True))
    ]
    return [replace(one, targets=_targets(run, one, found)) for one in found]


def _targets(run: Run, candidate: Candidate, among: Sequence[Candidate]) -> tuple[Objective, ...]:
    """What compression was to reach; shares are of what the uncompressed network costs, measured beside this one."""
    costs: dict[str, Metrics] = run.result("compress").get("originals", {})
    origin = _origin(candidate.name, {one.name: one.network.parent for one in among})
    beside = {one.name: one.metrics for one in among}
    original = beside.get(origin) or costs.get(origin, {})
    targets = experiments.targets(run.experiment)
    return tuple(target.objective(original) for target in targets if original or not target.relative)


def _origin(name: str, parents: Mapping[str, str | None]) -> str:
    """The network that the one of this name was made from, in however many steps; its own name if it was not."""
    while (parent := parents.get(name)) is not None:
        name = parent
    return name


def _write(run: Run, network: Network) -> Path:
    file = run.folder / "models" / network.name / "model.onnx"
    if not network.int8:
        to_onnx(network.build(run.architecture), run.architecture.shape, file)
        return file
    parent = run.folder / "models" / str(network.parent) / "model.onnx"
    if network.parent is None:  # searched as a network in integers: there is no other form of it
        parent = file.with_name("fp32.onnx")
        to_onnx(network.build(run.architecture), run.architecture.shape, parent)
    quantised(run, run.data, parent, file, network.floats)
    return file


def _metrics(run: Run, network: Network, file: Path, latency: Mapping[str, Latency]) -> dict[str, float]:
    model = network.build(run.architecture)
    same = parity(model, file, run.data.preprocess(run.data.validation.x))
    if not network.int8:
        same.check(run.experiment.deploy.max_difference)
    counts = Counts(run.architecture, 1).of(model)
    return {
        **{name: value for name, value in counts.items() if name != TRAINING_MEMORY},
        "size_kb": file.stat().st_size / 1024,
        AGREEMENT: same.agreement,
        "error": validation_error(run.data, file),
        **{
            metric: value
            for name, measured in latency.items()
            for metric, value in metrics_of(measured, name, run.asked).items()
        },
    }


def limits(run: Run) -> list[Objective]:
    """The limits a user set, and that a file answers as the trained network does."""
    asked = [o for o in run.objectives if o.limit is not None and o.metric != TRAINING_MEMORY]
    least = run.experiment.deploy.int8_agreement
    return [*asked, Objective(AGREEMENT, "max", limit=least, optimise=False)]


def choose(run: Run, candidates: Sequence[Candidate]) -> dict[str, Any]:
    """Which candidate ships, by the experiment's rule and validation data alone, with the reason in plain words.

    Judged by the mean over seeds: the best of a few seeds flatters whoever varies most. Only candidates inside
    every limit are considered, unless none is.
    """
    ship = run.experiment.deploy.ship
    allowed = [candidate for candidate in candidates if candidate.keeps(limits(run))]
    pool = allowed or list(candidates)
    first = f"latency_ms@{run.devices[0].name}"
    best = min(candidate.error for candidate in pool)
    if ship.rule == "best error":
        chosen = min(pool, key=lambda c: (c.error, c.metrics[first]))
        why = f"it has the least validation error, {best:.2%} in the mean over seeds"
    elif ship.rule == "fastest":
        near = [c for c in pool if c.error <= best + ship.points / 100]
        chosen = min(near, key=lambda c: c.metrics[first])
        why = (
            f"it is the fastest ({chosen.metrics[first]:.4g} ms) of those within {ship.points:g} points "
            f"of the least validation error, {best:.2%} in the mean over seeds"
        )
    else:
        chosen = _nearest_knee(run, pool)
        why = (
            f"it is the best compromise: {chosen.error:.2%} validation error in the mean over seeds at "
            f"{chosen.metrics[first]:.4g} ms, nearest to the ideal of least error and least cost together"
        )
    if not allowed:
        broken = chosen.broken(limits(run))
        why += (
            f"; no network keeps every limit as measured on its file, this one oversteps {', '.join(broken)}"
        )
    return {"name": chosen.name, "rule": str(ship), "why": why, "limits_kept": bool(allowed)}


def _nearest_knee(run: Run, pool: Sequence[Candidate]) -> Candidate:
    """The candidate nearest to the ideal corner, each objective scaled by the range over front and candidates."""
    study = finalists.found(run)
    optimised = [o for o in study.objectives if o.optimise]
    mine = [[o.loss({**c.metrics, "error": c.error}) for o in optimised] for c in pool]
    theirs = study.losses(study.front).tolist()
    distances = np.linalg.norm(pareto.normalised(mine + theirs), axis=1)[: len(pool)]
    return pool[int(np.argmin(distances))]


def _certified(run: Run, candidate: Candidate, shipped: str, test: datasets.Split) -> dict[str, Any]:
    """Open the test data for one file: error, parity with the trained network, certificate."""
    x = run.data.preprocess(test.x)
    network = candidate.network
    same = parity(network.build(run.architecture), candidate.file, x)
    if not network.int8:
        same.check(run.experiment.deploy.max_difference)
    test_error = float(np.mean(predict(candidate.file, x).argmax(axis=1) != test.y))
    kept = [
        {
            "metric": limit.metric,
            "limit": limit.limit,
            "value": candidate.metrics[limit.metric],
            "holds": not limit.violation(candidate.metrics),
        }
        for limit in (*limits(run), *candidate.targets)
    ]
    said = {
        "name": candidate.name,
        "shipped": candidate.name == shipped,
        "file": str(candidate.file.relative_to(run.folder)),
        "sha256": sha256(candidate.file),
        "size_kb": candidate.metrics["size_kb"],
        "network": {key: value for key, value in network.to_dict(run.folder).items() if key != "weights"},
        "parity": asdict(same),
        "test_error": test_error,
        "validation_error": candidate.metrics["error"],
        "metrics": dict(candidate.metrics),
        "latency": {name: latency.to_json() for name, latency in candidate.latency.items()},
        "limits": kept,
    }
    certificate = candidate.file.with_name("certificate.json")
    write_json(
        certificate,
        {
            **said,
            "run": run.experiment.name,
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "input": {"name": "input", "shape": ["batch", *run.architecture.shape], "type": "float32"},
            "preprocess": asdict(run.data.preprocess),
            "classes": list(run.data.classes),
            "data": {
                "name": run.data.name,
                "sha256": run.data.sha256,
                "test_sha256": datasets.digest(test),
                "test_images": len(test.y),
            },
        },
    )
    return {**said, "certificate": str(certificate.relative_to(run.folder))}


def read_choice(folder: Path) -> dict[str, Any]:
    """What a run decided to ship."""
    file = folder / "choice.json"
    if not file.exists():
        raise RunError(f"{folder}: nothing is chosen yet; the deploy stage does that")
    found: dict[str, Any] = read_json(file)
    return found
