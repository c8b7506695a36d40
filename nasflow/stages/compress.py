"""The compress stage: networks of the front pruned and quantised, each step kept only if it measurably pays.

What to prune is searched like everything else: a space of shares and blocks, the experiment's strategy, the
one loop. Every step is reported with what it did to error and measured latency, whether it was kept or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nasflow import names, pareto
from nasflow.compression import prune, quantize
from nasflow.compression.quantize import QuantizeError
from nasflow.data import Data
from nasflow.errors import NasflowError
from nasflow.evaluators.accuracy import Accuracy
from nasflow.evaluators.counts import Counts
from nasflow.evaluators.latency import MeasuredLatency
from nasflow.export import ExportError, predict, to_onnx
from nasflow.hardware import Device, DeviceError
from nasflow.loop import Evaluate
from nasflow.loop import run as search_loop
from nasflow.network import Network, Pruning
from nasflow.pool import Processes
from nasflow.record import open_record
from nasflow.space import Choice, Point, Space
from nasflow.spaces import training as training_space
from nasflow.stages import finalists
from nasflow.stages.run import TRAINING_MEMORY, Run
from nasflow.stages.search import BATCH_PER_WORKER, fidelities, recipe
from nasflow.strategies.listed import Listed
from nasflow.study import Metrics, Objective, Study, Trial

JUDGED = 3  # pruned networks of a sub-search that are measured side by side with their parent
CALIBRATION_IMAGES = 256


@dataclass(frozen=True)
class Step:
    """One attempt at a cheaper network: what was done, what it changed, and whether it is kept."""

    network: Network
    kind: str
    accepted: bool
    reason: str
    before: Metrics
    after: Metrics

    def to_dict(self) -> dict[str, Any]:
        """What summary.json tells of it."""
        return {
            "name": self.network.name,
            "parent": self.network.parent,
            "kind": self.kind,
            "policy": self.network.policy,
            "accepted": self.accepted,
            "reason": self.reason,
            "before": dict(self.before),
            "after": dict(self.after),
        }


def compress(run: Run) -> dict[str, Any]:
    """Prune and quantise the picked networks of the front; the result lists every step and what is kept."""
    return run.carry_out("compress", lambda: _compress(run))


def picked(run: Run, study: Study) -> list[Trial]:
    """The trials to compress, by the experiment's rule."""
    front, rule = study.front, run.experiment.compress.pick
    if rule == "front":
        return front
    if rule == "best":
        return [min(front, key=lambda trial: trial.metrics["error"])]
    if rule == "knee":
        return [front[pareto.knee(study.losses(front))]]
    finalists = {trial.number: trial for trial in study.finalists}
    unknown = [number for number in rule if number not in finalists]
    if unknown:
        raise NasflowError(
            f"compress.pick: trials {unknown} are not done within every limit; "
            f"the front is {[trial.number for trial in front]}"
        )
    return [finalists[number] for number in rule]


def network_of(run: Run, trial: Trial) -> Network:
    """A trial of the search as a network with its trained weights."""
    weights = run.folder / "trials" / f"{trial.number:05d}" / "weights.pt"
    return Network(f"trial-{trial.number}", trial.point, weights=weights)


def _compress(run: Run) -> dict[str, Any]:
    if not run.experiment.compress.enabled:
        return {"message": "switched off", "steps": [], "networks": []}
    steps: list[Step] = []
    for trial in picked(run, finalists.found(run)):
        steps += _compress_one(run, network_of(run, trial), trial.metrics)
    kept = [step.network for step in steps if step.accepted]
    return {
        "message": f"{len(kept)} of {len(steps)} steps kept",
        "steps": [step.to_dict() for step in steps],
        "networks": [network.to_dict(run.folder) for network in kept],
    }


def _compress_one(run: Run, parent: Network, metrics: Metrics) -> list[Step]:
    """All steps tried on one network: the best pruned ones, then int8 for the best of those and for itself."""
    settings = run.experiment.compress
    folder = run.folder / "compress" / f"{parent.name}-{run.key('compress')}"
    pruning = Pruning(
        run.architecture, parent, settings.round_to, tuple(settings.keep), tuple(settings.protect)
    )
    space = pruning.space()
    original = _exported(run, folder, parent)
    steps: list[Step] = []
    if space.size > 1:
        study = _search_policies(run, pruning, space, folder)
        candidates = _worth_judging(study, metrics["error"] + settings.max_error_increase)
        pruned = [
            Network(
                f"{parent.name}-pruned-{trial.number}",
                parent.point,
                trial.point,
                parent=parent.name,
                weights=folder / "trials" / f"{trial.number:05d}" / "weights.pt",
            )
            for trial in candidates
        ]
        for network, trial in zip(pruned, candidates, strict=True):
            after = {"error": trial.metrics["error"]}
            steps.append(
                _judge(run, "prune", network, original, metrics, _exported(run, folder, network), after)
            )
        steps = _keep_fastest(run, steps)
    if settings.int8:
        fastest = [(step.network, step.after) for step in steps if step.accepted]
        for network, before in [*fastest, (parent, metrics)]:
            steps.append(_quantise(run, folder, network, before))
    return steps


