"""One search of one strategy on a problem, kept as a file so that a comparison that was killed can go on.

A run is kept under a name that says what it depends on: the problem as the search sees it, the strategy with its
settings and its code, the budget and the seed. Whatever of this changes, the run is made again.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nasflow import loop, names
from nasflow.bench.fingerprint import code
from nasflow.bench.problem import BenchError, Problem
from nasflow.errors import NasflowError
from nasflow.files import read_json, write_json
from nasflow.study import Metrics, Proposal, Study, Trial

HELP = {
    "cheap": "+cheap",
    "fidelities": "+low-fidelity",
}  # what a factory may be given, and how that is called


@dataclass(frozen=True)
class Contender:
    """A strategy with its settings, and whether it is told what is cheap and which low fidelities there are."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    helped: tuple[str, ...] = ()  # keys of HELP

    @property
    def label(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.settings.items())
        return " ".join(
            [f"{self.name}({settings})" if settings else self.name, *(HELP[h] for h in self.helped)]
        )

    def factory(self) -> Callable[..., loop.Strategy]:
        made: Callable[..., loop.Strategy] = names.resolve("strategy", self.name)
        return made

    def strategy(self, problem: Problem, seed: int) -> loop.Strategy:
        """Made anew, knowing of the problem no more than a search may know."""
        given: dict[str, Any] = {}
        if "cheap" in self.helped:
            given["cheap"] = problem.look_up_cheap
        if "fidelities" in inspect.signature(self.factory()).parameters:
            given["fidelities"] = problem.fidelities if "fidelities" in self.helped else (1.0,)
        return names.call(
            "strategy",
            self.name,
            self.factory(),
            problem.table.space,
            problem.searched,
            seed=seed,
            **self.settings,
            **given,
        )


def contenders(written: Sequence[str], problem: Problem) -> list[Contender]:
    """The strategies of names such as `random` or `optuna-nsga2(population=50)`, in their order; one that can use
    what the problem offers beside the error comes with and without it."""
    found: list[Contender] = []
    for text in written:
        plain = parse(text)
        plain.strategy(problem, seed=0)  # a mistake in its settings is told before anything is searched
        parameters = inspect.signature(plain.factory()).parameters
        offered = {"cheap": bool(problem.cheap), "fidelities": bool(problem.low_fidelities)}
        helped = tuple(name for name, there in offered.items() if there and name in parameters)
        found += [plain, Contender(plain.name, plain.settings, helped)] if helped else [plain]
    labels = [contender.label for contender in found]
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if not found or twice:
        raise BenchError(
            f"expected different strategies, got {', '.join(twice)} twice" if twice else "no strategies"
        )
    return found


