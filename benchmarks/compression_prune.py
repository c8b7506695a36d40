"""Bars of structured pruning: AMC and NSGA-II against uniform L1 and Torch-Pruning's global group magnitude pruner.

    python benchmarks/compression_prune.py FOLDER_OR_ARCHIVE [--out RUNS] [--bases RUNS] [--quick]
        [--networks resnet20 mobilenet_v2] [--seeds 3] [--trials 60] [--epochs 2]

A trained ResNet-20 and MobileNetV2 on CIFAR-10 (benchmarks/_cifar.py) lose half of their multiply-adds, and as much as
makes them as fast, measured, as the uniformly narrower network. Each pruned network is trained on for the same epochs,
with the whole one as its teacher. The searches judge a policy by its error after a quarter of an epoch, on training
images alone, and let their best three train for an epoch; what that costs is told. (Judged before any training, they
found policies that were far better then and no better after it: layers that are hard to do without for the moment
are not those whose width matters in the end.) Results are validation errors.

Every trained network stays in --out, and what is there is not made again: several processes may each take some of the
--networks, and a last call with all of them writes the results. --quick tries everything out in a minute or two and
writes nothing.
"""

from __future__ import annotations

import argparse
import copy
import functools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import _cifar
import torch
import torch_pruning
from _results import write
from torch import nn

from nasflow import loop, training
from nasflow.compression import criteria, layers, prune, ranking
from nasflow.compression.amc import amc
from nasflow.compression.layers import Layer
from nasflow.compression.prices import LayerTable
from nasflow.compression.reconstruct import reconstruction
from nasflow.data import Data, Split
from nasflow.evaluators.counts import flops
from nasflow.evaluators.pruned import Pruned
from nasflow.export import to_onnx
from nasflow.files import read_json, write_json
from nasflow.hardware import connect, load_profile
from nasflow.space import Point, Space
from nasflow.strategies.listed import Listed
from nasflow.strategies.nsga2 import nsga2
from nasflow.study import Objective, Study, Trial
from nasflow.training import Recipe

SHARE = 0.5  # of the multiply-adds that may be left
OVER_UNIFORM, OVER_TORCH_PRUNING = 1.0, 0.3  # points of error
LITTLE = 1792  # images that a searched policy is trained with before it is judged
JUDGED = 1000  # training images on which a search judges policies
FINALISTS = 3  # policies of a search that are trained for an epoch before one is taken
STEPS = 200  # in which Torch-Pruning goes down
TRIES = 4  # to come out at a latency
TOLERANCE = 1.02  # of a measured latency
OURS, THEIRS = ("amc", "nsga2"), ("uniform", "torch-pruning")


@dataclass(frozen=True)
class Task:
    """A trained network, what it is judged on, and all that can be taken from it."""

    name: str
    model: nn.Module
    data: Data
    space: Space
    found: tuple[Layer, ...]
    trials: int
    recipe: Recipe
    folder: Path

    @functools.cached_property
    def judge(self) -> Data:
        """Training images alone: the last ones to judge by, the others to train on."""
        x, y = self.data.train.x, self.data.train.y
        return replace(
            self.data, train=Split(x[:-JUDGED], y[:-JUDGED]), validation=Split(x[-JUDGED:], y[-JUDGED:])
        )

    def macs(self, policy: Point) -> float:
        return layers.macs(self.found, layers.kept(self.found, policy))

    def priced(self, policy: Point, price: Callable[[Layer], float]) -> float:
        left = layers.kept(self.found, policy)
        return sum(price(layer.pruned(left)) for layer in self.found)

    @functools.cached_property
    def little(self) -> Data:
        """As `judge`, with fewer images to train on."""
        x, y = self.judge.train.x, self.judge.train.y
        return replace(self.judge, train=Split(x[:LITTLE], y[:LITTLE]))

    def train_a_little(self, network: nn.Module, seed: int = 0) -> None:
        training.train(network, self.little, replace(self.recipe, epochs=1), seed=seed, teacher=self.model)

    @functools.cached_property
    def apply(self) -> Callable[[Point], nn.Module]:
        images = torch.from_numpy(self.judge.preprocess(self.judge.train.x[:256]))
        again = reconstruction(self.model, images)
        return lambda policy: prune.apply(policy, self.model, self.data.shape, compensate=again)


