import contextlib
import copy
import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import textwrap
import time

import onnx
import psutil
import pytest
import torch
from torch import nn

from nasflow.errors import Unavailable
from nasflow.export import to_onnx
from nasflow.hardware import (
    DeviceError,
    Latency,
    Profile,
    Unreachable,
    connect,
    load_profile,
)
from nasflow.hardware import device as devices
from nasflow.hardware.transport import Ssh


def local(budget_s=0.1, **reach):
    profile = Profile(name="here", description="a test", reach={"backend": "local", **reach})
    return connect(profile, budget_s=budget_s)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small network and one of more than ten times the work."""
    folder = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    found = {}
    for name, width in (("small", 8), ("large", 64)):
        found[name] = folder / f"{name}.onnx"
        layers = [
            nn.Conv2d(1, width, 3),
            nn.ReLU(),
            nn.Conv2d(width, width, 3),
            nn.Flatten(),
            nn.LazyLinear(10),
        ]
        to_onnx(nn.Sequential(*layers), (1, 12, 12), found[name])
    return found


@pytest.fixture(autouse=True)
def own_locks(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # what is measured here waits for nobody else on this machine


# devices away


def test_a_board_that_is_not_connected_never_guesses(files):
    board = connect(load_profile("raspberry-pi-4"))
    for ask in (
        board.check,
        lambda: board.latency(files["small"]),
        lambda: board.latencies([]),
        lambda: board.compare(files["small"], files["large"]),
    ):
        with pytest.raises(
            Unreachable, match=r"raspberry-pi-4 \(.*\) is described but not connected .*local-cpu"
        ):
            ask()
    assert issubclass(Unreachable, Unavailable), "the search stops and can go on later"


def test_an_interpreter_that_is_not_there_is_said():
    with pytest.raises(
        Unreachable, match=r"here: it has no program /no/such/python; see `python` in its prof"
    ):
        local(python="/no/such/python").check()


def _program(tmp_path, text):
    file = tmp_path / "python"
    file.write_text(f"#!{sys.executable}\n{textwrap.dedent(text)}")
    file.chmod(0o755)
    return str(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("print('Segmentation fault')", "expected the runner's answer, got 'Segmentation fault"),
        ("print('[]')", "expected the runner's answer, got '\\[\\]"),
        ("print('{}')", "expected the runner's answer, got '{}"),
        ("import sys; sys.exit('no module named onnxruntime')", "exit code 1: no module named onnxruntime"),
        ("import os; os.kill(os.getpid(), 9)", "python was ended by signal 9"),
    ],
)
def test_what_is_no_answer_is_said_and_never_taken_for_one(text, said, tmp_path, files):
    broken = local(python=_program(tmp_path, text))
    with pytest.raises(DeviceError, match=said):
        broken.latency(files["small"])
    with pytest.raises(Unreachable, match=said):
        broken.check()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not pin to cores")
def test_a_core_that_is_not_there_is_said():
    with pytest.raises(Unreachable, match=r"here: .*cannot run on core 4095, only on \[\d"):
        local(core=4095).check()


def test_a_device_that_hangs_is_given_up(tmp_path, files, monkeypatch):
    monkeypatch.setattr(devices, "DEADLINE_S", 0.6)
    monkeypatch.setattr(devices, "EXTRAS_S", 0.0)
    with pytest.raises(DeviceError, match=r"here: no answer within 1 s, measuring .*small\.onnx"):
        local(python=_program(tmp_path, "import time; time.sleep(60)")).latency(files["small"])


# measuring


def test_this_machine_answers():
    connect(load_profile("local-cpu")).check()


def test_a_latency_has_samples_interval_and_environment(files):
    one = local().latency(files["small"])
    assert 0 < one.ci[0] <= one.p50_ms <= one.ci[1] and one.p50_ms <= one.p90_ms
    assert len(one.samples_ms) == sum(one.loads) and len(one.loads) >= 3
    assert one.source == "measured" and one.date.startswith("20")
    assert one.environment["runtime"].startswith("onnxruntime") and one.environment["threads"] == 1
    assert one.reference_ms > 0 and one.noise >= 0
    assert Latency.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_ten_times_the_work_takes_longer_alone_together_and_compared(files):
    small, large = files["small"], files["large"]
    assert local().latency(large).p50_ms > 2 * local().latency(small).p50_ms
    first, second = local().latencies([large, small])
    assert first.p50_ms > 2 * second.p50_ms
    told = local().compare(small, large)
    assert told.verdict == "slower" and told.ratio > 2 and told.p_value < 0.01
    assert told.ci[0] < told.ratio < told.ci[1]
    assert told.b.p50_ms > 2 * told.a.p50_ms
    assert local().compare(large, small).verdict == "faster"


def test_a_larger_batch_takes_longer(files):
    profile = Profile(name="here", description="a test", reach={"backend": "local"}, batch=16)
    assert (
        connect(profile, budget_s=0.1).latency(files["large"]).p50_ms
        > 4 * local().latency(files["large"]).p50_ms
    )


def test_nothing_to_measure_is_nothing():
    assert local().latencies([]) == []


def test_a_file_that_is_missing_or_cannot_run_is_named(files, tmp_path):
    with pytest.raises(DeviceError, match=r"here: no file .*missing\.onnx"):
        local().latency(tmp_path / "missing.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"nothing")
    with pytest.raises(DeviceError, match=r"here: cannot run .*broken\.onnx: ONNX Runtime \d"):
        local().latencies([files["small"], broken])


def test_weights_that_lie_beside_a_file_go_with_it(files, tmp_path):
    apart = tmp_path / "apart.onnx"
    large = onnx.load(files["large"])
    onnx.save(large, apart, save_as_external_data=True, location="apart.weights", size_threshold=0)
    assert devices.weights_beside(apart) == ["apart.weights"] and devices.weights_beside(files["large"]) == []
    assert local().latency(apart).p50_ms > 0
    (tmp_path / "apart.weights").unlink()
    assert devices.weights_beside(apart) == []
    with pytest.raises(DeviceError, match=r"cannot run .*apart\.onnx"):
        local().latency(apart)


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "deep/../../secret"])
def test_only_weights_inside_the_files_folder_are_sent(place, files, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(1 << 20))
    model = onnx.load(files["small"])
    one = model.graph.initializer[0]
    one.ClearField("raw_data")
    one.data_location = onnx.TensorProto.EXTERNAL
    one.external_data.add(key="location", value=place)
    (tmp_path / "networks" / "deep").mkdir(parents=True)
    (tmp_path / "networks" / "curious.onnx").write_bytes(model.SerializeToString())
    assert devices.weights_beside(tmp_path / "networks" / "curious.onnx") == []


def test_files_that_are_no_onnx_have_no_weights_beside_them(tmp_path):
    for name in ("model.tflite", "broken.onnx"):
        (tmp_path / name).write_bytes(b"nothing")
        assert devices.weights_beside(tmp_path / name) == []


# one caller at a time


def _holder(seconds, device="board"):
    """A process that holds a device."""
    program = (
        "import sys, time; from nasflow.hardware.device import _held\n"
        f"with _held({device!r}): print('held', flush=True); time.sleep({seconds})"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_caller_waits_for_the_first():
    process = _holder(1.0)
    start = time.monotonic()
    with devices._held("board"):
        assert time.monotonic() - start > 0.5
    process.communicate()


def test_measuring_waits_for_whoever_measures_on_the_same_machine(files):
    process = _holder(1.0, f"local-{socket.gethostname()}")
    start = time.monotonic()
    local().check()
    assert time.monotonic() - start > 0.5
    process.communicate()


def test_other_devices_are_not_waited_for():
    process = _holder(30)
    start = time.monotonic()
    with devices._held("another"):
        assert time.monotonic() - start < 5
    process.kill()
    process.communicate()


def test_a_killed_holder_frees_the_device_at_once():
    process = _holder(60)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    start = time.monotonic()
    with devices._held("board"):
        assert time.monotonic() - start < 5


def test_a_home_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with devices._held("board"):
        pass


def test_a_killed_caller_leaves_no_measuring_behind(files):
    program = (
        "from pathlib import Path; from nasflow.hardware.device import *;"
        "d = connect(Profile(name='here', description='', reach={'backend': 'local'}), budget_s=100, precision=0.0);"
        f"d.latency(Path({str(files['small'])!r}))"
    )
    caller = subprocess.Popen([sys.executable, "-c", program])
    children = []
    deadline = time.monotonic() + 30
    while not any("runner" in " ".join(one.cmdline()) for one in children) and time.monotonic() < deadline:
        time.sleep(0.05)
        children = psutil.Process(caller.pid).children(recursive=True)
    time.sleep(0.5)
    caller.kill()
    caller.wait()
    while any(map(_runs, children)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children and not any(map(_runs, children))


def _runs(process):
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


# what is no use as an answer


class Answers:
    """A transport that gives one answer after the other; those that are exceptions are raised."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def run(self, command, **given):
        one = self.answers.pop(0)
        if isinstance(one, Exception):
            raise one
        return one if isinstance(one, str) else json.dumps(one)