def _search_policies(run: Run, pruning: Pruning, space: Space, folder: Path) -> Study:
    """Search what to remove; begins with the uniform policies and the removal of each block alone."""
    experiment, settings = run.experiment, run.experiment.compress
    wanted = [o for o in run.objectives if o.metric == "error" or o.metric.startswith("latency_ms@")]
    if settings.accept == "size":
        wanted.append(Objective("size_kb"))
    objectives = [replace(o, limit=None, optimise=True) for o in wanted]
    record = open_record(folder / "study.journal", pruning.parent.name, space, objectives)
    study = Study(space, objectives, record)
    make = names.resolve("strategy", settings.strategy.name)
    inner = names.call(
        "strategy",
        settings.strategy.name,
        make,
        space,
        objectives,
        seed=experiment.seed,
        **{**fidelities(run, make, recipe(run, "compress")), **settings.strategy.arguments},
    )
    trials = folder / "trials"
    training = training_space.recipe(pruning.parent.point, recipe(run, "compress"))
    evaluate = Evaluate(
        train=Accuracy(
            pruning,
            run.folds,
            training,
            trials,
            experiment.seed,
            teacher=pruning.teacher,
        ),
        cheap=Counts(pruning, training.batch_size),
        measure=MeasuredLatency(run.devices, pruning, trials),
    )

    def show(trial: Trial) -> None:
        run.notify(
            "compress", min(int(study.spent), settings.trials - 1), settings.trials, pruning.parent.name
        )

    pool = Processes(run.workers, deadline_s=experiment.search.deadline_s, memory_mb=run.memory_mb)
    try:
        search_loop(
            study,
            Listed(first_policies(space), inner),
            evaluate,
            pool,
            trials=settings.trials,
            batch=BATCH_PER_WORKER * run.workers,
            observers=(show,),
        )
    finally:
        pool.close()
    return study


def first_policies(space: Space) -> list[Point]:
    """What a person would try first: all blocks away, every group a step narrower, both; then each block alone.

    Fewer layers and fewer channels save differently from device to device, so both come early.
    """
    whole = whole_policy(space)
    blocks = [p.name for p in space.parameters if p.name.startswith(prune.BLOCK)]
    options = [o for p in space.parameters if isinstance(p, Choice) for o in p.options]
    shares = sorted({o for o in options if isinstance(o, float) and o < 1.0}, reverse=True)
    narrower = [prune.uniform(space, share) for share in shares]
    shallow: Point = dict.fromkeys(blocks, False)
    tried = [{**whole, **shallow}, *narrower[:1], *({**policy, **shallow} for policy in narrower[:1])]
    tried += [{**whole, name: False} for name in blocks] + narrower[1:]
    first: dict[str, Point] = {}
    for policy in tried:
        first.setdefault(space.key(policy), policy)
    first.pop(space.key(whole), None)
    return list(first.values())


def whole_policy(space: Space) -> Point:
    """The policy that removes nothing."""
    return prune.uniform(space, 1.0)


def _worth_judging(study: Study, allowed: float) -> list[Trial]:
    """The fastest members of the front of policies: first those whose error is allowed, then the others."""
    whole = study.space.key(whole_policy(study.space))
    front = [trial for trial in study.front if study.space.key(trial.point) != whole]
    cost = [o.metric for o in study.objectives if o.metric != "error"]
    ordered = sorted(front, key=lambda t: (t.metrics["error"] > allowed, *(t.metrics[m] for m in cost)))
    return ordered[:JUDGED]


