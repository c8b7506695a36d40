"""The search loop: what is refused, measured, trained, told, recorded and said, and how it goes on."""

import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from nasflow.errors import Passing, Unavailable
from nasflow.loop import Evaluate, Outcome, SearchError, run
from nasflow.pool import Processes
from nasflow.record import open_record
from nasflow.space import Choice, Point, Space
from nasflow.strategies.random import random_search
from nasflow.study import Metrics, Objective, Proposal, Study, Trial

SPACE = Space(
    (Choice("a", tuple(range(10))), Choice("b", (0, 1, 2))),
    (lambda point: {**point, "b": 0} if point["a"] == 0 else point,),
)
ONE = (Objective("error"),)
LIMITED = (Objective("error"), Objective("size", limit=5.0))


class Scripted:
    """Proposes the given (a, b) in their order and keeps what it is told."""

    def __init__(self, *points: tuple[int, int]) -> None:
        self.left = [Proposal({"a": a, "b": b}) for a, b in points]
        self.counts: list[int] = []
        self.told: list[list[Trial]] = []

    def ask(self, count: int) -> list[Proposal]:
        self.counts.append(count)
        proposals, self.left = self.left[:count], self.left[count:]
        return proposals

    def tell(self, trials: Sequence[Trial]) -> None:
        self.told.append(list(trials))


class Bench:
    """An evaluation that notes what it is asked to do: `size` is arithmetic, `latency` measured, `error` trained."""

    def __init__(self, measure: Callable[[Trial], Metrics | Exception] | None = None) -> None:
        self.trained: list[int] = []
        self.measured: list[list[int]] = []
        self._measure = measure

    def train(self, trial: Trial) -> Metrics:
        self.trained.append(trial.number)
        return {"error": 1.0 / (1 + trial.point["a"])}

    def cheap(self, point: Point) -> Metrics:
        return {"size": float(point["a"])}

    def measure(self, trials: Sequence[Trial]) -> list[Metrics | Exception]:
        self.measured.append([trial.number for trial in trials])
        return [self._measure(trial) for trial in trials]

    @property
    def evaluate(self) -> Evaluate:
        return Evaluate(self.train, self.cheap, self.measure if self._measure else None)


def states(study: Study) -> list[str]:
    return [trial.state for trial in study.trials]


# ---- budget and batches


def test_trains_until_the_budget_is_spent_and_asks_for_no_more_than_is_left():
    study, strategy = Study(SPACE, ONE), Scripted(*((a, 1) for a in range(10)))
    outcome = run(study, strategy, Bench().evaluate, trials=7, batch=3)
    assert outcome == Outcome(True, "7 trials trained")
    assert strategy.counts == [3, 3, 1]
    assert [[trial.number for trial in told] for told in strategy.told] == [[0, 1, 2], [3, 4, 5], [6]]
    assert states(study) == ["done"] * 7


def test_a_spent_budget_is_left_alone_and_a_larger_one_goes_on():
    study, bench = Study(SPACE, ONE), Bench()
    run(study, Scripted(*((a, 1) for a in range(10))), bench.evaluate, trials=3)
    strategy = Scripted(*((a, 1) for a in range(10)))
    assert run(study, strategy, bench.evaluate, trials=3).complete and bench.trained == [0, 1, 2]
    assert run(study, Scripted(*((a, 1) for a in range(10))), bench.evaluate, trials=5).complete
    assert bench.trained == [0, 1, 2, 3, 4]


def test_a_strategy_with_nothing_more_to_ask_ends_the_search():
    outcome = run(Study(SPACE, ONE), Scripted((1, 0), (2, 0)), Bench().evaluate, trials=9, batch=4)
    assert outcome == Outcome(True, "the strategy has nothing more to ask after 2 trials")


def test_a_strategy_that_gives_too_much_is_an_error():
    class Eager(Scripted):
        def ask(self, count: int) -> list[Proposal]:
            return super().ask(count + 1)

    with pytest.raises(SearchError, match="gave 2 proposals when asked for 1"):
        run(Study(SPACE, ONE), Eager((1, 0), (2, 0)), Bench().evaluate, trials=5)


@pytest.mark.parametrize(("trials", "batch"), [(0, 1), (1, 0), (-1, 1)])
def test_a_budget_or_batch_of_nothing_is_an_error(trials, batch):
    with pytest.raises(ValueError, match="at least one trial and a batch of at least one"):
        run(Study(SPACE, ONE), Scripted(), Bench().evaluate, trials=trials, batch=batch)


