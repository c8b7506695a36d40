import random
import statistics

import pytest

from nasflow.hardware.board.measuring import SETTLED_LOADS, Orphaned, Pace, Plan, measure, warm_up
from nasflow.hardware.board.network import Network, timed


class Machine:
    """A clock that stands still but for the calls of what is timed: `pace` is how slow the machine is now."""

    def __init__(self):
        self.now, self.pace, self.order = 0, 1.0, []

    def clock(self):
        return self.now

    def network(self, name, ns, cold=0.0, fresh=lambda: 1.0):
        """A load that takes `ns` a call, at first more by `cold`, which wears off; `fresh` is what a load draws."""

        def load():
            extra, factor = [cold], fresh()

            def run():
                self.order.append(name)
                self.now += int(ns * factor * self.pace * (1 + extra[0]))
                extra[0] *= 0.7

            return Network(timed(run, self.clock), 1)

        return load


def times(samples):
    return [ns for load in samples for block in load for ns in block]


def taken(machine, loads, least=3, most=30, precision=0.01, budget_ns=10**9, **arguments):
    return measure(
        loads, Plan(least, most, precision, budget_ns), random.Random(0), clock=machine.clock, **arguments
    )


def run(*arguments, **named):
    return taken(*arguments, **named)[:2]


def test_every_file_is_loaded_anew_and_timed_in_rounds_there_and_back():
    machine = Machine()
    samples, warmups = run(machine, [machine.network(name, 500_000) for name in "abc"], least=3, most=3)
    assert [len(one) for one in samples] == [len(warm) for warm in warmups] == [3, 3, 3]
    assert {len(load) for one in samples for load in one} == {Pace().rounds}
    first = "".join(machine.order)[3 * warmups[0][0].calls :][: 3 * 3 * Pace().rounds]
    there, back, again, home = (first[at : at + 9] for at in range(0, 36, 9))
    assert sorted(there) == sorted("aaabbbccc") and there[0] == there[1] == there[2] != there[3]
    assert there == back[::-1] == again == home[::-1]


def test_nothing_that_was_timed_is_thrown_away():
    machine = Machine()
    (samples,), (warm,) = run(machine, [machine.network("a", 100_000)])
    assert len(times(samples)) + sum(one.calls for one in warm) == len(machine.order)


def test_the_warm_up_lasts_until_time_stands_still_and_is_not_counted():
    machine = Machine()
    (samples,), (warm,) = run(machine, [machine.network("a", 100_000, cold=5.0)], least=1, most=1)
    assert warm[0].still and warm[0].calls >= 15 and warm[0].ns < 105_000
    assert max(times(samples)) < 102_000


def test_a_warm_up_that_never_settles_is_bounded_and_told():
    machine = Machine()

    def slower_and_slower():
        machine.pace *= 1.05
        machine.now += int(1000 * machine.pace)

    one = warm_up(timed(slower_and_slower, machine.clock), machine.clock, window=5)
    assert not one.still and one.calls == 100


def test_a_warm_up_of_a_very_slow_network_ends_after_three_calls():
    machine = Machine()
    slow = machine.network("a", 10**10)()
    assert warm_up(slow.block, machine.clock, window=5).calls == 3


def test_quick_networks_get_more_calls_than_slow_ones_but_never_too_many():
    machine = Machine()
    samples, _ = run(
        machine, [machine.network(n, ns) for n, ns in (("q", 1000), ("m", 50_000), ("s", 10**7))]
    )
    assert [len(one[0][0]) for one in samples] == [20, 10, 3]
    assert all(len({len(block) for load in one for block in load}) == 1 for one in samples), (
        "loads weigh alike"
    )


def test_it_goes_on_until_loads_agree():
    rng = random.Random(1)
    steady, jumpy = Machine(), Machine()
    few, _ = run(steady, [steady.network("a", 10_000)])
    many, _ = run(jumpy, [jumpy.network("a", 10_000, fresh=lambda: rng.gauss(1.0, 0.015))])
    assert len(few[0]) == SETTLED_LOADS
    assert SETTLED_LOADS < len(many[0]) < 30