def told(samples=((1, 2),), loads=3, **environment):
    result = {"samples_ns": [samples] * loads}
    return {
        "environment": {"date": "1970-01-01T00:00:09Z", **environment},
        "reference": result,
        "models": [result],
    }


def between(before, after, rounds=1):
    """An answer whose rounds of 1 and 2 ns lie between two looks that took so long."""
    answer, looks = told(), {"samples_ns": [[[before], [after]]] * 3}
    model = {**answer["models"][0], "around_ns": [[[before, after]] * rounds] * 3}
    return {**answer, "reference": looks, "models": [model]}


def asked(*answers, pauses_s=()):
    profile = Profile(name="pi", description="a test", reach={"backend": "ssh", "host": "pi"})
    return devices.Measured(profile, Answers(*answers), 0.1, 0.01, pauses_s=pauses_s)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (told(samples=((1, 0),)), "times above 0 ns"),
        (told(samples=((1, -5),)), "times above 0 ns"),
        (told(samples=((1, float("nan")),)), "times above 0 ns"),
        (told(samples=((),)), "times above 0 ns"),
        (told(loads=2), "3 to 200 loads"),
        ({**told(), "models": []}, "expected 1 models, got 0"),
        ({**told(), "models": [{**told()["models"][0], "energy_mj": -1}]}, "an amount for energy_mj"),
        (told(samples=((1, 10**400),)), "times above 0 ns"),
        (told(core_share="most"), "an amount for core_share"),
        (told(seconds=-1.0), "an amount for seconds"),
        (between(1, 1, rounds=2), "two times above 0 ns around each of its rounds"),
        (
            {**told(), "models": [{**told()["models"][0], "around_ns": [[[0, 1]]] * 3}]},
            "two times above 0 ns around each of its rounds",
        ),
    ],
)
def test_an_answer_that_cannot_be_right_is_refused(answer, said, files):
    with pytest.raises(DeviceError, match=f"pi: its answer cannot be right: .*{said}"):
        asked(answer).latency(files["small"])


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "\x00\xff\x7f",
        "null",
        "3",
        json.dumps(told())[:-20],
        "[" * 100_000,
        json.dumps(told()) + "and more",
        {**told(), "environment": "a board"},
        {**told(), "models": ["fast"]},
        {**told(), "models": {"0": 1.0}},
        {**told(), "models": [{"samples_ns": 5}]},
        {**told(), "models": [{**told()["models"][0], "around_ns": 5}]},
        {**told(), "reference": 0.05},
        {"error": "no memory"},
    ],
)
def test_garbage_is_no_answer(answer, files):
    with pytest.raises(DeviceError, match=r"pi: (expected the runner's answer|its answer cannot be right)"):
        asked(answer).latency(files["small"])


