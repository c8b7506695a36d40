"""Whether every strategy beats random search at equal evaluations on the project's own table, seed by seed.

    python benchmarks/search_own_table.py --out FOLDER [--seeds 20] [--workers 2] [--curves OUT.svg] [STRATEGY ...]

Error against latency on digits-cells, 200 evaluations, one proposal at a time. What counts is the share of the true
front's hypervolume at the end, of which only networks of the better half by error are part; a strategy beats random
search if the median of its differences over the seeds is above zero and Wilcoxon's signed rank test, two-sided, says
p < .05. The end decides because that is what a search leaves; after 50 evaluations most have hardly begun to learn, and
a mean over the way counts the random beginning that all share. It is also the hardest for those that look at many
networks shortly, as random search has seen much of the table by then. The same is told of 50 and 100 evaluations and of
the mean over all. Strategies that train some networks
shortly get a third and a ninth of a training, paid for as that; `area` begins with the best by the table's NASWOT
score, which costs nothing here. Finished searches are kept in FOLDER, and the same command goes on. Of a strategy that
would take longer than --cap all in all, fewer seeds are searched, and the result says how many. Afterwards
`python docs/measured.py` writes the numbers into docs/methods.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import _results
import numpy as np

from nasflow import names
from nasflow.bench import Comparison, Problem, Result, compare
from nasflow.bench.comparison import paired
from nasflow.bench.curves import svg
from nasflow.evaluators import tabular
from nasflow.files import write_text
from nasflow.space import Point, Space
from nasflow.strategies import evolution
from nasflow.strategies.pymoo_algorithms import MissingExtra
from nasflow.study import Metrics, Objective

TABLE = "digits-cells"
LOW = {"error_ninth": 1 / 9, "error_third": 1 / 3}
SCORE = "score_naswot"
SHORT = (
    "asha",
    "bohb",
    "hyperband",
    "mo-asha",
    "racing",
    "successive-halving",
)  # judged with short trainings
EVALS = 200  # the shares are told after 50, 100 and 200
LEAST = 6  # seeds: with fewer, no difference has p < .05
EXCEPTIONS = 2
DRAWN = ("auto", "localsearch", "nsga2", "mo-asha", "optuna-tpe-mv", "random")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("strategies", nargs="*", help="all if none is named; then nothing but them is judged")
    parser.add_argument(
        "--keep",
        action="store_true",
        help="of others, keep what the result says, made with the same settings",
    )
    parser.add_argument("--table", default=TABLE)
    parser.add_argument("--useful-error", type=float, default=None, help="in place of the better half")
    parser.add_argument("--evals", type=int, default=EVALS)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--cap", type=float, default=3600.0, help="seconds for all searches of one strategy")
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--curves", type=Path, default=None, help="a picture of some of them")
    parser.add_argument("--out", type=Path, required=True, help="folder of finished searches")
    given = parser.parse_args()
    table = tabular.load(given.table)
    problem = Problem(
        table,
        (Objective("error"), Objective("latency_ms")),
        low_fidelities=LOW,
        useful_error=given.useful_error or better_half(table),
    )
    baseline = searched(problem, "random", given)
    random = baseline.results[0]
    drawn = {"random": random}
    judged: dict[str, dict[str, Any]] = {"random": said(random)}
    for name in given.strategies or strategies():
        if name == "random":
            continue
        try:
            results = searched(problem, name, given).results
        except (MissingExtra, tabular.TableError) as error:
            judged[name] = {"beats_random": None, "note": str(error)}
            continue
        drawn[name] = results[-1 if name in SHORT else 0]
        judged[name] = {**said(drawn[name]), **beside(drawn[name], random, baseline.counts)}
        judged[name]["also"] = {
            other.contender: {**said(other), **beside(other, random, baseline.counts)}
            for other in results
            if other is not drawn[name]
        }
        print(f"{name}: {line(judged[name])}", flush=True)
    if given.keep:
        judged = {**kept(problem, given, judged["random"]), **judged}
    exceptions = [name for name, result in judged.items() if result.get("beats_random") is False]
    missing = [name for name in strategies() if "shares" not in judged.get(name, {})]
    _results.write(
        "search-own_table",
        goal=f"strategies that do not beat random search on the own table, at most {EXCEPTIONS}",
        value=len(exceptions),
        holds=len(exceptions) <= EXCEPTIONS and not missing,
        exceptions=exceptions,
        not_searched=missing,
        table=table.name,
        objectives=[objective.metric for objective in problem.objectives],
        low_fidelities=LOW,
        useful_error=problem.useful_error,
        true_front=len(baseline.judge.front),
        evals=given.evals,
        seeds=given.seeds,
        strategies={name: judged[name] for name in ["random", *sorted(judged.keys() - {"random"})]},
        command=command(given, sorted(name for name in judged if "shares" in judged[name])),
    )
    if given.curves is not None:
        some = tuple(drawn[name] for name in DRAWN if name in drawn)
        write_text(given.curves, svg(replace(baseline, results=some)))


def command(given: argparse.Namespace, searched: Sequence[str]) -> str:
    """What makes all of the result in one go, whatever was kept of it this time."""
    settings = f"--evals {given.evals} --seeds {given.seeds} --cap {given.cap:g}"
    return f"python benchmarks/search_own_table.py {settings} {' '.join(searched)}"


def strategies() -> list[str]:
    """The name of every strategy; of two names for the same thing, the longer one."""
    by_length = sorted(names.TABLES["strategy"], key=len)
    return sorted({names.TABLES["strategy"][name]: name for name in by_length}.values())


def kept(problem: Problem, given: argparse.Namespace, random: Mapping[str, Any]) -> dict[str, Any]:
    """What the result says of strategies; it has to be of the same problem, on which random search came out alike."""
    said: dict[str, Any] = json.loads((_results.RESULTS / "search-own_table.json").read_text())
    ours = (problem.table.name, LOW, problem.useful_error, given.evals, given.seeds, random["shares"])
    theirs = [said[key] for key in ("table", "low_fidelities", "useful_error", "evals", "seeds")]
    if [*ours] != [*theirs, said["strategies"]["random"]["shares"]]:
        sys.exit(
            "--keep: the result is of another table, budget or number of seeds; search all strategies anew"
        )
    results: dict[str, Any] = said["strategies"]
    return results


def better_half(table: tabular.Table) -> float:
    """How far the median error is from the best, in points, rounded up."""
    errors = table.values("error")
    return float(math.ceil(np.nanmedian(errors) - np.nanmin(errors)))


def searched(problem: Problem, name: str, given: argparse.Namespace) -> Comparison:
    """One strategy, told of short trainings and not, with as many seeds as there is time for."""
    written = f"{os.path.relpath(__file__)}:informed_area(table={given.table!r})" if name == "area" else name

    def seeds(count: int) -> Comparison:
        return compare(
            problem, [written], evals=given.evals, seeds=count, workers=given.workers, folder=given.out
        )

    once = sum(result.seconds[0] for result in seeds(1).results)
    return seeds(min(given.seeds, max(LEAST, int(given.cap / once))))


def said(result: Result) -> dict[str, Any]:
    """The medians of one strategy."""
    return {
        "shares": {str(count): float(np.median(shares)) for count, shares in result.shares.items()},
        "seeds": len(result.seconds),
        "seconds": float(np.median(result.seconds)),
    }


def line(judged: Mapping[str, Any]) -> str:
    tests = {**judged["on_the_way"], "end": judged}
    return ", ".join(
        f"{when} {test['wins']}:{test['losses']} p={test['p']:.2g}" for when, test in tests.items()
    )


def beside(result: Result, random: Result, counts: Sequence[int]) -> dict[str, Any]:
    """One strategy and random search, with the seeds that both had: at the end, which decides, and on the way."""
    on_the_way = {str(count): versus(result.shares[count], random.shares[count]) for count in result.shares}
    mean = versus(average(result, counts), average(random, counts))
    end = versus(result.final["hypervolume"], random.final["hypervolume"])
    verdict = {"beats_random": end["gain"] > 0 and end["p"] < 0.05}
    return {**end, **verdict, "on_the_way": {**on_the_way, "mean": mean}}


def average(result: Result, counts: Sequence[int]) -> list[float]:
    """The mean share of each seed over all evaluations: how good a search is whenever it is stopped."""
    span = counts[-1] - counts[0]
    return [float(np.trapezoid(curve, counts)) / span for curve in result.curve]


def versus(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Values of the same seeds, higher is better."""
    a, b = np.array(ours), np.array(theirs[: len(ours)])
    test = paired("share", ("ours", "theirs"), -a, -b)
    return {"gain": float(np.median(a - b)), "wins": test.wins, "losses": test.losses, "p": test.p}


def informed_area(
    space: Space, objectives: Sequence[Objective], *, seed: int = 0, table: str = TABLE
) -> evolution.AgingEvolution:
    """`area`, told the NASWOT score of any network of a table."""
    rows = opened(table)

    def score(point: Point) -> Metrics:
        return {SCORE: float(rows.values(SCORE)[rows.row(point)])}

    return evolution.area(space, objectives, seed=seed, score=SCORE, cheap=score)


@functools.cache
def opened(table: str) -> tabular.Table:
    return tabular.load(table)


if __name__ == "__main__":
    main()