# ---- cheapest first


def test_what_arithmetic_refuses_is_neither_measured_nor_trained():
    bench, study = Bench(measure=lambda trial: {"latency": 1.0}), Study(SPACE, LIMITED)
    strategy = Scripted((9, 0), (1, 0), (6, 0), (2, 0))
    run(study, strategy, bench.evaluate, trials=2, batch=4)
    assert states(study) == ["refused", "done", "refused", "done"]
    assert bench.trained == [1, 3] and bench.measured == [[1], [3]]
    assert study.trials[0].error == "size 9 is over its limit 5"
    assert study.trials[0].metrics == {"size": 9.0}
    assert study.trials[1].metrics == {"size": 1.0, "latency": 1.0, "error": 0.5}
    assert [*itertools.chain(*strategy.told)] == study.trials, "refused ones are told too"


def test_what_measuring_refuses_is_not_trained():
    bench = Bench(measure=lambda trial: {"latency": 10.0 * trial.point["a"]})
    study = Study(SPACE, (*ONE, Objective("latency", limit=25.0)))
    run(study, Scripted((3, 0), (2, 0)), bench.evaluate, trials=1, batch=2)
    assert states(study) == ["refused", "done"]
    assert bench.trained == [1]
    assert study.trials[0].error == "latency 30 is over its limit 25"
    assert study.trials[0].metrics == {"size": 3.0, "latency": 30.0}


def test_a_batch_is_measured_before_any_of_it_is_trained():
    order: list[str] = []

    def measure(trial: Trial) -> Metrics:
        order.append(f"measure {trial.number}")
        assert trial.metrics == {"size": float(trial.point["a"])}, "what is known is passed on"
        return {"latency": 1.0}

    bench = Bench(measure)

    def train(trial: Trial) -> Metrics:
        order.append(f"train {trial.number}")
        assert trial.metrics["latency"] == 1.0
        return {"error": 0.5}

    run(
        Study(SPACE, ONE),
        Scripted((1, 0), (2, 0)),
        Evaluate(train, bench.cheap, bench.measure),
        trials=2,
        batch=2,
    )
    assert order == ["measure 0", "measure 1", "train 0", "train 1"]


def test_training_overrides_an_estimate_and_a_limit_found_broken_after_it_keeps_the_trial():
    study = Study(SPACE, (*ONE, Objective("size", limit=5.0)))
    run(study, Scripted((4, 0)), Evaluate(lambda trial: {"error": 0.1, "size": 7.0}, Bench().cheap), trials=1)
    (trial,) = study.trials
    assert trial.state == "done" and trial.metrics["size"] == 7.0
    assert study.front == []


# ---- duplicates


def test_duplicates_are_never_trained_twice_within_a_batch_or_across():
    bench, study = Bench(), Study(SPACE, ONE)
    strategy = Scripted((1, 0), (1, 0), (0, 2), (1, 0), (0, 1), (2, 0))
    run(study, strategy, bench.evaluate, trials=3, batch=3)
    assert states(study) == ["done", "duplicate", "done", "duplicate", "duplicate", "done"]
    assert bench.trained == [0, 2, 5]
    assert study.trials[1].metrics == study.trials[0].metrics
    assert study.trials[1].error == "the same as trial 0"
    assert study.trials[4].error == "the same as trial 2", "0,1 means the same as 0,2"


def test_duplicates_of_what_failed_or_was_refused_say_so():
    study, strategy = Study(SPACE, LIMITED), Scripted((9, 0), (9, 0), (0, 0), (0, 1), (0, 2), (1, 0))

    def train(trial: Trial) -> Metrics:
        return {"error": 1.0 / trial.point["a"]}

    run(study, strategy, Evaluate(train, Bench().cheap), trials=2, batch=4)
    assert states(study) == ["refused", "duplicate", "failed", "duplicate", "duplicate", "done"]
    assert study.trials[1].error == "the same as trial 0, which was refused: size 9 is over its limit 5"
    assert "as trial 2, which failed: ZeroDivisionError" in study.trials[3].error
    assert "as trial 2, which failed: ZeroDivisionError" in study.trials[4].error


