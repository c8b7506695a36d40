import ast
import base64
import json
import os
import random
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nasflow.hardware import runner
from nasflow.hardware.device import reference_network
from nasflow.hardware.runner import CannotRun, Plan


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

            return run

        return load


def times(samples):
    return [ns for load in samples for block in load for ns in block]


def run(machine, loads, least=3, most=30, precision=0.01, budget_ns=10**9, **arguments):
    return runner.measure(
        loads, Plan(least, most, precision, budget_ns), random.Random(0), clock=machine.clock, **arguments
    )


def test_every_file_is_loaded_anew_and_timed_in_rounds_there_and_back():
    machine = Machine()
    samples, warmups = run(machine, [machine.network(name, 500_000) for name in "abc"], least=3, most=3)
    assert [len(one) for one in samples] == [len(warm) for warm in warmups] == [3, 3, 3]
    assert {len(load) for one in samples for load in one} == {runner.ROUNDS}
    first = "".join(machine.order)[3 * warmups[0][0].calls :][: 3 * 3 * runner.ROUNDS]
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

    one = runner.warm_up(slower_and_slower, machine.clock, window=5)
    assert not one.still and one.calls == 100


def test_a_warm_up_of_a_very_slow_network_ends_after_three_calls():
    machine = Machine()
    slow = machine.network("a", 10**10)()
    assert runner.warm_up(slow, machine.clock, window=5).calls == 3


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
    assert len(few[0]) == runner.SETTLED_LOADS
    assert runner.SETTLED_LOADS < len(many[0]) < 30


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
    with pytest.raises(runner.Orphaned):
        run(machine, [machine.network("a", 1000)], alive=lambda: next(asked))


def test_it_runs_on_the_least_busy_core_and_does_not_count_itself():
    before, after = {0: 100, 1: 100, 2: 100}, {0: 130, 1: 109, 2: 110}
    assert runner.least_busy(before, after, {}, [0, 1, 2]) == [1, 2, 0]
    assert runner.least_busy(before, after, {2: 10.0}, [0, 1, 2]) == [2, 1, 0]
    assert runner.least_busy(before, before, {}, [0, 1, 2]) == [2, 1, 0], "the first core serves interrupts"
    assert runner.least_busy({}, {}, {}, [0, 1]) == [1, 0]


def node(op, kind=TensorProto.FLOAT, domain="", opset=17, shape=("batch", 3)):
    """A file with one operator."""
    graph = helper.make_graph(
        [helper.make_node(op, ["input"], ["logits"], domain=domain)],
        "one",
        [helper.make_tensor_value_info("input", kind, list(shape))],
        [helper.make_tensor_value_info("logits", kind, None)],
    )
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (node("Frobnicate"), r"ONNX Runtime \d+\.\d+\S* has no operator Frobnicate; replace it"),
        (node("Frob", domain="my.ops"), r"ONNX Runtime \S+ has no operator my\.ops:Frob;"),
        (node("BitwiseNot", opset=18), r"ONNX Runtime \S+ has no operator BitwiseNot for tensor\(float\);"),
        (node("Relu", opset=99), r"ONNX Runtime \S+ knows operators up to opset \d+, the file needs 99"),
        (b"not a network", r"ONNX Runtime \S+: "),
    ],
    ids=["operator", "own operator", "type", "opset", "garbage"],
)
def test_what_the_runtime_cannot_run_is_said_with_operator_and_version(content, said):
    with pytest.raises(CannotRun, match=said):
        runner.open_session(content)


def test_inputs_are_real_numbers_of_the_right_kind():
    draw = np.random.default_rng(0)
    image = runner.random_input("x", ["batch", 3, 4, 4], "tensor(float)", 2, draw)
    assert image.shape == (2, 3, 4, 4) and image.dtype == np.float32 and 0.5 < image.std() < 1.5
    assert set(runner.random_input("x", [None, 9], "tensor(int64)", 1, draw).ravel()) <= {0, 1}
    assert runner.random_input("x", [5, 2], "tensor(uint8)", 1, draw).shape == (5, 2)
    with pytest.raises(
        CannotRun, match=r"'x': expected fixed sizes but for the first axis, got \['b', 'h'\]"
    ):
        runner.random_input("x", ["b", "h"], "tensor(float)", 1, draw)
    with pytest.raises(CannotRun, match="expected numbers, got string"):
        runner.random_input("x", [1], "tensor(string)", 1, draw)


