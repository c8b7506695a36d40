"""What every strategy promises, as tests."""

from __future__ import annotations

import functools
import inspect
import os
import random
import signal
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

from nasflow.loop import Evaluate, Observer, Outcome, Strategy, run
from nasflow.record import open_record
from nasflow.space import Choice, Point, Space
from nasflow.strategies.random import random_search
from nasflow.study import Metrics, Objective, Proposal, Record, Study, Trial
from nasflow.testing import elsewhere
from nasflow.testing.toys import Toy, joint, networks

TWO = (Objective("error"), Objective("flops"))
MANY = (Objective("error"), Objective("flops"), Objective("speed", "max"), Objective("params"))
BUDGET = 24  # enough for three generations of eight


@dataclass(frozen=True)
class StrategyUnderTest:
    """A strategy's `make(space, objectives, *, seed, ...)`, with arguments that suit searches of two dozen trials.

    `other` names, for every argument but the seed, a value that must change the search. A strategy that `learns`
    must find better fronts than random search does.
    """

    make: Callable[..., Strategy]
    other: Mapping[str, object] = field(default_factory=dict)
    learns: bool = True

    def search(
        self,
        toy: Toy,
        objectives: Sequence[Objective] = TWO,
        *,
        trials: int = BUDGET,
        batch: int = 4,
        seed: int = 0,
        record: Record | None = None,
        evaluate: Evaluate | None = None,
        observers: Sequence[Observer] = (),
        arguments: Mapping[str, object] | None = None,
    ) -> tuple[Study, Outcome]:
        """One search of the toy, with a fresh strategy."""
        study = Study(toy.space, objectives, record)
        strategy = self.make(toy.space, objectives, seed=seed, **(arguments or {}))
        evaluate = evaluate or Evaluate(toy.train)
        return study, run(study, strategy, evaluate, trials=trials, batch=batch, observers=observers)


def history(study: Study) -> list[tuple[object, ...]]:
    """Everything about a study's trials that has to repeat; how long they took does not."""
    return [
        (t.number, t.point, t.fidelity, t.parent, t.state, dict(t.metrics), t.error) for t in study.trials
    ]


class Stopped(Exception):
    """Raised by an observer to end a search, as Ctrl-C or a power cut would."""