def test_the_same_network_at_another_fidelity_is_another_trial():
    point = {"a": 1, "b": 0}
    strategy, study = Scripted(), Study(SPACE, ONE)
    strategy.left = [Proposal(point, 0.5), Proposal(point, 1.0), Proposal(point, 0.25)]
    run(study, strategy, Bench().evaluate, trials=1, batch=2)
    assert states(study) == ["done", "done"]
    assert strategy.counts == [1, 1] and study.spent == 1.5, "a budget is counted in full trainings"
    assert [trial.number for trial in study.front] == [1], "only what was trained in full can be on the front"


# ---- failures


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"error": math.nan}, "error is nan"),
        ({"error": math.inf}, "error is inf"),
        ({}, "error is missing"),
    ],
)
def test_a_metric_that_is_no_number_fails_its_trial(metrics, reason):
    study = Study(SPACE, ONE)
    evaluate = Evaluate(lambda trial: metrics if trial.point["a"] == 1 else {"error": 0.5}, Bench().cheap)
    run(study, Scripted((2, 0), (1, 0)), evaluate, trials=2)
    assert states(study) == ["done", "failed"]
    assert study.trials[1].error == reason
    assert study.trials[1].metrics == {"size": 1.0}, "what was known before stays"


def test_a_metric_that_is_no_number_and_no_objective_is_dropped():
    study = Study(SPACE, ONE)
    run(study, Scripted((2, 0)), Evaluate(lambda trial: {"error": 0.5, "other": math.nan}), trials=1)
    assert study.trials[0].metrics == {"error": 0.5}


def test_a_cheap_metric_that_is_no_number_fails_before_training():
    bench, study = Bench(), Study(SPACE, LIMITED)
    cheap = {1: math.nan, 2: 2.0}
    evaluate = Evaluate(bench.train, lambda point: {"size": cheap[point["a"]]})
    run(study, Scripted((2, 0), (1, 0), (3, 0)), evaluate, trials=3)
    assert states(study) == ["done", "failed", "failed"] and bench.trained == [0]
    assert study.trials[1].error == "size is nan"
    assert study.trials[2].error == "KeyError: 3"


def test_a_measurement_that_fails_fails_its_trial_alone():
    answers = {1: {"latency": 1.0}, 2: ValueError("no such operator"), 3: {"latency": math.nan}}
    bench = Bench(measure=lambda trial: answers[trial.point["a"]])
    study = Study(SPACE, (*ONE, Objective("latency")))
    run(study, Scripted((1, 0), (2, 0), (3, 0)), bench.evaluate, trials=3, batch=3)
    assert states(study) == ["done", "failed", "failed"] and bench.trained == [0]
    assert study.trials[1].error == "ValueError: no such operator"
    assert study.trials[2].error == "latency is nan"


def failing(trial: Trial) -> Metrics:
    raise (ValueError("odd") if trial.number == 1 else RuntimeError("no disk"))


def test_when_all_fail_the_search_stops_with_the_commonest_reason():
    study = Study(SPACE, ONE)
    with pytest.raises(
        SearchError, match="all 5 trials so far failed, 4 of them with: RuntimeError: no disk"
    ):
        run(study, Scripted(*((a, 0) for a in range(10))), Evaluate(failing), trials=10)
    assert study.counts["failed"] == 5


def test_a_whole_batch_that_failed_of_what_passes_does_not_end_a_search():
    bench = Bench(measure=lambda trial: Passing("went away") if trial.number < 6 else {"latency": 1.0})
    study = Study(SPACE, ONE)
    points = Scripted(*((a, b) for b in (1, 2) for a in range(1, 9)))
    assert run(study, points, bench.evaluate, trials=10, batch=6).complete
    assert study.counts["failed"] == 6 and study.counts["done"] == 4


def test_a_small_budget_of_failures_is_no_success():
    with pytest.raises(SearchError, match="all 2 trials so far failed"):
        run(Study(SPACE, ONE), Scripted((1, 0), (2, 0)), Evaluate(failing), trials=2)


def test_a_search_given_up_goes_on_once_the_cause_is_mended():
    study = Study(SPACE, ONE)
    with pytest.raises(SearchError):
        run(study, Scripted(*((a, 0) for a in range(10))), Evaluate(failing), trials=10)
    outcome = run(study, Scripted(*((a, 0) for a in range(10))), Bench().evaluate, trials=10)
    assert outcome.complete and study.counts["done"] == 5


