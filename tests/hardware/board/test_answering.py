"""The bundle as a board runs it: a process of its own, with ONNX Runtime."""

import base64
import json
import os
import statistics
import subprocess
import sys

import pytest
from onnx import TensorProto, helper

from nasflow.hardware.board import answering
from nasflow.hardware.board.network import CannotRun, Network
from nasflow.hardware.board.power import Unavailable
from nasflow.hardware.bundle import bundle
from nasflow.hardware.device import reference_network

from .onnx_files import node


def times(samples):
    return [ns for load in samples for block in load for ns in block]


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


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    file = tmp_path_factory.mktemp("board") / "anything.pyz"
    file.write_bytes(bundle())
    return file


def start(program, arguments=(), text="", **environment):
    return subprocess.run(
        [sys.executable, program, *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONSAFEPATH": "1", **environment},
    )


def test_the_file_alone_measures_and_records_where(program, tmp_path):
    network = tmp_path / "relu.onnx"
    network.write_bytes(node("Relu"))
    done = start(program, text=json.dumps(spec([network], progress=True, energy=True, throughput_batch=8)))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (model,) = told["models"]
    assert len(model["samples_ns"]) == 3 and all(ns > 0 for ns in times(model["samples_ns"]))
    of_reference = statistics.median(times(told["reference"]["samples_ns"]))
    assert of_reference > statistics.median(times(model["samples_ns"]))
    assert model["throughput_per_s"] > 0 and model["throughput_batch"] == 8
    assert model["energy_mj"] or model["energy_source"].startswith("unavailable: ")
    if sys.platform == "linux":
        assert 0 < model["peak_memory_kb"] < 100_000
    environment = told["environment"]
    assert environment["threads"] == 1 and len(environment.get("affinity", [0])) == 1
    assert environment["runtime"].startswith("onnxruntime ") and environment["date"].endswith("Z")
    told_always = {
        "cpu",
        "machine",
        "load_average",
        "nice",
        "python",
        "numpy",
        "system",
        "preemptions",
        "core_share",
    }
    assert told_always <= environment.keys() and "untried" not in environment

    progress = [
        json.loads(line)["progress"] for line in done.stderr.splitlines() if line.startswith('{"progress"')
    ]
    assert len(progress) == 6 and {one["model"] for one in progress} == {-1, 0}
    assert all(model["samples_ns"][one["load"]] == one["samples_ns"] for one in progress if one["model"] == 0)


def test_energy_is_not_looked_for_and_nothing_is_told_on_the_way_unless_asked_for(program, tmp_path):
    network = tmp_path / "relu.onnx"
    network.write_bytes(node("Relu"))
    done = start(program, text=json.dumps(spec([network], reference=None)))
    told = json.loads(done.stdout)
    assert told["reference"] is None and "progress" not in done.stderr
    (model,) = told["models"]
    assert model["energy_mj"] is None and model["energy_source"] == "unavailable: not asked for"
    assert "throughput_per_s" not in model


def test_a_runtime_that_is_not_there_is_the_last_thing_said(program):
    done = start(program, text=json.dumps(spec([], runtime="tensorrt", program="/no/trtexec")))
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[-1] == "no program /no/trtexec; say where it is: `program` in the profile"


def test_the_spec_may_be_a_file_and_the_core_be_given(program, tmp_path):
    network, asked = tmp_path / "relu.onnx", tmp_path / "spec.json"
    network.write_bytes(node("Relu"))
    core = min(os.sched_getaffinity(0))
    asked.write_text(json.dumps(spec([network], core=core, batch=4)))
    told = json.loads(start(program, [asked]).stdout)
    assert told["environment"]["affinity"] == [core]


def test_without_files_it_only_tells_where_it_is(program):
    told = json.loads(start(program, text=json.dumps(spec([]))).stdout)
    assert told.keys() == {"environment"}


def test_a_file_that_cannot_run_is_told_before_time_is_spent_on_others(program, tmp_path):
    good, bad = tmp_path / "good.onnx", tmp_path / "bad.onnx"
    good.write_bytes(node("Relu"))
    bad.write_bytes(node("Frobnicate"))
    told = json.loads(
        start(program, text=json.dumps(spec([good, bad], budget_s=100, loads=[10**6, 10**6]))).stdout
    )
    assert told["model"] == str(bad) and "no operator Frobnicate" in told["error"]
    assert "models" not in told


def test_a_file_that_only_fails_when_it_runs_is_told_too(program, tmp_path):
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
    told = json.loads(start(program, text=json.dumps(spec([bad]))).stdout)
    assert told["model"] == str(bad) and "indices element out of data bounds" in told["error"]


def test_only_the_answer_is_on_stdout(program, tmp_path):
    (tmp_path / "numpy.py").write_text(
        "import os, sys\n"
        "os.system('echo talk')\n"
        f"sys.path.remove({str(tmp_path)!r})\n"
        "del sys.modules['numpy']\n"
        "import numpy\n"
    )
    done = start(program, text=json.dumps(spec([])), PYTHONPATH=str(tmp_path))
    assert json.loads(done.stdout).keys() == {"environment"}
    assert "talk" in done.stderr


def test_throughput_counts_samples_and_says_why_there_is_none():
    now = [0]

    def block(calls):
        now[0] += calls * 1_000_000
        return [1_000_000] * calls

    told = answering.throughput(lambda: Network(block, 8), lambda: now[0])
    assert told == {"throughput_per_s": 8000.0, "throughput_batch": 8}

    def load():
        raise CannotRun("expected batch 1, got 8")

    assert answering.throughput(load) == {
        "throughput_per_s": None,
        "throughput_why": "expected batch 1, got 8",
    }


def test_a_program_that_is_started_for_every_block_tells_no_energy():
    (told,) = answering._energies(lambda: pytest.fail("no meter is needed"), False, [lambda: None], [{}])
    assert told["energy_mj"] is None and told["energy_source"].startswith("unavailable: a program is started")


def test_a_meter_that_fails_while_idle_is_closed_and_its_reason_told():
    class Meter:
        source, closed = "broken", False

        def joules(self):
            raise Unavailable("sensor gone")

        def close(self):
            self.closed = True

    meter = Meter()
    (told,) = answering._energies(lambda: meter, True, [lambda: None], [{}])
    assert told == {"energy_mj": None, "energy_source": "unavailable: sensor gone"} and meter.closed
