"""How well cheap looks at a network foretell its error, on the project's own table. Measurements, not bars.

    python benchmarks/estimators.py [--table FILE] [--scores FILE]

Every zero-cost score, the counts, and short trainings: their rank correlation with the error after full training,
over all different cells and over the best quarter of them, and their seconds for a network. Then NASWOT's search
(Mellor et al., ICML 2021): the best by score of 100 and of 1,000 random cells, 500 times, against one random cell
and against as many random trainings as there would be time for. Writes benchmarks/results/search-estimators.json
and search-naswot.json; the seconds of scores are those noted by zero_cost_scores.py.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from _results import write
from make_digits_cells import lines
from numpy.typing import NDArray
from scipy.stats import kendalltau, spearmanr

from nasflow.errors import NasflowError
from nasflow.evaluators.tabular import Table, load

SAMPLES, REPETITIONS = (100, 1000), 500
LOW = {"error_ninth": "train_seconds_ninth", "error_third": "train_seconds_third"}
COUNTS = ("flops", "params")
Values = NDArray[np.float64]


def estimators(table: Table) -> dict[str, Values]:
    """Of every estimator its value in each row, higher is better."""
    scores = {name.removeprefix("score_"): name for name in table.columns if name.startswith("score_")}
    if not scores:
        raise NasflowError(
            f"{table.name} has no columns score_*; run zero_cost_scores.py, then make_digits_cells.py assemble"
        )
    found = {name: table.values(column) for name, column in scores.items()}
    found |= {name: table.values(name) for name in COUNTS}
    return found | {name: -table.values(name) for name in LOW}


def correlations(values: Values, error: Values) -> dict[str, float]:
    """Rank correlations of an estimator with being good: 1 is a perfect order."""
    quarter = error <= np.quantile(error, 0.25)
    return {
        "kendall": float(kendalltau(values, -error).statistic),
        "spearman": float(spearmanr(values, -error).statistic),
        "kendall_best_quarter": float(kendalltau(values[quarter], -error[quarter]).statistic),
    }


def seconds(table: Table, file: Path) -> dict[str, float]:
    """Of estimators that run the network: mean processor seconds for one."""
    noted = [line["seconds"] for line in lines(file)]
    if not noted:
        raise NasflowError(f"{file} holds no seconds; run zero_cost_scores.py, or name its file by --scores")
    found = {name.replace("-", "_"): statistics.mean(line[name] for line in noted) for name in noted[0]}
    return found | {name: float(table.values(column).mean()) for name, column in LOW.items()}


def searches(score: Values, error: Values, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """The errors of what is chosen, over many repetitions."""
    rows = len(error)
    found = {"random, 1 trained": error[rng.integers(rows, size=REPETITIONS)]}
    for count in SAMPLES:
        drawn = [rng.choice(rows, count, replace=False) for _ in range(REPETITIONS)]
        found[f"naswot of {count}, 1 trained"] = np.array(
            [error[some[score[some].argmax()]] for some in drawn]
        )
    return {name: summary(values) for name, values in found.items()}


def random_with(trainings: int, error: Values, rng: np.random.Generator) -> dict[str, float]:
    """Random search that trains so many and takes the best."""
    drawn = [rng.choice(len(error), trainings, replace=False) for _ in range(REPETITIONS)]
    return summary(np.array([error[some].min() for some in drawn]))


def summary(values: Values) -> dict[str, float]:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "quartile_1": float(low),
        "median": float(middle),
        "quartile_3": float(high),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--table", default="digits-cells")
    parser.add_argument("--scores", type=Path, default=Path("runs/digits-cells/scores.jsonl"))
    given = parser.parse_args()
    table = load(given.table)
    error, took = table.values("error"), seconds(table, given.scores)
    firsts = np.unique(table.values("cell"), return_index=True)[1]  # a row for every cell that differs
    judged: dict[str, dict[str, Any]] = {}
    for name, values in estimators(table).items():
        judged[name] = {**correlations(values[firsts], error[firsts]), "seconds": took.get(name)}
    # What the errors themselves would reach: those of one training against the mean of the others.
    seeds = np.array([table.values(f"error_seed{seed}") for seed in range(3)])[:, firsts]
    ceiling = [correlations(-seeds[i], np.delete(seeds, i, 0).mean(0))["kendall"] for i in range(len(seeds))]
    ordered = dict(sorted(judged.items(), key=lambda item: -item[1]["kendall"]))
    write(
        "search-estimators",
        goal=None,
        value=None,
        holds=None,
        cells=len(firsts),
        estimators=ordered,
        one_training_against_the_others_kendall=statistics.mean(ceiling),
        full_training_seconds=float(table.values("train_seconds").mean()),
    )
    rng = np.random.default_rng(0)
    training = float(table.values("train_seconds").mean())
    found = searches(table.values("score_naswot"), error, rng)
    spent = {count: count * took["naswot"] for count in SAMPLES}
    for count, scoring in spent.items():
        trainings = 1 + round(scoring / training)
        found[f"random, {trainings} trained, as long as naswot of {count}"] = random_with(
            trainings, error, rng
        )
    write(
        "search-naswot",
        goal=None,
        value=None,
        holds=None,
        error_percent=found,
        scoring_seconds={str(count): scoring for count, scoring in spent.items()},
        training_seconds=training,
        repetitions=REPETITIONS,
        best_in_table=float(error.min()),
        median_in_table=float(np.median(error)),
    )
    for name, one in ordered.items():
        print(f"{name:12} kendall {one['kendall']:6.3f}  spearman {one['spearman']:6.3f}", one["seconds"])
    for name, told in found.items():
        print(f"{name:50} {told['mean']:.2f} +- {told['std']:.2f} %")


if __name__ == "__main__":
    main()
