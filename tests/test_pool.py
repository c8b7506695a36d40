"""Pools: whatever happens to a trial becomes the reason of a failed result and costs nothing else."""

import functools
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from nasflow import pool as pool_module
from nasflow.pool import InProcess, Pool, Processes, Result
from nasflow.study import Metrics, Trial


def trials(*numbers: int) -> list[Trial]:
    return [Trial(number, {"a": number}) for number in numbers]


def results(pool: Pool, train: Callable[[Trial], Metrics], *numbers: int) -> dict[int, Result]:
    return {result.number: result for result in pool.results(train, trials(*numbers))}


def square(trial: Trial) -> Metrics:
    return {"square": trial.point["a"] ** 2, "pid": os.getpid()}


def moody(trial: Trial) -> Metrics:
    """Trial 1 raises, 2 is killed, 3 exits, 4 hangs, 5 eats memory; all others work."""
    match trial.number:
        case 1:
            raise ValueError("not today")
        case 2:
            os.kill(os.getpid(), signal.SIGKILL)
        case 3:
            os._exit(3)
        case 4:
            time.sleep(600)
        case 5:
            held = bytearray(400_000_000)
            held[::4096] = b"x" * len(held[::4096])
            time.sleep(600)
    return square(trial)


@pytest.fixture
def pools() -> Iterator[Callable[..., Processes]]:
    """Makes pools that are closed afterwards."""
    made: list[Processes] = []

    def make(*arguments: int, **settings: float) -> Processes:
        made.append(Processes(*arguments, **settings))
        return made[-1]

    yield make
    for pool in made:
        pool.close()


@pytest.fixture(params=["in process", "processes"])
def any_pool(request: pytest.FixtureRequest, pools: Callable[..., Processes]) -> Pool:
    return InProcess() if request.param == "in process" else pools(1)


def test_every_trial_gets_one_result_with_floats(any_pool):
    found = results(any_pool, square, 3, 5, 8)
    assert {number: result.metrics["square"] for number, result in found.items()} == {
        3: 9.0,
        5: 25.0,
        8: 64.0,
    }
    assert all(type(value) is float for result in found.values() for value in result.metrics.values())
    assert all(result.error is None and result.seconds >= 0 for result in found.values())
    assert results(any_pool, square) == {}


def test_an_exception_is_the_reason_with_its_kind(any_pool):
    found = results(any_pool, moody, 0, 1, 6)
    assert found[1].metrics is None and found[1].error == "ValueError: not today"
    assert found[0].metrics is not None and found[6].metrics is not None


def none_of_it(trial: Trial) -> Metrics:
    return {"error": None} if trial.number else None


def test_metrics_that_are_no_numbers_are_a_failure(any_pool):
    found = results(any_pool, none_of_it, 0, 1)
    assert "AttributeError" in found[0].error
    assert "TypeError" in found[1].error


def test_trials_run_side_by_side_in_other_processes_and_their_workers_are_used_again(pools):
    pool = pools(2)
    assert pool.slots == 2
    first, second = results(pool, together, 1, 2, 3, 4), results(pool, together, 5, 6)
    pids = {result.metrics["pid"] for result in first.values()}
    assert len(pids) == 2 and os.getpid() not in pids
    assert {result.metrics["pid"] for result in second.values()} <= pids
    assert {result.metrics["pid"] for result in results(pool, square, 7).values()}.isdisjoint(pids), (
        "another function gets other workers"
    )


def together(trial: Trial) -> Metrics:
    time.sleep(0.2)
    return {"pid": os.getpid()}


def test_a_crash_costs_its_trial_and_nothing_else(pools):
    found = results(pools(2), moody, 0, 2, 3, 6, 7, 8)
    assert found[2].error == "its process died (signal 9, Killed)"
    assert found[3].error == "its process died (exit code 3)"
    assert sorted(number for number, result in found.items() if result.metrics) == [0, 6, 7, 8]


def test_a_trial_over_its_deadline_is_ended(pools):
    start = time.monotonic()
    found = results(pools(1, deadline_s=0.7), moody, 0, 4, 6)
    assert found[4].error == "took longer than its deadline of 0.7 s"
    assert 0.7 <= found[4].seconds < 30.0
    assert found[0].metrics and found[6].metrics
    assert time.monotonic() - start < 60


def test_a_trial_over_its_memory_is_ended(pools):
    found = results(pools(1, memory_mb=250), moody, 0, 5, 6)
    assert "MB of memory, more than the 250 MB allowed" in found[5].error
    assert float(found[5].error.split()[1]) > 250
    assert found[0].metrics and found[6].metrics


class Slow:
    """Takes a second to load, as torch does, and no time to train."""

    def __call__(self, trial: Trial) -> Metrics:
        return {"a": 1.0}

    def __reduce__(self) -> tuple[Callable[[], "Slow"], tuple[()]]:
        return slow, ()


def slow() -> Slow:
    time.sleep(1.0)
    return Slow()


