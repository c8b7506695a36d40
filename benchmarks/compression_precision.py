"""Bars: mixed-precision methods at an equal budget, in one table; the exact solver against brute force.

    python benchmarks/compression_precision.py --data FOLDER_OR_ARCHIVE [--seeds 3] [--parts exact simulated executable]

Simulated bits of a ResNet-20 (_cifar.py): each method may use the bit operations of 3 bits everywhere. All choose by
the same training images, those that search by error have equally many trials without training; then every policy is
trained equally long with learned steps (LSQ), from the same network, and judged on validation images that no search
saw. Executable precisions of the same network stand beside them, measured; simulated ones have no latency.

Results are kept by part and seed in `--out`, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import _cifar
import numpy as np
import torch
from _results import write
from torch import Tensor, nn

from nasflow import hardware
from nasflow.compression import assign, dnas, haq, mixed, precision, quantize, sensitivity
from nasflow.compression.assign import AssignError, Budget, Limit, Table
from nasflow.compression.fakequant import simulate
from nasflow.compression.layers import Layer, layers
from nasflow.data import Data, Split
from nasflow.evaluators.quantised import Simulated
from nasflow.export import predict, to_onnx
from nasflow.files import read_json, write_json
from nasflow.loop import Evaluate, Strategy, run
from nasflow.space import Point, Space
from nasflow.strategies.listed import Listed
from nasflow.strategies.nsga2 import nsga2
from nasflow.study import Objective, Study
from nasflow.training import Recipe, error, train

UNIFORM = 3  # bits whose bit operations are the budget
TRIALS = 60  # of searches by error
JUDGED = 1000  # training images that searches are judged by, and do not learn from
CALIBRATION, CURVATURE = 128, 256
PROBES = 50
RELAXED = 2  # epochs of DNAS, which are short: half of the images for weights, half for preferences
TRAINED = Recipe(epochs=2, batch_size=64, learning_rate=2e-3)
INSTANCES = 200
METHODS = ("uniform", "HAWQ-ILP", "loss increase, ILP", "HAQ", "NSGA-II", "DNAS")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--epochs", type=int, default=TRAINED.epochs)
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--instances", type=int, default=INSTANCES)
    parser.add_argument(
        "--parts", nargs="+", default=["exact", "simulated", "executable"],
        choices=["exact", "simulated", "executable"],
    )  # fmt: skip
    parser.add_argument("--device", default="local-cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/compression-precision"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    if "exact" in given.parts:
        exact(given.instances)
    if given.parts == ["exact"]:
        return
    images = _cifar.data(given.data, cache=given.out.parent / "cifar")
    task = Task(
        images, _cifar.base("resnet20", images, given.out.parent / "cifar"), given.trials, given.epochs
    )
    rows = []
    if "simulated" in given.parts:
        for seed, name in itertools.product(range(given.seeds), given.methods):
            rows.append(
                known(
                    given.out / f"{name}-{seed}-{given.trials}-{given.epochs}.json",
                    partial(searched, task, name, seed),
                )
            )
    measured = given.out / "executable.json"
    if "executable" in given.parts:
        known(measured, partial(executable, task, given.device, given.out / "files"))
    if {row["method"] for row in rows} < set(METHODS):
        return  # some methods alone: kept for the table, which needs all
    table(task, rows, read_json(measured)["rows"] if measured.exists() else [], given)


def known(file: Path, find: Any) -> dict[str, Any]:
    """What was found before, or is now."""
    if not file.exists():
        write_json(file, find())
    return dict(read_json(file))


def table(task: Task, rows: Sequence[dict[str, Any]], measured: Sequence[Any], given: Any) -> None:
    """Means over seeds, and the executable precisions beside them."""
    said: list[dict[str, Any]] = []
    for name in METHODS:
        own = [row for row in rows if row["method"] == name]
        if own:
            errors = [row["error"] for row in own]
            said.append(
                {
                    "method": name,
                    "kind": "simulated",
                    "error_simulated": statistics.fmean(errors),
                    "deviation": statistics.stdev(errors) if len(errors) > 1 else None,
                    "error_before_training": statistics.fmean(row["error_before_training"] for row in own),
                    "bitops": statistics.fmean(row["bitops"] for row in own),
                    "size_kb_simulated": statistics.fmean(row["size_kb_simulated"] for row in own),
                    "search_seconds": statistics.fmean(row["seconds"] for row in own),
                    "errors": errors,
                }
            )
    by_error: dict[str, float] = {row["method"]: row["error_simulated"] for row in said}
    best = min((name for name in by_error if name != "uniform"), key=by_error.__getitem__, default=None)
    gain = 100 * (by_error["uniform"] - by_error[best]) if best and "uniform" in by_error else None
    write(
        "compression-precision_table",
        goal="every method within the budget; points of error that the best of them saves over uniform bits, above 0",
        value=gain,
        holds=gain is not None and gain > 0 and all(row["bitops"] <= task.limit.most for row in said),
        best=best,
        network="resnet20",
        budget={
            "name": "bitops",
            "most": task.limit.most,
            "as": f"{UNIFORM} bits everywhere, 8 at the edges",
        },
        seeds=given.seeds,
        trials=given.trials,
        epochs_trained=given.epochs,
        error_of_floats=task.error_of_floats,
        simulated=said,
        executable=list(measured),
        policies=[
            {key: row[key] for key in ("method", "seed", "policy")} for row in rows if row["seed"] == 0
        ],
    )


# ---- simulated bits


@dataclass(frozen=True)
class Task:
    """A trained network, the data, and what every method has the same of."""

    images: Data
    network: nn.Module
    trials: int
    epochs: int

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        return layers(self.network, self.images.shape)

    @cached_property
    def space(self) -> Space:
        return precision.space(self.network, self.images.shape)

    @cached_property
    def limit(self) -> Limit:
        most = precision.bitops(self.layers, precision.uniform(self.space, UNIFORM))
        return Limit("bitops", precision.layer_bitops, most)

    @cached_property
    def calibration(self) -> Tensor:
        return torch.from_numpy(self.images.preprocess(self.images.train.x[:CALIBRATION]))

    @cached_property
    def searched(self) -> Data:
        """The training images, of which the last ones stand in for validation."""
        whole = self.images.train
        learned, judged = (
            Split(whole.x[:-JUDGED], whole.y[:-JUDGED]),
            Split(whole.x[-JUDGED:], whole.y[-JUDGED:]),
        )
        return replace(self.images, train=learned, validation=judged)

    @cached_property
    def build(self) -> partial[nn.Module]:
        return partial(
            simulate, model=self.network, shape=self.images.shape, calibration=self.calibration, method="mse"
        )

    @cached_property
    def error_of_floats(self) -> float:
        return error_of(self, self.network)

    def some(self, count: int, seed: int) -> tuple[Tensor, Tensor]:
        """Training images with their labels, in 32 bits."""
        train = self.searched.train
        picked = np.random.default_rng(seed).permutation(len(train))[:count]
        return torch.from_numpy(self.images.preprocess(train.x[picked])), torch.from_numpy(train.y[picked])


def searched(task: Task, name: str, seed: int) -> dict[str, Any]:
    """A method's policy, the error of it as it is and after training."""
    start = time.perf_counter()
    policy = {
        "uniform": lambda: precision.uniform(task.space, UNIFORM),
        "HAWQ-ILP": lambda: by_curvature(task, seed),
        "loss increase, ILP": lambda: by_loss(task, seed),
        "HAQ": lambda: by_agent(task, seed),
        "NSGA-II": lambda: by_evolution(task, seed),
        "DNAS": lambda: by_gradients(task, seed),
    }[name]()
    seconds = time.perf_counter() - start
    before = error_of(task, task.build(policy))
    network = simulate(policy, task.network, task.images.shape, task.calibration, qat="lsq")
    recipe = replace(TRAINED, epochs=task.epochs)
    epochs = train(network, task.images, recipe, seed=seed, teacher=task.network)
    found = {
        "method": name,
        "seed": seed,
        "error": epochs[-1].error,
        "error_before_training": before,
        **precision.Costs(task.layers)(policy),
        "seconds": seconds,
        "policy": policy,
    }
    print({key: value for key, value in found.items() if key != "policy"}, flush=True)
    return found