def test_it_stops_when_the_budget_is_spent_but_never_before_the_least():
    rng = random.Random(1)
    machine = Machine()
    wild = machine.network("a", 1_000_000, fresh=lambda: rng.uniform(0.5, 1.5))
    (spent,), _ = run(machine, [wild], budget_ns=200_000_000, most=1000)
    assert 3 < len(spent) < 30 and machine.now < 260_000_000
    slow = Machine()
    (least,), _ = run(slow, [slow.network("a", 10**9)], budget_ns=1)
    assert len(least) == 3


def test_drift_of_the_machine_meets_all_files_alike():
    machine = Machine()
    loads = [machine.network("a", 30_000), machine.network("b", 60_000)]

    def slower_and_slower():
        machine.pace *= 1.01
        return True

    (a, b), _ = run(machine, loads, least=12, most=12, alive=slower_and_slower)
    assert max(times(a)) > 2 * min(times(a))
    assert statistics.median(times(b)) / statistics.median(times(a)) == pytest.approx(2.0, rel=0.02)


def test_the_order_of_files_changes_from_load_to_load():
    machine = Machine()
    run(machine, [machine.network(name, 10**6) for name in "ab"], least=20, most=20)
    starts = [machine.order[at] for at in range(0, len(machine.order), len(machine.order) // 20)]
    assert set(starts) == {"a", "b"}


def test_it_stops_when_nobody_waits_for_the_answer():
    machine = Machine()
    asked = iter([True] * 5 + [False])
    with pytest.raises(Orphaned):
        run(machine, [machine.network("a", 1000)], alive=lambda: next(asked))


def test_what_warms_itself_up_is_called_once_for_its_pace():
    machine = Machine()
    pace = Pace(rounds=1, block_ns=10**8, fewest=10, most=200, windows=(0, 0))
    (samples,), (warm,) = run(machine, [machine.network("a", 10**6)], least=3, most=3, pace=pace)
    assert [one.calls for one in warm] == [1, 1, 1] and all(one.still for one in warm)
    assert [len(block) for load in samples for block in load] == [100, 100, 100]


def test_every_load_is_told_as_soon_as_it_is_done():
    machine, told = Machine(), []
    samples, _ = run(
        machine, [machine.network(name, 10**6) for name in "ab"], least=2, most=2,
        watch=lambda load, file, rounds: told.append((load, file, rounds)),
    )  # fmt: skip
    assert sorted(told) == [(load, file, samples[file][load]) for load in (0, 1) for file in (0, 1)]


def test_every_block_lies_between_two_looks_at_the_reference():
    machine = Machine()
    files, reference = [machine.network(name, 500_000) for name in "ab"], machine.network("r", 50_000)
    samples, warmups, around = taken(machine, files, least=2, most=2, reference=reference)
    calls, rounds = Pace().between, Pace().rounds
    assert [len(load) for load in samples[-1]] == [2 * rounds + 1] * 2 and len(warmups) == 3
    timed_first = "".join(machine.order)[sum(one[0].calls for one in warmups) :]
    look = "r" * calls
    assert timed_first.startswith(look) and set(timed_first.split(look)[1 : 2 * rounds + 1]) == {"aaa", "bbb"}
    assert around == [[[[50_000, 50_000]] * rounds] * 2] * 2


def test_looks_tell_which_rounds_met_a_machine_that_was_slower_for_a_while():
    machine, rounds = Machine(), iter(range(100))

    def slower_in_the_third_round():
        machine.pace = 1.5 if next(rounds) == 2 else 1.0
        return True

    file, reference = machine.network("a", 500_000), machine.network("r", 50_000)
    [samples], _, [around] = (one[:1] for one in taken(
        machine, [file], least=1, most=1, reference=reference, alive=slower_in_the_third_round
    ))  # fmt: skip
    assert [statistics.median(block) for block in samples[0]] == [500_000, 500_000, 750_000, 500_000]
    assert [max(pair) for pair in around[0]] == [50_000, 50_000, 75_000, 75_000]


def test_where_looking_takes_long_the_reference_takes_turns_with_the_files():
    machine, pace = Machine(), Pace(rounds=2, between=0)
    samples, _, around = taken(
        machine, [machine.network("a", 10**6)], least=3, most=3, pace=pace, reference=machine.network("r", 10**5)
    )  # fmt: skip
    assert [len(load) for load in samples[-1]] == [len(load) for load in samples[0]] == [2, 2, 2]
    assert not any(around[0])