def test_failures_after_a_success_do_not_stop_a_search():
    study = Study(SPACE, ONE)
    evaluate = Evaluate(lambda trial: {"error": 0.1} if trial.number == 0 else failing(trial))
    assert run(study, Scripted(*((a, 0) for a in range(10))), evaluate, trials=10).complete
    assert study.counts["failed"] == 9


# ---- limits that cannot be kept


def test_an_infeasible_space_ends_with_the_limit_and_the_best_seen():
    space = Space((Choice("a", tuple(range(3, 1000))), Choice("b", (0, 1))))
    study = Study(space, (*ONE, Objective("size", limit=2.0), Objective("rate", "max", limit=1e-9)))
    evaluate = Evaluate(failing, lambda point: {"size": float(point["a"]), "rate": 1.0})
    outcome = run(study, random_search(space, ONE), evaluate, trials=3, batch=7)
    assert len(study.trials) == 60, "twenty proposals for each trial of the budget"
    assert not outcome.complete
    best = min(trial.metrics["size"] for trial in study.trials)
    assert outcome.message == (
        "0 of 3 trials were trained when 60 had been proposed (60 refused, 0 duplicates): "
        f"size must be at most 2, best seen {best:g}. Loosen a limit or widen the space"
    )


def test_a_used_up_space_says_so():
    space = Space((Choice("a", (1, 2)),))
    study = Study(space, ONE)
    outcome = run(study, random_search(space, ONE), Bench().evaluate, trials=3)
    assert not outcome.complete and len(study.trials) == 60
    assert outcome.message.startswith(
        "2 of 3 trials were trained when 60 had been proposed (0 refused, 58 dup"
    )
    assert outcome.message.endswith("the space holds few other points")


# ---- devices that are away


def test_an_unavailable_device_stops_the_search_which_can_go_on(tmp_path):
    away = {"away": True}

    def measure(trial: Trial) -> Metrics | Exception:
        if away["away"] and trial.number == 3:
            return Unavailable("pixel6 does not answer")
        return {"latency": 1.0}

    objectives = (*ONE, Objective("latency"))
    points = [(a, 0) for a in range(6)]

    def study() -> Study:
        record = open_record(tmp_path / "j", "it", SPACE, objectives)
        return Study(SPACE, objectives, record)

    bench = Bench(measure)
    with pytest.raises(Unavailable, match="pixel6 does not answer"):
        run(study(), Scripted(*points), bench.evaluate, trials=6, batch=3)
    assert bench.trained == [0, 1, 2] and bench.measured == [[0, 1, 2], [3, 4, 5]]
    stopped = study()
    assert states(stopped) == ["done"] * 3 + ["pending"] * 3
    assert [dict(trial.metrics) for trial in stopped.pending] == [
        {},
        {"size": 4.0, "latency": 1.0},
        {"size": 5.0, "latency": 1.0},
    ], "what was measured beside it is kept"

    away["away"] = False
    assert run(stopped, Scripted(*points), bench.evaluate, trials=6, batch=3).complete
    assert bench.measured == [[0, 1, 2], [3, 4, 5], [3]], "what was measured is not measured again"
    assert bench.trained == [0, 1, 2, 3, 4, 5]


def test_a_pending_trial_that_was_measured_is_not_measured_again(tmp_path):
    objectives = (*ONE, Objective("latency", limit=4.0))

    def study() -> Study:
        return Study(SPACE, objectives, open_record(tmp_path / "j", "it", SPACE, objectives))

    def killed(trial: Trial) -> Metrics:
        raise KeyboardInterrupt

    bench = Bench(measure=lambda trial: {"latency": 1.0})
    with pytest.raises(KeyboardInterrupt):
        run(
            study(),
            Scripted((1, 0), (2, 0)),
            Evaluate(killed, bench.cheap, bench.measure),
            trials=2,
            batch=2,
        )
    run(study(), Scripted((1, 0), (2, 0)), bench.evaluate, trials=2, batch=2)
    assert bench.measured == [[0, 1]] and bench.trained == [0, 1]
    assert study().trials[0].metrics == {"size": 1.0, "latency": 1.0, "error": 0.5}


# ---- observers