def error_of(task: Task, network: nn.Module) -> float:
    return error(network, task.images.validation, task.images.preprocess)


def by_curvature(task: Task, seed: int) -> Point:
    images, labels = task.some(CURVATURE, seed)
    told = sensitivity.hawq(task.network, task.space, task.build, images, labels, probes=PROBES, seed=seed)
    return assign.policy(task.space, task.layers, told, [task.limit])


def by_loss(task: Task, seed: int) -> Point:
    images, labels = task.some(CURVATURE, seed)
    told = sensitivity.loss_increase(task.network, task.space, task.build, images, labels)
    return assign.policy(task.space, task.layers, told, [task.limit])


def by_agent(task: Task, seed: int) -> Point:
    objectives = [Objective("error_simulated")]
    strategy = haq.haq(task.space, objectives, layers=task.layers, limit=task.limit, seed=seed)
    return by_error(task, strategy, objectives)


def by_evolution(task: Task, seed: int) -> Point:
    """It starts from uniform bits and is refused what is over the limit, which costs no trial."""
    objectives = [Objective("error_simulated"), Objective("bitops", limit=task.limit.most)]
    strategy = nsga2(task.space, objectives, seed=seed)
    start = [precision.uniform(task.space, bits) for bits in (UNIFORM, UNIFORM - 1)]
    return by_error(task, Listed(start, strategy), objectives)


