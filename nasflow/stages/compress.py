"""The compress stage: networks of the front pruned and quantised, each step kept only if it measurably pays.

What to prune is searched like everything else: a space of shares and blocks, the experiment's strategy, the
one loop. Every step is reported with what it did to error and measured latency, whether it was kept or not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from nasflow import experiment as experiments
from nasflow import names, pareto
from nasflow.compression import joint, layers, mixed, multiples
from nasflow.compression.mixed import Mixed
from nasflow.compression.multiples import Multiples
from nasflow.compression.prices import LayerTable
from nasflow.compression.quantize import QuantizeError
from nasflow.data import Data
from nasflow.errors import NasflowError
from nasflow.evaluators.accuracy import Accuracy
from nasflow.evaluators.counts import Counts
from nasflow.evaluators.latency import Fastest, MeasuredLatency
from nasflow.export import ExportError, to_onnx
from nasflow.files import read_json, write_json
from nasflow.hardware import Device, DeviceError
from nasflow.loop import Evaluate
from nasflow.loop import run as search_loop
from nasflow.network import Network, Pruning
from nasflow.pool import Processes, Train
from nasflow.record import open_record
from nasflow.space import Space
from nasflow.spaces import training as training_space
from nasflow.stages import finalists, predictors
from nasflow.stages.integers import (
    ONLY_TIMED,
    Integers,
    quantised,
    validation_error,
)
from nasflow.stages.policies import first_policies, limited, ranked, whole_policy
from nasflow.stages.run import TRAINING_MEMORY, Run
from nasflow.stages.search import BATCH_PER_WORKER, fidelities, recipe
from nasflow.stages.steps import Images, InSteps, sparse, taught_attention
from nasflow.strategies.listed import Listed
from nasflow.study import Metrics, Objective, Study, Trial

JUDGED = 3  # pruned networks of a sub-search that are measured side by side with their parent
ROOM = 0.03  # of a limit in milliseconds, left free: what just keeps it may be over it when it is measured once more


@dataclass(frozen=True)
class Step:
    """One attempt at a cheaper network: what was done, what it changed, and whether it is kept."""

    network: Network
    kind: str
    accepted: bool
    reason: str
    before: Metrics
    after: Metrics
    precision: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What summary.json tells of it."""
        return {
            "name": self.network.name,
            "parent": self.network.parent,
            "kind": self.kind,
            "policy": {**self.network.policy, **self.precision},
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
    return Network(f"trial-{trial.number}", trial.point, int8=joint.in_integers(trial.point), weights=weights)


def _compress(run: Run) -> dict[str, Any]:
    if not run.experiment.compress.enabled:
        return {"message": "switched off", "steps": [], "networks": []}
    if any(part.name == "compression" for part in run.experiment.space):
        return {"message": "searched together with the architecture", "steps": [], "networks": []}
    steps: list[Step] = []
    notes: list[str] = []
    originals: dict[str, dict[str, float]] = {}
    for trial in picked(run, finalists.found(run)):
        parent = network_of(run, trial)
        originals[parent.name] = _costs(run, parent)
        more, note = _compress_one(run, parent, trial.metrics, originals[parent.name])
        steps += more
        notes += [note] if note else []
    kept = [step.network for step in steps if step.accepted]
    return {
        "message": "; ".join([f"{len(kept)} of {len(steps)} steps kept", *notes]),
        "steps": [step.to_dict() for step in steps],
        "networks": [network.to_dict(run.folder) for network in kept],
        "originals": originals,
    }


def folder_of(run: Run, parent: Network) -> Path:
    """Where everything that is made of a network is kept."""
    return run.folder / "compress" / f"{parent.name}-{run.key('compress')}"


def _costs(run: Run, parent: Network) -> dict[str, float]:
    """What the network costs before anything is done to it, found out once: relative targets rest on it."""
    folder = folder_of(run, parent)
    file = folder / "original.json"
    if not file.exists():
        exported = _exported(run, folder, parent)
        measured = {f"latency_ms@{d.name}": d.latencies([exported])[0].p50_ms for d in run.devices}
        size = exported.stat().st_size / 1024
        write_json(file, {**_counts(run, parent), "size_kb": size, **measured})
    return {name: float(value) for name, value in read_json(file).items()}


def _compress_one(run: Run, parent: Network, metrics: Metrics, costs: Metrics) -> tuple[list[Step], str]:
    """All steps tried on one network: the best pruned ones, then int8 for the best of those and for itself; and in
    words, what kept pruning from meeting its targets."""
    settings = run.experiment.compress
    folder = folder_of(run, parent)
    pruning = Pruning(
        run.architecture,
        parent,
        round_to(run),
        tuple(settings.keep),
        tuple(settings.protect),
        settings.criterion,
        only=tuple(settings.only),
    )
    space = pruning.space()
    original = _exported(run, folder, parent)
    steps: list[Step] = []
    note = ""
    if space.size > 1:
        pruning, note = sparse(run, pruning, space, folder)
        pruning = _images(run)(pruning, folder)
        limits = [_with_room(target.objective(costs)) for target in experiments.targets(run.experiment)]
        study = _search_policies(run, pruning, space, folder, limits)
        if not study.front:
            missed = f"no pruning of {parent.name} tried meets the target: {study.obstacles()}"
            note = "; ".join(filter(None, [note, missed]))
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
        steps = _keep_one(run, steps)
    else:
        note = f"nothing of {parent.name} can be pruned"
        note += ", as protect and only say" if settings.protect or settings.only else ""
    if settings.int8:
        fastest = [(step.network, step.after) for step in steps if step.accepted]
        for network, before in [*fastest, (parent, metrics)]:
            steps.append(_quantise(run, folder, network, before))
    return steps, note


def _images(run: Run) -> Images:
    return Images(run.folds[0], run.experiment.seed, run.experiment.compress.reconstruct)


def _with_room(limit: Objective) -> Objective:
    if limit.limit is None or not limit.metric.startswith("latency_ms"):
        return limit
    return replace(limit, limit=(1 - ROOM) * limit.limit)


def _told(run: Run, make: Callable[..., Any], pruning: Pruning, folder: Path) -> dict[str, Any]:
    """What a strategy that walks through a network is told of it, and of what it is to cost: shares of multiply-adds or
    parameters, or milliseconds by a table of its layers."""
    if "layers" not in inspect.signature(make).parameters:
        return {}
    model = pruning.parent.build(run.architecture)
    told: dict[str, Any] = {"layers": layers.layers(model, pruning.shape)}
    for target in experiments.targets(run.experiment):
        metric = target.metric.partition("@")[0]
        if not target.relative or target.amount >= 1 or metric not in ("flops", "params", "latency_ms"):
            continue
        if metric == "latency_ms":
            (device,) = [one for one in run.devices if target.metric == f"latency_ms@{one.name}"]
            table = LayerTable(device, folder / f"layers@{device.name}.json")
            return {**told, "metric": "latency", "target": target.amount, "cost": table}
        told |= {"metric": metric, "target": target.amount}
    return told


def round_to(run: Run) -> int:
    """The number of which counts of channels are multiples: the experiment's, or what the devices like, measured once
    and kept with the run."""
    asked = run.experiment.compress.round_to
    if asked != "measured":
        return asked
    file = run.folder / "stages" / "multiples.json"
    if not file.exists():
        run.notify("compress", 0, 1, "measuring which multiples of channels pay")
        write_json(file, {device.name: multiples.measure(device).to_json() for device in run.devices})
    return max(Multiples.from_json(said).step for said in read_json(file).values())


def _search_policies(
    run: Run, pruning: Pruning, space: Space, folder: Path, limits: Sequence[Objective]
) -> Study:
    """Search what to remove; begins with the uniform policies and the removal of each block alone. What breaks one of
    the `limits` by arithmetic or as measured is not trained."""
    experiment, settings = run.experiment, run.experiment.compress
    wanted = [o for o in run.objectives if o.metric == "error" or o.metric.startswith("latency_ms@")]
    if settings.accept == "size":
        wanted.append(Objective("size_kb"))
    objectives = limited([replace(o, limit=None, optimise=True) for o in wanted], limits, int8=settings.int8)
    record = open_record(folder / "study.journal", pruning.parent.name, space, objectives)
    study = Study(space, objectives, record)
    kind = experiments.pruner_kind(settings.strategy.name)
    make = names.resolve(kind, settings.strategy.name)
    inner = names.call(
        kind,
        settings.strategy.name,
        make,
        space,
        objectives,
        seed=experiment.seed,
        **{
            **fidelities(run, make, recipe(run, "compress")),
            **_told(run, make, pruning, folder),
            **settings.strategy.arguments,
        },
    )
    trials = folder / "trials"
    predicted = predictors.predictors(run) if predictors.predicts(run) else {}
    foresight = predictors.foresight(run, predicted, objectives)  # what is kept is measured all the same
    forms = [MeasuredLatency(run.devices, pruning, trials, foresight)]
    if limits and settings.int8:  # what has to be fast enough is the file that would be shipped
        whole = MeasuredLatency(
            run.devices, pruning, folder / "trials-int8", write=Integers.of(run, ONLY_TIMED)
        )
        forms.append(whole)
    training = training_space.recipe(pruning.parent.point, recipe(run, "compress"))
    first = first_policies(space)
    if limits:
        near = [replace(form, folder=form.folder.with_name(f"{form.folder.name}-ranked")) for form in forms]
        bounds = [one for one in objectives if one.limit is not None]
        by_rank = ranked(pruning, space, bounds, Fastest(near), folder / "ranked.json")
        first = [*by_rank, *(policy for policy in first if policy not in by_rank)]
    at_once = Accuracy(
        pruning,
        run.folds,
        training,
        trials,
        experiment.seed,
        teacher=pruning.teacher,
        attention=taught_attention(run),
    )
    train: Train = at_once
    if settings.steps > 1:
        train = InSteps(at_once, pruning, settings.steps, _images(run))
    evaluate = Evaluate(
        train=train,
        cheap=Counts(pruning, training.batch_size, original=pruning.teacher),
        measure=Fastest(forms),
    )

    def show(trial: Trial) -> None:
        run.notify(
            "compress", min(int(study.spent), settings.trials - 1), settings.trials, pruning.parent.name
        )

    pool = Processes(run.workers, deadline_s=experiment.search.deadline_s, memory_mb=run.memory_mb)
    try:
        search_loop(
            study,
            Listed(first, inner),
            evaluate,
            pool,
            trials=settings.trials,
            batch=BATCH_PER_WORKER * run.workers,
            observers=(show,),
        )
    finally:
        pool.close()
    return study


def _worth_judging(study: Study, allowed: float) -> list[Trial]:
    """The fastest members of the front of policies: first those whose error is allowed, then the others. Where limits
    say how fast is fast enough, those with the least error."""
    whole = study.space.key(whole_policy(study.space))
    front = [trial for trial in study.front if study.space.key(trial.point) != whole]
    cost = [o.metric for o in study.objectives if o.metric != "error" and o.optimise]
    if any(o.limit is not None for o in study.objectives):  # fast enough they all are
        return sorted(front, key=lambda t: t.metrics["error"])[:JUDGED]
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
            f"error rose by {100 * worse:.2f} points, more than the {100 * settings.max_error_increase:g} allowed: "
            f"{_numbers(run.devices, earlier, later)}",
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
    original = run.architecture.build(network.point)
    return Counts(run.architecture, 1).of(network.build(run.architecture), original)


def _keep_one(run: Run, steps: Sequence[Step]) -> list[Step]:
    """Of several pruned networks that pay, keep the fastest, or with targets, which all of them met when they were
    tried, the one with the least error; the others are reported as beaten by it."""
    metric, why = f"latency_ms@{run.devices[0].name}", "is faster still"
    if run.experiment.compress.target:
        metric, why = "error", "errs less"
    paying = [step for step in steps if step.accepted]
    if not paying:
        return list(steps)
    best = min(paying, key=lambda step: step.after[metric])
    return [
        step
        if step is best or not step.accepted
        else replace(step, accepted=False, reason=f"{step.reason}; {best.network.name} {why}")
        for step in steps
    ]


def _exported(run: Run, folder: Path, network: Network) -> Path:
    """The file of a network as it is now, exported once."""
    file = folder / f"{network.name}.onnx"
    if not file.exists():
        to_onnx(network.build(run.architecture), run.architecture.shape, file)
    return file


def _quantise(run: Run, folder: Path, base: Network, before: Metrics) -> Step:
    """The network in integers, or only those of its layers which they make faster."""
    network = replace(base, name=f"{base.name}-int8", int8=True, parent=base.name)
    old, new = _exported(run, folder, base), folder / f"{network.name}.onnx"
    data = run.folds[0]  # the one whose training images gave the weights that are kept
    found = None
    try:
        before = {**before, "error": validation_error(data, old)}
        if run.experiment.compress.mixed:
            found = _mixed(run, folder / network.name, data, old, before["error"])
            # Where integers pay nowhere, what they would have cost is told.
            network = replace(network, floats=found.keep if found.file != old else ())
            new = found.file if found.file != old else found.integers
        elif not new.exists():
            quantised(run, data, old, new)
        after = {"error": validation_error(data, new)}
    except (QuantizeError, ExportError, DeviceError) as error:
        return _impossible(network, "int8", error)
    step = _judge(run, "int8", network, old, before, new, after)
    return (
        step
        if found is None
        else replace(step, precision=found.policy, reason=f"{step.reason}; {found.words}")
    )


def _mixed(run: Run, folder: Path, data: Data, file: Path, error: float) -> Mixed:
    """Which layers of a file in integers, chosen on the first device and kept, so that it is not measured twice."""
    record = folder / "mixed.json"

    def quantise(keep: Collection[str], out: Path) -> None:
        quantised(run, data, file, out, keep)

    if not record.exists():
        allowed = error + run.experiment.compress.max_error_increase
        found = mixed.fastest(
            file, quantise, run.devices[0], folder, error=partial(validation_error, data), allowed=allowed
        )
        write_json(record, found.to_json(folder))
    return Mixed.from_json(read_json(record), folder)