def test_the_start_of_a_worker_is_no_part_of_the_trials_time(pools):
    (result,) = pools(1, deadline_s=0.9).results(Slow(), trials(0))
    assert result.metrics == {"a": 1.0}


def test_a_worker_that_never_gets_ready_is_ended(pools, monkeypatch):
    monkeypatch.setattr(pool_module, "START_S", 0.8)
    (result,) = pools(1).results(Slow(), trials(0))
    assert result.error == "its process took longer than 0.8 s to start"


class Unloadable:
    def __call__(self, trial: Trial) -> Metrics:
        return {}

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return fail_to_load, ()


def fail_to_load() -> None:
    raise ImportError("no module named gpu")


def test_a_function_that_cannot_be_loaded_fails_every_trial_with_the_reason(pools):
    found = results(pools(2), Unloadable(), 0, 1, 2)
    assert {result.error for result in found.values()} == {"ImportError: no module named gpu"}


def test_a_worker_that_died_while_idle_is_replaced(pools):
    pool = pools(1)
    (first,) = pool.results(square, trials(1))
    pid = int(first.metrics["pid"])
    os.kill(pid, signal.SIGKILL)
    os.waitid(
        os.P_PID, pid, os.WEXITED | os.WNOWAIT
    )  # dead with all its threads, and still for the pool to find
    (second,) = pool.results(square, trials(2))
    assert second.metrics is not None and int(second.metrics["pid"]) != pid


def test_what_a_given_up_call_left_running_does_not_come_back(pools):
    pool = pools(2)
    for result in pool.results(linger, trials(0, 1)):
        assert result.number == 0
        break  # as an observer that raises would
    found = list(pool.results(linger, trials(0, 2)))
    assert sorted(result.number for result in found) == [0, 2]


def linger(trial: Trial) -> Metrics:
    time.sleep(3.0 if trial.number == 1 else 0.0)
    return {"number": trial.number}


def environment(trial: Trial) -> Metrics:
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {name: float(os.environ[name]) for name in names}


def test_workers_use_one_thread(pools, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    (result,) = pools(1).results(environment, trials(0))
    assert set(result.metrics.values()) == {1.0}


def test_what_a_closure_holds_travels_with_it(pools):
    (result,) = pools(1).results(functools.partial(scaled, factor=3.0), trials(4))
    assert result.metrics == {"a": 12.0}
    unit = 5.0
    (result,) = pools(1).results(lambda trial: {"a": trial.point["a"] * unit}, trials(4))
    assert result.metrics == {"a": 20.0}


def scaled(trial: Trial, factor: float) -> Metrics:
    return {"a": trial.point["a"] * factor}


def test_closing_ends_the_workers(pools):
    pool = pools(2)
    pids = {int(result.metrics["pid"]) for result in results(pool, together, 1, 2).values()}
    pool.close()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    pool.close()
    assert results(pool, square, 1)[1].metrics is not None, "and it can be used again"


def test_at_least_one_worker_is_needed():
    with pytest.raises(ValueError, match="expected at least one worker, got 0"):
        Processes(0)


# ---- as a script that somebody runs

SCRIPT = """
import os, random, sys, time
from nasflow.pool import Processes
from nasflow.study import Trial

GREETING = 3.0

def helper(x):
    return x + GREETING

def train(trial):
    if trial.number:
        time.sleep(600)
    return {"a": helper(trial.point["a"])}

pool = Processes(3)
for result in pool.results(train, [Trial(n, {"a": 1}) for n in range(3)]):
    print(result.metrics, flush=True)
"""


def script(folder: Path) -> subprocess.Popen[str]:
    path = folder / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    # Names that must not stand in for Python's own in the workers, though they lie in the current folder.
    (folder / "work").mkdir()
    (folder / "work" / "types.py").write_text("raise ImportError('the wrong types')")
    return subprocess.Popen(
        [sys.executable, str(path)],
        cwd=folder / "work",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A test run in the background ignores Ctrl-C, and what it starts would too.
        preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def gone(processes: list[psutil.Process], timeout: float = 20.0) -> bool:
    """Whether all have ended by then; one that nobody buried has ended too."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if not any(alive(one) for one in processes):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def running(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """A script that has had one result and is busy in two of its three workers."""
    with script(tmp_path) as process:
        try:
            assert process.stdout is not None and process.stderr is not None
            line = process.stdout.readline()
            assert line == "{'a': 4.0}\n", process.stderr.read()
            yield process, psutil.Process(process.pid).children()
        finally:
            process.kill()


def test_functions_of_a_script_work_and_its_workers_die_with_it(running):
    """Functions in __main__ with what they use; no orphan when the parent is killed with kill -9."""
    process, workers = running
    assert len(workers) == 3
    process.kill()
    assert gone(workers), "workers outlived their parent"


def test_ctrl_c_ends_everything_and_fails_no_trial(running):
    process, workers = running
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode != 0 and out == ""
    assert err.count("Traceback") == 1 and "KeyboardInterrupt" in err, "the workers say nothing"
    assert gone(workers)