def by_error(task: Task, strategy: Strategy, objectives: Sequence[Objective]) -> Point:
    study = Study(task.space, objectives)
    evaluate = Evaluate(Simulated(task.build, task.searched), cheap=precision.Costs(task.layers))
    run(study, strategy, evaluate, trials=task.trials)
    return min(study.finalists, key=lambda trial: trial.metrics["error_simulated"]).point


def by_gradients(task: Task, seed: int) -> Point:
    relaxation = dnas.dnas(
        task.network, task.space, task.build, task.layers, task.searched, cost=precision.layer_bitops,
        epochs=RELAXED, seed=seed, temperatures=(2.0, 0.3), share=0.5,
        on_epoch=lambda epoch: print(epoch, flush=True),
    )  # fmt: skip
    return relaxation.within(task.layers, [task.limit])


# ---- executable precisions


def executable(task: Task, device: str, folder: Path) -> dict[str, Any]:
    """The network as files in fp32, in int8 and in both, as the runtime really computes them."""
    on = hardware.connect(hardware.load_profile(device), energy=False)
    file = folder / "fp32.onnx"
    to_onnx(task.network, task.images.shape, file)
    flags: Collection[str] = on.latency(file).environment.get("flags") or ()
    reduced = quantize.needs_reduced_range(flags)
    calibration = task.calibration.numpy()

    def quantise(keep: Collection[str], out: Path) -> None:
        quantize.int8(file, calibration, out, reduce_range=reduced, keep=keep)

    chosen = mixed.fastest(file, quantise, on, folder)
    rows = []
    for name, path in (("fp32", file), ("int8", chosen.integers), ("mixed", chosen.file)):
        measured = on.compare(file, path)
        x = task.images.preprocess(task.images.validation.x)
        wrong = float((predict(path, x).argmax(1) != task.images.validation.y).mean())
        rows.append(
            {
                "method": name,
                "kind": "executable",
                "error": wrong,
                "size_kb": path.stat().st_size / 1024,
                "p50_ms": measured.b.p50_ms,
                "over_fp32": measured.ratio,
                "verdict": measured.verdict,
            }
        )
    return {"rows": rows, "said": chosen.words, "precisions": list(chosen.precisions)}