def test_observers_see_every_finished_trial_once_after_it_was_recorded(tmp_path):
    study = Study(SPACE, LIMITED, open_record(tmp_path / "j", "it", SPACE, LIMITED))
    seen: list[Trial] = []

    def observer(trial: Trial) -> None:
        on_disk = Study(SPACE, LIMITED, open_record(tmp_path / "j", "it", SPACE, LIMITED))
        assert on_disk.trials[trial.number] == trial
        seen.append(trial)

    counter: list[int] = []
    points = [(9, 0), (1, 0), (1, 0), (2, 0)]
    run(
        study,
        Scripted(*points),
        Bench().evaluate,
        trials=2,
        batch=2,
        observers=[observer, lambda trial: counter.append(trial.number)],
    )
    assert sorted(seen, key=lambda trial: trial.number) == study.trials
    assert sorted(counter) == [0, 1, 2, 3]
    run(study, Scripted(*points), Bench().evaluate, trials=2, batch=2, observers=[observer])
    assert len(seen) == 4, "a resumed search does not show them again"


def test_an_observer_that_raises_stops_the_search_after_recording():
    study = Study(SPACE, ONE)

    def observer(trial: Trial) -> None:
        raise OSError("tracking is full")

    with pytest.raises(OSError, match="tracking is full"):
        run(study, Scripted((1, 0), (2, 0)), Bench().evaluate, trials=2, batch=2, observers=[observer])
    assert states(study) == ["done", "pending"]


# ---- going on


def test_an_ask_cut_short_by_a_kill_is_completed():
    study = Study(SPACE, ONE)
    study.add([Proposal({"a": 1, "b": 0})], 3)
    bench = Bench()
    run(study, Scripted((1, 0), (2, 0), (3, 0), (4, 0)), bench.evaluate, trials=4, batch=3)
    assert [trial.point["a"] for trial in study.trials] == [1, 2, 3, 4]
    assert [len(ask.numbers) for ask in study.asks] == [3, 1]


def test_a_strategy_that_asks_otherwise_on_replay_is_noted_told_everything_and_goes_on(caplog):
    study = Study(SPACE, ONE)
    run(study, Scripted(*((a, 0) for a in range(6))), Bench().evaluate, trials=4, batch=2)
    strategy = Scripted(*((a, 1) for a in (9, 8, 7, 6, 5, 4)))
    with caplog.at_level(logging.WARNING):
        run(study, strategy, Bench().evaluate, trials=6, batch=2)
    assert "asked otherwise when the record was replayed" in caplog.text
    assert [[trial.number for trial in told] for told in strategy.told] == [[0, 1], [2, 3], [4, 5]]
    assert [trial.point["b"] for trial in study.trials] == [0, 0, 0, 0, 1, 1]


def test_an_undisturbed_replay_says_nothing(caplog):
    study = Study(SPACE, ONE)
    for trials in (2, 4):
        with caplog.at_level(logging.WARNING):
            run(study, random_search(SPACE, ONE), Bench().evaluate, trials=trials, batch=2)
    assert caplog.text == ""


def test_what_a_strategy_asked_and_the_record_lacks_is_told_as_failed():
    study = Study(SPACE, ONE)
    for a, count in ((1, 2), (2, 1)):  # the first time, one came where two were asked for
        (trial,) = study.add([Proposal({"a": a, "b": 0})], count)
        study.finish(replace(trial, state="done", metrics={"error": 0.5}))
    strategy = Scripted(*((a, 1) for a in (9, 8, 7, 6)))
    run(study, strategy, Bench().evaluate, trials=3)
    told = [[(trial.number, trial.point["a"], trial.state) for trial in trials] for trials in strategy.told]
    assert told == [[(-1, 8, "failed")], [(0, 1, "done")], [(1, 2, "done")], [(2, 6, "done")]]


# ---- pools


def trained(trial: Trial) -> Metrics:
    return {"error": 1.0 / (1 + trial.point["a"])}


def test_the_result_does_not_depend_on_the_pool(tmp_path: Path):
    here, there = Study(SPACE, ONE), Study(SPACE, ONE)
    run(here, random_search(SPACE, ONE), Evaluate(trained), trials=6, batch=3)
    pool = Processes(2)
    run(there, random_search(SPACE, ONE), Evaluate(trained), pool, trials=6, batch=3)
    pool.close()
    assert [(t.number, t.point, t.metrics) for t in here.trials] == [
        (t.number, t.point, t.metrics) for t in there.trials
    ]
    assert all(trial.seconds > 0 for trial in there.trials)