@dataclass(frozen=True)
class Made:
    """A pruned network that is not trained yet, the policy behind it if there is one, and what finding it took."""

    network: nn.Module
    policy: Point | None
    spent: Mapping[str, float]


def uniform(task: Task, seed: int, left: float, price: LayerTable | None) -> Made:
    """The same share of every group, as large as the multiply-adds allow; L1 within groups."""
    whole = task.macs({})
    names = [choice.name for choice in task.space.parameters]
    policies: list[Point] = [dict.fromkeys(names, share / 400) for share in range(400, 20, -1)]
    policy = ranking.within(policies, task.macs, left * whole)
    return Made(prune.apply(policy, task.model, task.data.shape, criterion=criteria.l1), policy, {})


def torch_prunings(task: Task, seed: int, left: float, price: LayerTable | None) -> Made:
    """Torch-Pruning's own pruner, with its own global ranking of group magnitudes, in small steps."""
    model, shape = copy.deepcopy(task.model), task.data.shape
    *_, last = (module for module in model.modules() if isinstance(module, nn.Linear))
    pruner = torch_pruning.pruner.MetaPruner(
        model,
        torch.zeros(1, *shape),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        global_pruning=True,
        pruning_ratio=1.0,
        iterative_steps=STEPS,
        ignored_layers=[last],
    )
    whole = flops(model, shape)
    for _ in range(STEPS):
        if flops(model, shape) <= left * whole:
            break
        pruner.step()
    return Made(model, None, {})


def searched(name: str, task: Task, seed: int, left: float, price: LayerTable | None) -> Made:
    """The best of the policies that a search finds within the budget."""
    cost: Callable[[Point], float] = task.macs if price is None else lambda policy: task.priced(policy, price)
    budget = left * cost({}) * (1 + 1e-9)  # sums of many milliseconds differ in their last digit
    began = time.perf_counter()
    objectives: tuple[Objective, ...] = (Objective("error"),)
    judged = Pruned(task.apply, task.judge, task.train_a_little)
    if name == "amc":
        strategy: loop.Strategy = amc(
            task.space,
            objectives,
            seed=seed,
            layers=task.found,
            target=left,
            cost=price,
            metric="flops" if price is None else "latency",
            warm_up=task.trials // 3,
        )
        evaluate = loop.Evaluate(judged)
    else:
        objectives += (Objective("cost", limit=budget, optimise=False),)
        strategy = Listed(_ranked(task, cost, budget), nsga2(task.space, objectives, seed=seed))
        evaluate = loop.Evaluate(judged, cheap=lambda policy: {"cost": cost(policy)})
    study = Study(task.space, objectives)
    loop.run(study, strategy, evaluate, trials=task.trials)
    best = sorted((t for t in study.finalists if cost(t.point) <= budget), key=_error)[:FINALISTS]
    policy = min((trial.point for trial in best), key=lambda point: _after_an_epoch(task, point, seed))
    spent = {
        "policies": len(study.finalists),
        "epochs": len(best) + len(study.finalists) * LITTLE / len(task.judge.train),
        "seconds": time.perf_counter() - began,
    }
    return Made(task.apply(policy), policy, spent)


def _ranked(task: Task, cost: Callable[[Point], float], budget: float) -> list[Point]:
    """What rankings of all channels say: where a search over policies begins."""
    kinds = (
        criteria.relative(criteria.l1), criteria.relative(criteria.group_magnitude), criteria.lamp,
        criteria.relative(criteria.bn_scale),
    )  # fmt: skip
    paths = [ranking.path(task.model, task.data.shape, task.space, criterion=kind) for kind in kinds]
    paths.append(ranking.inside(task.space, task.found))
    return [ranking.within(path, cost, budget) for path in paths]