def spec(models, **changes):
    return {
        "models": list(map(str, models)),
        "reference": base64.b64encode(reference_network()).decode(),
        "batch": 1,
        "threads": 1,
        "core": None,
        "loads": [3, 3],
        "budget_s": 0.1,
        "precision": 0.01,
        "seed": 0,
        **changes,
    }


def start(arguments=(), text="", program=runner.__file__, **environment):
    return subprocess.run(
        [sys.executable, program, *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONSAFEPATH": "1", **environment},
    )


def test_a_copy_of_the_file_alone_measures_and_records_where(tmp_path):
    program = tmp_path / "board" / "anything.py"
    program.parent.mkdir()
    program.write_bytes(Path(runner.__file__).read_bytes())
    network = tmp_path / "relu.onnx"
    network.write_bytes(node("Relu"))
    done = start(text=json.dumps(spec([network])), program=program)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert len(told["models"]) == 1 and len(told["models"][0]["samples_ns"]) == 3
    assert all(ns > 0 for ns in times(told["models"][0]["samples_ns"]))
    assert statistics.median(times(told["reference"]["samples_ns"])) > statistics.median(
        times(told["models"][0]["samples_ns"])
    )
    environment = told["environment"]
    assert environment["threads"] == 1 and len(environment.get("affinity", [0])) == 1
    assert environment["runtime"].startswith("onnxruntime ") and environment["date"].endswith("Z")
    assert {
        "cpu",
        "machine",
        "load_average",
        "nice",
        "python",
        "numpy",
        "system",
        "preemptions",
    } <= environment.keys()


def test_the_spec_may_be_a_file_and_the_core_be_given(tmp_path):
    network, asked = tmp_path / "relu.onnx", tmp_path / "spec.json"
    network.write_bytes(node("Relu"))
    core = min(os.sched_getaffinity(0))
    asked.write_text(json.dumps(spec([network], core=core, batch=4)))
    told = json.loads(start([asked]).stdout)
    assert told["environment"]["affinity"] == [core]


def test_without_files_it_only_tells_where_it_is():
    told = json.loads(start(text=json.dumps(spec([]))).stdout)
    assert told.keys() == {"environment"}


def test_a_file_that_cannot_run_is_told_before_time_is_spent_on_others(tmp_path):
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    good.write_bytes(node("Relu"))
    bad.write_bytes(node("Frobnicate"))
    told = json.loads(start(text=json.dumps(spec([good, bad], budget_s=100, loads=[10**6, 10**6]))).stdout)
    assert told["model"] == str(bad) and "no operator Frobnicate" in told["error"]
    assert "models" not in told


def test_a_file_that_only_fails_when_it_runs_is_told_too(tmp_path):
    indices = helper.make_tensor("indices", TensorProto.INT64, [1], [7])
    graph = helper.make_graph(
        [helper.make_node("Gather", ["input", "indices"], ["logits"], axis=0)],
        "beyond",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [indices],
    )
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
        ).SerializeToString()
    )
    told = json.loads(start(text=json.dumps(spec([bad]))).stdout)
    assert told["model"] == str(bad) and "indices element out of data bounds" in told["error"]


def test_only_the_answer_is_on_stdout(tmp_path):
    (tmp_path / "numpy.py").write_text(
        "import os, sys\n"
        "os.system('echo talk')\n"
        f"sys.path.remove({str(tmp_path)!r})\n"
        "del sys.modules['numpy']\n"
        "import numpy\n"
    )
    done = start(text=json.dumps(spec([])), PYTHONPATH=str(tmp_path))
    assert json.loads(done.stdout).keys() == {"environment"}
    assert "talk" in done.stderr


def test_it_needs_nothing_of_nasflow():
    imported = set()
    for statement in ast.walk(ast.parse(Path(runner.__file__).read_text())):
        if isinstance(statement, ast.Import):
            imported |= {name.name.partition(".")[0] for name in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            imported.add((statement.module or "").partition(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"numpy", "onnxruntime"}


def test_the_reference_network_is_the_same_for_ever():
    import hashlib

    assert reference_network() == reference_network.__wrapped__()
    onnx.checker.check_model(onnx.load_from_string(reference_network()), full_check=True)
    digest = hashlib.sha256(reference_network()).hexdigest()
    assert digest == "0952fdb76b22924789bdc8551a64bfd7392d5f69c0f2f89e11c5a0572caf681c"