def test_whatever_is_damaged_in_an_answer_it_is_refused_or_a_latency(files):
    good = told(cores=4, threads=1, seconds=0.5, core_share=1.0, preemptions=3, stolen_ticks=0)
    draw, refused = random.Random(0), 0
    for _ in range(300):
        answer = copy.deepcopy(good)
        place = answer
        while isinstance(place, dict | list) and place:  # down to somewhere, at random
            parent, key = place, draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
            place = place[key]
            if draw.random() < 0.2:
                break
        parent[key] = draw.choice([None, "x", -1, 0, [], {}, [[]], True, 1e308, 10**400, float("nan")])
        try:
            one = asked(answer, answer).latency(files["small"])  # what makes it noisy is asked once more
        except DeviceError:
            refused += 1
        else:
            assert one.p50_ms > 0 and Latency.from_json(one.to_json()).p50_ms == one.p50_ms
    assert 100 < refused < 300


@pytest.mark.parametrize(
    "line",
    [
        '{"progress": 3}',
        '{"progress": {"load": 1, "model": 7, "samples_ns": [[1]]}}',
        '{"progress": {"load": 1, "model": 0, "samples_ns": [["fast"]]}}',
        '{"progress": {"load": 1, "model": 0, "samples_ns": []}}',
        '{"progress": {"load": 1, "model": 0, "samples_ns": [[0]]}}',
        '{"progress": {"load": "x", "model": 0, "samples_ns": [[1]]}}',
        '{"progress": {"load": 1',
    ],
)
def test_progress_that_is_none_is_said_and_ends_the_measurement(line, tmp_path, files):
    talking = _program(
        tmp_path, f"import sys, time; print({line!r}, file=sys.stderr, flush=True); time.sleep(60)"
    )
    seen = []
    with pytest.raises(DeviceError, match=r"here: expected the runner.s progress, got .\{.progress"):
        local(python=talking).latencies([files["small"]], watch=seen.append)
    assert seen == []