# ---- the solver


def exact(instances: int) -> None:
    """Random instances like those of HAWQ-V3, small enough to try every combination: 4 to 12 layers of 2 or 3
    precisions, up to three budgets, tied pairs, and conversions between neighbours in a half of them."""
    wrong, none, seconds = [], 0, []
    for seed in range(instances):
        objective, budgets, ties = instance(seed)
        expected = brute_force(objective, budgets, ties)
        start = time.perf_counter()
        try:
            found = assign.best(objective, budgets, ties=ties)
            same = expected is not None and abs(found.total - expected) <= 1e-9 * abs(expected)
            kept = all(found.spent[budget.name] <= budget.most for budget in budgets)
        except AssignError:
            same, kept = expected is None, True
            none += 1
        seconds.append(time.perf_counter() - start)
        if not (same and kept):
            wrong.append(seed)
    write(
        "compression-hawq_exact",
        goal="instances in which the exact solver and brute force differ, 0",
        value=len(wrong),
        holds=not wrong,
        instances=instances,
        without_solution=none,
        differing=wrong,
        median_seconds=statistics.median(seconds),
        most_seconds=max(seconds),
    )


def instance(seed: int) -> tuple[Table, list[Budget], list[tuple[int, int]]]:
    rng = np.random.default_rng(seed)
    count, bits = int(rng.integers(4, 13)), np.array([[4, 8], [2, 4, 8]][int(rng.integers(2))])
    traces, weights = 10.0 ** rng.uniform(-3, 1, count), rng.integers(100, 40_000, count)
    macs = weights * rng.integers(1, 1025, count)
    between = {}
    if rng.random() < 0.5:
        for i in range(count - 1):
            conversion = rng.random((len(bits), len(bits)))
            np.fill_diagonal(conversion, 0.0)
            between[i, i + 1] = conversion.tolist()
    objective = Table((traces[:, None] * 4.0**-bits * rng.uniform(0.5, 2, (count, len(bits)))).tolist())
    costs = {
        "size_bytes": Table((weights[:, None] * bits / 8).tolist()),
        "bitops": Table((macs[:, None] * bits**2).tolist()),
        "latency": Table((macs[:, None] / 1e6 * bits**0.5).tolist(), between),
    }
    budgets = []
    for name in list(costs)[: int(rng.integers(0, 4))]:
        least = sum(min(row) for row in costs[name].own)
        most = sum(max(row) for row in costs[name].own)
        budgets.append(Budget(name, costs[name], least + float(rng.uniform(-0.05, 0.8)) * (most - least)))
    pairs = rng.permutation(count)[: 2 * int(rng.integers(0, count // 2 + 1))].reshape(-1, 2)
    if rng.random() < 0.5:
        objective = Table(objective.own, between)
    return objective, budgets, [(int(a), int(b)) for a, b in pairs]


def brute_force(objective: Table, budgets: Sequence[Budget], ties: Sequence[tuple[int, int]]) -> float | None:
    """The least objective of all combinations within the budgets; None where there is none."""
    options = np.indices([len(row) for row in objective.own]).reshape(len(objective.own), -1)

    def totals(table: Table) -> Any:
        total = sum(np.asarray(row, float)[taken] for row, taken in zip(table.own, options, strict=True))
        for (i, k), matrix in table.between.items():
            total = total + np.asarray(matrix, float)[options[i], options[k]]
        return total

    kept = np.ones(options.shape[1], dtype=bool)
    for a, b in ties:
        kept &= options[a] == options[b]
    for budget in budgets:
        kept &= totals(budget.table) <= budget.most
    return float(totals(objective)[kept].min()) if kept.any() else None


if __name__ == "__main__":
    main()