class StrategyContract:
    """Subclass it and override the fixture `strategy`."""

    @pytest.fixture
    def strategy(self) -> StrategyUnderTest:
        raise NotImplementedError("override this fixture: return a StrategyUnderTest")

    # ---- what it asks for

    @pytest.mark.parametrize("toy", [networks(), joint()], ids=["networks", "joint"])
    def test_asks_only_for_points_of_the_space(self, strategy: StrategyUnderTest, toy: Toy) -> None:
        study, _ = strategy.search(toy)
        assert all(trial.point in toy.space for trial in study.trials)

    @pytest.mark.parametrize("batch", [1, 3, 8])
    def test_fills_the_budget_and_never_gives_more_than_asked(
        self, strategy: StrategyUnderTest, batch: int
    ) -> None:
        counts: list[tuple[int, int]] = []
        toy, study = joint(), Study(joint().space, TWO)
        watched = _Watched(strategy.make(toy.space, TWO, seed=0), counts)
        outcome = run(study, watched, Evaluate(toy.train), trials=20, batch=batch)
        assert outcome.complete, outcome.message
        assert 20 <= study.spent < 21 and study.counts["failed"] == 0
        assert all(0 < given <= asked for asked, given in counts)

    def test_ends_a_space_that_has_nothing_more(self, strategy: StrategyUnderTest) -> None:
        for space in (Space((Choice("a", (1,)),)), Space((Choice("a", (1,)), Choice("b", (1.0, 2.0, 3.0))))):
            toy = Toy(space, lambda point: {name: float(value or 0) for name, value in point.items()})
            study, _ = strategy.search(toy, (Objective("a"),), trials=10, batch=4)
            assert len(study.finalists) == space.size

    # ---- that it repeats

    def test_same_seed_same_search_another_seed_another(self, strategy: StrategyUnderTest) -> None:
        one, again, other = (strategy.search(joint(), seed=seed)[0] for seed in (1, 1, 2))
        assert history(one) == history(again)
        assert history(one) != history(other)

    def test_leaves_global_random_state_alone(self, strategy: StrategyUnderTest) -> None:
        histories = []
        for seed in (1, 2):
            random.seed(seed)
            np.random.seed(seed)
            before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
            histories.append(history(strategy.search(joint())[0]))
            after = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
            assert after == before, "it drew from the global generators"
        assert histories[0] == histories[1], "it depends on the state of the global generators"

    @pytest.mark.parametrize(("every", "batch"), [(1, 4), (5, 1)])
    def test_resumes_as_if_never_stopped(
        self, strategy: StrategyUnderTest, tmp_path: Path, every: int, batch: int
    ) -> None:
        toy, journal = networks(), tmp_path / "study.journal"
        undisturbed, _ = strategy.search(toy, evaluate=_troubled(toy), batch=batch)
        every *= max(1, len(undisturbed.trials) // BUDGET)  # short trainings are many

        def stop(trial: Trial, seen: list[Trial]) -> None:
            seen.append(trial)
            if len(seen) == every:
                raise Stopped

        finished = False
        while not finished:
            record = open_record(journal, "toy", toy.space, TWO)
            try:
                study, _ = strategy.search(
                    toy,
                    evaluate=_troubled(toy),
                    batch=batch,
                    record=record,
                    observers=[functools.partial(stop, seen=[])],
                )
                finished = True
            except Stopped:
                pass
        assert history(study) == history(undisturbed)

    @pytest.mark.parametrize("write", [17, 40])
    def test_resumes_after_kill_9_inside_a_write(
        self, strategy: StrategyUnderTest, tmp_path: Path, write: int
    ) -> None:
        toy, journal = joint(), tmp_path / "study.journal"
        ended = elsewhere.call(functools.partial(_search_until_write, strategy, journal, write))
        assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
        record = open_record(journal, "toy", toy.space, TWO)
        interrupted = Study(toy.space, TWO, open_record(journal, "toy", toy.space, TWO))
        assert 0 < interrupted.spent < BUDGET
        study, _ = strategy.search(toy, record=record)
        assert history(study) == history(strategy.search(toy)[0])

    def test_goes_on_from_a_record_it_would_not_have_made(
        self, strategy: StrategyUnderTest, tmp_path: Path
    ) -> None:
        toy, journal = joint(), tmp_path / "study.journal"
        other = StrategyUnderTest(random_search)
        before, _ = other.search(toy, record=open_record(journal, "toy", toy.space, TWO), trials=10, batch=5)
        study, outcome = strategy.search(toy, record=open_record(journal, "toy", toy.space, TWO))
        assert outcome.complete and BUDGET <= study.spent < BUDGET + 1, outcome.message
        assert history(study)[:10] == history(before)

    # ---- what it is told

    def test_tolerates_failed_refused_and_duplicate_trials(self, strategy: StrategyUnderTest) -> None:
        toy = networks()
        objectives = (Objective("error"), Objective("flops", limit=2500.0))
        study, _ = strategy.search(toy, objectives, evaluate=_troubled(toy), trials=30)
        assert 30 <= study.spent < 31, study.counts
        assert study.counts["failed"] > 0 and study.counts["refused"] > 0 and study.front

    def test_does_not_ask_for_what_failed_over_and_over(self, strategy: StrategyUnderTest) -> None:
        toy = networks()
        for seed in range(3):
            study, _ = strategy.search(toy, evaluate=_troubled(toy), batch=1, seed=seed)
            assert study.counts["duplicate"] < 4 * BUDGET, study.counts

    def test_tolerates_that_all_trials_are_refused(self, strategy: StrategyUnderTest) -> None:
        toy = joint()
        objectives = (Objective("error"), Objective("flops", limit=1e-6))
        evaluate = Evaluate(_never, cheap=lambda point: {"flops": toy.metrics(point)["flops"]})
        study, outcome = strategy.search(toy, objectives, evaluate=evaluate, trials=2)
        assert not outcome.complete and "flops must be at most 1e-06, best seen" in outcome.message
        assert study.counts["refused"] + study.counts["duplicate"] == len(study.trials) == 40

    @pytest.mark.parametrize("count", [1, 2, 3, 4])
    def test_minds_one_to_many_objectives_of_either_goal(
        self, strategy: StrategyUnderTest, count: int
    ) -> None:
        study, _ = strategy.search(joint(), MANY[:count])
        assert BUDGET <= study.spent < BUDGET + 1 and study.counts["failed"] == 0
        losses = study.losses(study.finalists)
        assert losses.shape == (len(study.finalists), count)
        best = {trial.number for trial in study.front}
        assert study.finalists[int(losses[:, 0].argmin())].number in best or count > 1

    def test_limits_are_respected(self, strategy: StrategyUnderTest) -> None:
        toy = networks()
        objectives = (
            Objective("error", limit=0.2),  # known after training
            Objective("flops", limit=2000.0),  # known before
            Objective("speed", "max", limit=4.0, optimise=False),
        )
        trained: list[int] = []

        def train(trial: Trial) -> Metrics:
            trained.append(trial.number)
            return toy.train(trial)

        cheap = _some(toy, "flops")
        study, _ = strategy.search(toy, objectives, evaluate=Evaluate(train, cheap=cheap), trials=30)
        assert study.front
        for trial in study.front:
            assert trial.metrics["error"] <= 0.2
            assert trial.metrics["flops"] <= 2000.0
            assert trial.metrics["speed"] >= 4.0
        assert sorted(trained) == [t.number for t in study.trials if t.state in ("done", "failed")]
        assert all(toy.metrics(study.trials[number].point)["flops"] <= 2000.0 for number in trained)

    # ---- that it is worth having

    def test_works_on_architecture_times_bits_times_sparsity(self, strategy: StrategyUnderTest) -> None:
        study, _ = strategy.search(joint(), MANY[:2], trials=40)
        assert 40 <= study.spent < 41 and study.counts["failed"] == 0
        for name in ("width", "depth", "bits", "sparsity"):
            assert len({trial.point[name] for trial in study.trials}) > 1, f"it never varied {name}"

    def test_every_argument_changes_the_result(self, strategy: StrategyUnderTest) -> None:
        arguments = [
            p.name
            for p in inspect.signature(strategy.make).parameters.values()
            if p.kind is p.KEYWORD_ONLY and p.name != "seed"
        ]
        assert set(arguments) == set(strategy.other), "give `other` a value for every argument, and no more"
        usual = history(strategy.search(joint())[0])
        for name in arguments:
            changed, _ = strategy.search(joint(), arguments={name: strategy.other[name]})
            assert history(changed) != usual, f"{name}={strategy.other[name]!r} changed nothing"

    def test_finds_better_fronts_than_random_search(self, strategy: StrategyUnderTest) -> None:
        if not strategy.learns:
            pytest.skip("it does not learn, and does not claim to")
        toy = networks()

        def median(one: StrategyUnderTest) -> float:
            studies = [one.search(toy, trials=32, seed=seed)[0] for seed in range(7)]
            return statistics.median(toy.quality(study.front, TWO) for study in studies)

        assert median(strategy) > median(StrategyUnderTest(random_search)) + 0.01


@dataclass
class _Watched:
    """Another strategy, with a note of (how many were asked for, how many came)."""

    strategy: Strategy
    counts: list[tuple[int, int]]

    def ask(self, count: int) -> Sequence[Proposal]:
        proposals = self.strategy.ask(count)
        self.counts.append((count, len(proposals)))
        return proposals

    def tell(self, trials: Sequence[Trial]) -> None:
        self.strategy.tell(trials)


def _some(toy: Toy, *names: str) -> Callable[[Point], Metrics]:
    """The part of a toy's metrics that is known before training."""

    def cheap(point: Point) -> Metrics:
        metrics = toy.metrics(point)
        return {name: metrics[name] for name in names}

    return cheap


def _troubled(toy: Toy) -> Evaluate:
    """An evaluation in which some points crash, some diverge and one lacks a metric."""

    def train(trial: Trial) -> Metrics:
        metrics = dict(toy.train(trial))
        if trial.point["kernel"] == 7:
            raise RuntimeError("this kernel crashes")
        if trial.point["width"] == 32:
            metrics["error"] = float("nan")
        if trial.point["width"] == 24 and trial.point["depth"] == 3:
            del metrics["error"]
        return metrics

    return Evaluate(train, cheap=_some(toy, "flops"))


def _never(trial: Trial) -> Metrics:
    raise AssertionError("a refused trial was trained")


class SupportsFileno(Protocol):
    """What `os.fsync` takes beside a number."""

    def fileno(self) -> int: ...


def _search_until_write(strategy: StrategyUnderTest, journal: Path, write: int) -> None:
    """Search with a record, and be killed when it is synced to disk for the `write`-th time."""
    left, sync = iter(range(write)), os.fsync

    def fsync(fd: int | SupportsFileno) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(fd)

    os.fsync = fsync
    toy = joint()
    strategy.search(toy, record=open_record(journal, "toy", toy.space, TWO))