def _error(trial: Trial) -> float:
    return trial.metrics["error"]


def _after_an_epoch(task: Task, policy: Point, seed: int) -> float:
    network = task.apply(policy)
    (epoch,) = training.train(
        network, task.judge, replace(task.recipe, epochs=1), seed=seed, teacher=task.model
    )
    return epoch.error


METHODS: dict[str, Callable[[Task, int, float, LayerTable | None], Made]] = {
    "uniform": uniform,
    "torch-pruning": torch_prunings,
    "amc": functools.partial(searched, "amc"),
    "nsga2": functools.partial(searched, "nsga2"),
}


def again(task: Task, method: str, seed: int, left: float, price: LayerTable | None, file: Path) -> Made:
    """What the method makes; a policy that it found before is not searched for again."""
    key = file.with_name(f"policy-{left:.6f}.json")
    if key.exists():
        said = read_json(key)
        return Made(task.apply(said["policy"]), said["policy"], said["spent"])
    made = METHODS[method](task, seed, left, price)
    if method in OURS:
        write_json(key, {"policy": made.policy, "spent": dict(made.spent)})
    return made


def exported(network: nn.Module, shape: tuple[int, int, int], file: Path) -> Path:
    """Written anew each time: weights do not change how long a file takes."""
    to_onnx(network, shape, file)
    return file


def milliseconds(files: Sequence[Path]) -> list[float]:
    return [latency.p50_ms for latency in connect(load_profile("local-cpu")).latencies(files)]


def at_latency(task: Task, method: str, seed: int, table: LayerTable, file: Path) -> tuple[Made, float]:
    """What the method makes that is measured no slower than the uniformly narrower network, and the share left by
    which it was asked for. Searches go by the sum of a table of layers, the others by multiply-adds."""
    yardstick = uniform(task, seed, SHARE, None)
    assert yardstick.policy is not None
    left = SHARE
    if method in OURS:
        left = task.priced(yardstick.policy, table) / task.priced({}, table)
    with tempfile.TemporaryDirectory() as folder:
        least = exported(yardstick.network, task.data.shape, Path(folder) / "uniform.onnx")
        for _ in range(TRIES):
            made = again(task, method, seed, left, table, file)
            one = exported(made.network, task.data.shape, Path(folder) / "one.onnx")
            allowed, taken = milliseconds([least, one])
            if taken <= TOLERANCE * allowed:
                return made, left
            left = round(left * 0.98 * allowed / taken, 6)
    raise SystemExit(f"{task.name} {method}: no network as fast as the uniform one in {TRIES} tries")


def trained(task: Task, variant: str, method: str, seed: int, table: LayerTable) -> dict[str, Any]:
    """One result: made, trained on and judged once, and kept."""
    folder = task.folder / variant / f"{method}-{seed}"
    file = folder / "result.json"
    if file.exists():
        known: dict[str, Any] = read_json(file)
        return known
    folder.mkdir(parents=True, exist_ok=True)
    left = SHARE
    if variant == "latency" and method != "uniform":
        made, left = at_latency(task, method, seed, table, file)
    else:
        made = again(task, method, seed, SHARE, None, file)
    before = training.error(made.network, task.data.validation, task.data.preprocess)
    epochs = training.train(
        made.network,
        task.data,
        task.recipe,
        seed=seed,
        teacher=task.model,
        checkpoint=folder / "checkpoint.pt",
    )
    exported(made.network, task.data.shape, folder / "model.onnx")
    result = {
        "method": method,
        "seed": seed,
        "asked_for": left,
        "error": epochs[-1].error,
        "error_before_training": before,
        "flops_ratio": flops(made.network, task.data.shape) / flops(task.model, task.data.shape),
        "spent": dict(made.spent),
        "policy": made.policy,
    }
    write_json(file, result)
    print(
        f"{task.name} {variant} {method} {seed}: {result['error']:.4f}, {result['flops_ratio']:.3f}",
        flush=True,
    )
    return result


