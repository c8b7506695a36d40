"""How many evaluations `auto` needs to 90 % and 95 % of a front's hypervolume, over those of its best peer.

    python benchmarks/search_auto.py --seeds 20 --out FOLDER [cifar10_raspi4 cifar10_fpga ...]

needs a table of NAS-Bench-201 with latencies of devices, at ../shared/data or as --table. Per column, a dataset and a
device: error of the test images after 200 epochs against latency, judged within 10 points of the best error. Peers
search for 500 evaluations, `auto` for --evals; a run of either that does not get there counts as 500. Once more with
the latency declared cheap and 12 epochs as a look that costs .06 evaluations. The defaults of `auto` were chosen on
the columns cifar10_raspi4 and cifar10_fpga alone. Finished searches are kept in FOLDER.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import _results
import numpy as np

from nasflow.bench import Problem, Result, compare
from nasflow.evaluators import tabular
from nasflow.study import Objective

TABLE = Path(__file__).parents[2] / "shared/data/nasbench201_hardware.parquet"
DEVICES = ("raspi4", "fpga", "edgegpu", "pixel3", "eyeriss")
COLUMNS = [f"{dataset}_{device}" for dataset in ("cifar10", "cifar100") for device in DEVICES]
CHOSEN_ON = ("cifar10_raspi4", "cifar10_fpga")
PEERS = ("random", "optuna-nsga2", "optuna-tpe-mv", "pymoo-nsga2", "localsearch", "nsga2")
BUDGET = 500
TARGETS = (0.90, 0.95)
GOAL, GOAL_HELPED, WORST = 0.6, 0.35, 1.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("columns", nargs="*", help=f"of {', '.join(COLUMNS)}; all if none is named")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--evals", type=int, default=200, help="of auto")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--out", type=Path, required=True, help="folder of finished searches")
    given = parser.parse_args()
    if not given.table.is_file():
        sys.exit(f"skipped: no table {given.table.name}; give one with --table")
    table = tabular.load(given.table)
    found = {column: column_of(table, column, given) for column in given.columns or COLUMNS}
    setting = {
        "seeds": given.seeds,
        "budget_of_peers": BUDGET,
        "budget_of_auto": given.evals,
        "chosen_on": CHOSEN_ON,
        "columns": found,
    }
    for bar, who, goal in (("auto", "auto", GOAL), ("auto_helped", "auto helped", GOAL_HELPED)):
        ratios = {column: said["over_best_peer"][who] for column, said in found.items()}
        every = [ratio for column in ratios.values() for ratio in column.values()]
        unseen = [r for name, column in ratios.items() if name not in CHOSEN_ON for r in column.values()]
        value = geometric_mean(every)
        worst_matters = who == "auto"
        _results.write(
            f"search-{bar}",
            goal=f"evaluations of {who} to 90 % and 95 %, over the best peer's: geometric mean at most {goal}"
            + (f", none above {WORST:g}" if worst_matters else ""),
            value=value,
            holds=value <= goal and (not worst_matters or max(every) <= WORST),
            worst=max(every),
            on_columns_not_chosen_on=geometric_mean(unseen) if unseen else None,
            ratios=ratios,
            **setting,
        )


def column_of(table: tabular.Table, column: str, given: argparse.Namespace) -> dict[str, Any]:
    """Medians of the evaluations to each target of everybody, and those of auto over the best peer's."""
    dataset = column.partition("_")[0]
    latency = f"{column}_latency_ms"
    plain = Problem(
        table, (Objective(f"{dataset}_test_acc_200", "max"), Objective(latency)), useful_error=10.0
    )
    helped = replace(plain, cheap=(latency,), low_fidelities={f"{dataset}_val_acc_12": 0.06})
    kept = {"seeds": given.seeds, "workers": given.workers, "folder": given.out}
    results = list(compare(plain, PEERS, evals=BUDGET, **kept).results)
    results += compare(helped, ["auto"], evals=given.evals, **kept).results
    evaluations: dict[str, dict[str, float]] = {}
    for result in results:
        name = result.contender if result.contender in (*PEERS, "auto") else "auto helped"
        evaluations[name] = {f"{target:.0%}": median(result, target) for target in TARGETS}
    best = {key: min(evaluations[peer][key] for peer in PEERS) for key in evaluations["auto"]}
    over = {who: {key: evaluations[who][key] / best[key] for key in best} for who in ("auto", "auto helped")}
    print(column, {who: {key: round(ratio, 2) for key, ratio in one.items()} for who, one in over.items()})
    return {"evaluations": evaluations, "over_best_peer": over}


def median(result: Result, target: float) -> float:
    return float(np.median(result.counted(target, BUDGET)))


def geometric_mean(values: list[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


if __name__ == "__main__":
    main()