def _judge(
    run: Run,
    kind: str,
    network: Network,
    old: Path,
    before: Metrics,
    new: Path,
    learnt: Metrics,
) -> Step:
    """Measure the two files in turn on every device and decide whether the new one is kept."""
    settings = run.experiment.compress
    earlier, later = dict(before), dict(learnt)
    verdicts = {}
    for device in run.devices:
        try:
            comparison = device.compare(old, new)
        except DeviceError as error:
            return _impossible(network, kind, error)
        metric = f"latency_ms@{device.name}"
        earlier[metric], later[metric] = comparison.a.p50_ms, comparison.b.p50_ms
        verdicts[device.name] = comparison.verdict
    earlier["size_kb"], later["size_kb"] = (file.stat().st_size / 1024 for file in (old, new))
    later = {**_counts(run, network), **later}
    worse = later["error"] - earlier["error"]
    if worse > settings.max_error_increase:
        accepted, reason = (
            False,
            f"error rose by {100 * worse:.2f} points, more than the {100 * settings.max_error_increase:g} allowed",
        )
    elif "slower" not in verdicts.values() and "faster" in verdicts.values():
        accepted, reason = True, f"measured faster: {_numbers(run.devices, earlier, later)}"
    elif settings.accept == "size" and later["size_kb"] < earlier["size_kb"]:
        accepted, reason = True, f"smaller: {earlier['size_kb']:.1f} kB -> {later['size_kb']:.1f} kB"
    else:
        accepted, reason = False, f"not measurably faster: {_numbers(run.devices, earlier, later)}"
    shared = [metric for metric in earlier if metric in later and metric != TRAINING_MEMORY]
    return Step(
        network,
        kind,
        accepted,
        reason,
        {metric: earlier[metric] for metric in shared},
        {metric: later[metric] for metric in shared},
    )


def _impossible(network: Network, kind: str, error: NasflowError) -> Step:
    """A step that could not be tried out. It costs itself and not the run: there is always the network before it."""
    return Step(network, kind, False, f"not possible: {error}", {}, {})


def _numbers(devices: Sequence[Device], before: Metrics, after: Metrics) -> str:
    return ", ".join(
        f"{before[f'latency_ms@{d.name}']:.4g} -> {after[f'latency_ms@{d.name}']:.4g} ms on {d.name}"
        for d in devices
    )


def _counts(run: Run, network: Network) -> Metrics:
    return Counts(run.architecture, 1).of(network.build(run.architecture))


def _keep_fastest(run: Run, steps: Sequence[Step]) -> list[Step]:
    """Of several pruned networks that pay, keep the fastest; the others are reported as beaten by it."""
    metric = f"latency_ms@{run.devices[0].name}"
    paying = [step for step in steps if step.accepted]
    if not paying:
        return list(steps)
    fastest = min(paying, key=lambda step: step.after[metric])
    return [
        step
        if step is fastest or not step.accepted
        else replace(step, accepted=False, reason=f"{step.reason}; {fastest.network.name} is faster still")
        for step in steps
    ]


def _exported(run: Run, folder: Path, network: Network) -> Path:
    """The file of a network as it is now, exported once."""
    file = folder / f"{network.name}.onnx"
    if not file.exists():
        to_onnx(network.build(run.architecture), run.architecture.shape, file)
    return file


def _quantise(run: Run, folder: Path, base: Network, before: Metrics) -> Step:
    network = replace(base, name=f"{base.name}-int8", int8=True, parent=base.name)
    old, new = _exported(run, folder, base), folder / f"{network.name}.onnx"
    data = run.folds[0]  # the one whose training images gave the weights that are kept
    try:
        if not new.exists():
            quantised(run, data, old, new)
        after = {"error": validation_error(data, new)}
        before = {**before, "error": validation_error(data, old)}
    except (QuantizeError, ExportError) as error:
        return _impossible(network, "int8", error)
    return _judge(run, "int8", network, old, before, new, after)


def quantised(run: Run, data: Data, file: Path, out: Path) -> Path:
    """Write `file` in int8 to `out`: activations' ranges from training images, weights as the device's processor
    multiplies them."""
    chosen = np.random.default_rng(run.experiment.seed).permutation(len(data.train.y))[:CALIBRATION_IMAGES]
    x = data.preprocess(data.train.x[np.sort(chosen)])
    flags = run.devices[0].latency(file).environment.get("flags") or ()
    return quantize.int8(file, x, out, reduce_range=quantize.needs_reduced_range(flags))


def validation_error(data: Data, file: Path) -> float:
    """Share of validation images that an exported file answers wrongly."""
    logits = predict(file, data.preprocess(data.validation.x))
    return float(np.mean(logits.argmax(axis=1) != data.validation.y))