def test_what_a_runtime_complains_of_is_no_progress(tmp_path, files):
    text = f"import sys; print('warning: no GPU', file=sys.stderr); print({json.dumps(told())!r})"
    seen = []
    (one,) = local(python=_program(tmp_path, text)).latencies([files["small"]], watch=seen.append)
    assert one.p50_ms > 0 and seen == []


def test_another_ssh_configuration_can_be_named(monkeypatch, tmp_path):
    reach = Profile(name="pi", description="a test", reach={"backend": "ssh", "host": "pi"}).reach
    monkeypatch.delenv("NASFLOW_SSH_CONFIG", raising=False)
    assert devices.transport(reach) == Ssh("pi") and "-F" not in Ssh("pi").prefix
    monkeypatch.setenv("NASFLOW_SSH_CONFIG", str(tmp_path / "config"))
    way = devices.transport(reach)
    assert isinstance(way, Ssh) and way.prefix[way.prefix.index("-F") + 1] == str(tmp_path / "config")


def test_a_throughput_comes_with_the_batch_it_was_measured_at(files):
    result = {**told()["models"][0], "throughput_per_s": 812.0, "throughput_batch": 32}
    one = asked({**told(), "models": [result]}).latency(files["small"])
    assert (one.throughput_per_s, one.throughput_batch) == (812.0, 32)
    assert Latency.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_a_device_lost_while_it_measures_once_more_leaves_the_first_measurement(files, caplog):
    noisy = told(seconds=1.0, stolen_ticks=60)
    one = asked(noisy, Unreachable("no route")).latency(files["small"])
    assert "other machines took" in one.noisy
    assert (
        "pi: does not answer, asked 1 times: no route; what is noisy is not measured once more" in caplog.text
    )
    again = asked(noisy, told()).latency(files["small"])
    assert again.noisy == ""


def test_what_is_noisy_is_measured_but_once_where_only_the_quickest_call_counts(files):
    noisy = told(seconds=1.0, stolen_ticks=60)
    once = dataclasses.replace(asked(noisy, told()), again=False)
    assert "other machines took" in once.latency(files["small"]).noisy


def test_a_measurement_on_a_machine_that_is_slower_than_it_was_is_taken_once_more_and_marked(files):
    slow, quick = between(15, 15), between(10, 10)
    device = asked(quick, slow, quick, slow, slow)
    assert device.latency(files["small"]).noisy == ""
    assert device.latency(files["small"]).noisy == ""
    assert "slower than it can be in 100% of the rounds" in device.latency(files["small"]).noisy


def test_a_device_that_comes_back_is_asked_again_and_one_that_does_not_is_given_up(files):
    gone = Unreachable("no route")
    assert asked(gone, told(), pauses_s=(0.0,)).latency(files["small"]).p50_ms > 0
    with pytest.raises(devices.Lost, match="pi: does not answer, asked 2 times: no route"):
        asked(gone, gone, pauses_s=(0.0,)).latency(files["small"])
    with pytest.raises(Unreachable, match="asked 2 times"):
        asked(gone, gone, pauses_s=(0.0,)).check()


def test_another_runtime_than_before_is_not_compared_with_it(files):
    board = asked(told(runtime="onnxruntime 1.20"), told(runtime="onnxruntime 1.31"))
    board.latency(files["small"])
    with pytest.raises(DeviceError, match=r"its runtime was onnxruntime 1\.20 and is onnxruntime 1\.31 now"):
        board.latency(files["small"])


def test_a_wrong_clock_of_the_device_is_no_date_of_the_measurement(files):
    one = asked(told()).latency(files["small"])
    assert one.date > "2020" and one.environment["device_date"] == "1970-01-01T00:00:09Z"