def parse(text: str) -> Contender:
    """A strategy as it is written in the command line.

    >>> parse("optuna-nsga2(population=20)").settings
    {'population': 20}
    """
    name, bracket, arguments = text.strip().partition("(")
    names.check("strategy", name)
    if not bracket:
        return Contender(name)
    try:
        call = ast.parse(f"f({arguments}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise ValueError("not named")
        settings = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise BenchError(f"strategy {text!r}: expected settings as in {name}(population=50)") from error
    if settings.keys() & HELP.keys():
        raise BenchError(
            f"strategy {text!r}: what is cheap and which fidelities there are is said by the problem"
        )
    return Contender(name, settings)


@dataclass(frozen=True)
class Run:
    """What one search trained at full fidelity, in its order: rows of the table, and the evaluations spent after each.

    `seconds` are those of the whole search, `thinking` those that the strategy took to make its `proposals`.
    """

    contender: str
    seed: int
    rows: tuple[int, ...]
    spent: tuple[float, ...]
    seconds: float
    thinking: float
    proposals: int


def search(problem: Problem, contender: Contender, seed: int, evals: int, batch: int = 1) -> Run:
    """One search with a budget of `evals` evaluations."""
    start = time.perf_counter()
    study = Study(problem.table.space, problem.searched)
    strategy = _Timed(contender.strategy(problem, seed))
    loop.run(study, strategy, problem.evaluate(cheap="cheap" in contender.helped), trials=evals, batch=batch)
    seconds = time.perf_counter() - start
    rows, spent, total = [], [], 0.0
    for trial in study.trials:
        if trial.state in ("done", "failed"):
            total += trial.fidelity
        if trial.state == "done" and trial.fidelity >= 1.0:
            rows.append(problem.table.row(trial.point))
            spent.append(round(total, 6))
    return Run(contender.label, seed, tuple(rows), tuple(spent), seconds, strategy.seconds, len(study.trials))


class _Timed:
    """A strategy with a clock: what it does when told is part of making the next proposals."""

    def __init__(self, strategy: loop.Strategy) -> None:
        self._strategy = strategy
        self.seconds = 0.0

    def ask(self, count: int) -> Sequence[Proposal]:
        start = time.perf_counter()
        proposals = self._strategy.ask(count)
        self.seconds += time.perf_counter() - start
        return proposals

    def tell(self, trials: Sequence[Trial]) -> None:
        start = time.perf_counter()
        self._strategy.tell(trials)
        self.seconds += time.perf_counter() - start


@dataclass(frozen=True)
class Searches:
    """All runs of a comparison, as trials of a pool: number i is `order[i]`, and leaves its run in `folder`."""

    problem: Problem
    order: tuple[tuple[Contender, int], ...]  # with seeds
    evals: int
    batch: int
    folder: Path
    keys: tuple[str, ...]

    def __call__(self, trial: Trial) -> Metrics:
        contender, seed = self.order[trial.number]
        try:
            run = search(self.problem, contender, seed, self.evals, self.batch)
        except NasflowError:
            raise
        except (
            Exception
        ) as error:  # a pool tells its message alone, and who writes a strategy needs to see where
            raise BenchError("".join(traceback.format_exception(error))) from error
        write_json(self.file(trial.number), asdict(run))
        return {"seconds": run.seconds}

    def file(self, number: int) -> Path:
        return self.folder / f"{self.keys[number]}.json"

    def forget(self) -> None:
        """Remove every run of this comparison that is there."""
        for number in range(len(self.order)):
            self.file(number).unlink(missing_ok=True)

    def kept(self, number: int) -> Run | None:
        """The run of this number if it is there."""
        if not self.file(number).is_file():
            return None
        said = read_json(self.file(number))
        return Run(**{**said, "rows": tuple(said["rows"]), "spent": tuple(said["spent"])})


def searches(
    problem: Problem, made: Sequence[Contender], seeds: Sequence[int], evals: int, batch: int, folder: Path
) -> Searches:
    """Every contender with every seed, seed by seed, so that what is there of a killed comparison is even."""
    order = tuple((contender, seed) for seed in seeds for contender in made)
    whose = {contender.label: _key(problem, contender, evals, batch) for contender in made}
    keys = tuple(f"{_plain(contender.label)}-{seed}-{whose[contender.label]}" for contender, seed in order)
    return Searches(problem, order, evals, batch, folder, keys)


def _key(problem: Problem, contender: Contender, evals: int, batch: int) -> str:
    """Sixteen hexadecimal digits that stand for all that a run depends on but its seed."""
    table = problem.table
    columns = [objective.metric for objective in problem.searched]
    low = dict(problem.low_fidelities) if "fidelities" in contender.helped else {}
    parts = (
        [asdict(objective) for objective in problem.searched],
        [asdict(parameter) for parameter in table.space.parameters],
        [table.space.describe(table.at(row)) for row in range(0, len(table), 1 + len(table) // 100)],
        problem.cheap if "cheap" in contender.helped else (),
        low,
        [contender.label, evals, batch],
        code(Path(inspect.getfile(inspect.unwrap(contender.factory())))),
        code(Path(inspect.getfile(loop))),
    )
    digest = hashlib.sha256(json.dumps(parts).encode())
    digest.update("\n".join(table.architectures).encode())
    if table.space.folds:  # which of them are one network
        digest.update("\n".join(table.space.key(table.at(row)) for row in range(len(table))).encode())
    for column in (*columns, *low):
        digest.update(table.values(column).tobytes())
    return digest.hexdigest()[:16]


def _plain(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", label).strip("-")