def opened(name: str, data: Data, given: argparse.Namespace, variant: str) -> Task:
    """For latency in multiples of eight channels, of which a table of layers can be measured."""
    # Of 0.0005, 0.001 and 0.002 the best for all methods' networks, on training images held back.
    recipe = Recipe(epochs=given.epochs, learning_rate=0.002)
    first = replace(_cifar.RECIPE, epochs=1) if given.quick else _cifar.RECIPE
    model = _cifar.base(name, data, given.bases, first)
    eighths = [k / 8 for k in range(1, 9)] if not given.quick else [0.5, 1.0]
    fine, coarse = (1, [k / 16 for k in range(2, 17)]), (8, eighths)
    round_to, keep = fine if variant == "flops" else coarse
    offered = prune.space(model, data.shape, round_to=round_to, keep=keep)
    channels = Space(tuple(p for p in offered.parameters if p.name.startswith(prune.CHANNELS)))
    found = layers.layers(model, data.shape)
    return Task(name, model, data, channels, found, given.trials, recipe, given.out / name)


def compared(results: Sequence[Mapping[str, Any]], whole: float) -> dict[str, Any]:
    """Errors by method, and by how many points ours are below those of the others, of the means over seeds."""
    errors = {name: [r["error"] for r in results if r["method"] == name] for name in METHODS}
    points = {
        f"{ours} below {theirs}": 100 * (mean(errors[theirs]) - mean(errors[ours]))
        for ours in OURS
        for theirs in THEIRS
    }
    return {
        "whole": whole,
        "errors": {name: {"mean": mean(e), "deviation": pstdev(e), "seeds": e} for name, e in errors.items()},
        "points": points,
        "results": [{key: r[key] for key in r if key != "policy"} for r in results],
    }


def report(variant: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the bar of one variant: the worst of our networks and methods counts."""
    points = [found[name]["points"] for name in found]
    uniform_by = min(p[f"{ours} below uniform"] for p in points for ours in OURS)
    torch_by = min(p[f"{ours} below torch-pruning"] for p in points for ours in OURS)
    at = (
        "50 % of the multiply-adds"
        if variant == "flops"
        else "the measured latency of uniform pruning to 50 %"
    )
    write(
        f"compression-prune_{variant}",
        goal=f"AMC's and NSGA-II's validation errors at {at}: at least {OVER_UNIFORM:g} point below uniform L1's "
        f"and {OVER_TORCH_PRUNING:g} below those of Torch-Pruning's global group magnitude, on each network",
        value=uniform_by,
        holds=uniform_by >= OVER_UNIFORM and torch_by >= OVER_TORCH_PRUNING,
        below_torch_pruning=torch_by,
        networks=found,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/compression-prune"))
    parser.add_argument("--bases", type=Path, default=Path("runs/cifar"))
    parser.add_argument("--networks", nargs="+", default=list(_cifar.NETWORKS), choices=list(_cifar.NETWORKS))
    parser.add_argument("--variants", nargs="+", default=["flops", "latency"], choices=["flops", "latency"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.quick:
        given.seeds, given.trials, given.epochs = 1, 6, 1
        given.out, given.bases = given.out / "quick", given.out / "quick"
    data = _cifar.data(given.data, 2500 if given.quick else _cifar.IMAGES, cache=given.bases)
    for variant in given.variants:
        found = {}
        for name in given.networks:
            task = opened(name, data, given, variant)
            table = LayerTable(connect(load_profile("local-cpu")), task.folder / "layers.json")
            whole = training.error(task.model, data.validation, data.preprocess)
            results = [trained(task, variant, m, seed, table) for seed in range(given.seeds) for m in METHODS]
            found[name] = compared(results, whole)
            if variant == "latency":
                files = [task.folder / variant / f"{m}-0" / "model.onnx" for m in METHODS]
                found[name]["p50_ms"] = dict(zip(METHODS, milliseconds(files), strict=True))
            print(name, variant, found[name]["points"], flush=True)
        if set(found) == set(_cifar.NETWORKS) and not given.quick:
            report(variant, found)


if __name__ == "__main__":
    main()
