import contextlib
import datetime
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from torch import nn

import nasflow
from nasflow.errors import Unavailable
from nasflow.export import to_onnx
from nasflow.hardware import (
    DeviceError,
    Latency,
    Profile,
    Unreachable,
    connect,
    load_profile,
    profiles,
)
from nasflow.hardware import device as devices
from nasflow.names import UnknownName
from nasflow.yamlfile import FileError

SHELF = Path(__file__).parents[2] / "hardware_profiles"


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


# profiles


@pytest.mark.parametrize("name", profiles())
def test_every_profile_is_valid_and_says_where_each_fact_is_from(name):
    profile = load_profile(name)
    assert profile.name == name and profile.description
    for fact in profile.facts:
        assert fact.source and datetime.date(2000, 1, 1) < fact.date, fact.quantity
        assert fact.unit and fact.value not in ("", 0), fact.quantity
        assert fact.kind != "derived" or fact.note, f"{fact.quantity}: how was it derived?"


def test_this_machine_and_three_boards_are_described():
    assert {"local-cpu", "raspberry-pi-4", "jetson-nano", "pixel-3"} <= set(profiles())
    assert profiles() == sorted(file.stem for file in SHELF.glob("*.yaml"))
    assert all(load_profile(name).facts for name in profiles() if name != "local-cpu")


def test_an_unknown_device_gets_the_nearest_name():
    with pytest.raises(UnknownName, match=r"unknown device 'rasberry-pi4': did you mean 'raspberry-pi-4'\?"):
        load_profile("rasberry-pi4")


def test_a_profile_of_ones_own_is_given_by_its_file(tmp_path):
    file = tmp_path / "my-board.yaml"
    file.write_text("description: mine\nreach: {backend: local, threads: 2}\nbatch: 4\n")
    profile = load_profile(str(file))
    assert (profile.name, profile.reach.threads, profile.batch) == ("my-board", 2, 4)
    with pytest.raises(FileError, match="cannot be read: No such file"):
        load_profile(tmp_path / "other.yaml")


FACT = {"quantity": "q", "value": 1, "unit": "W", "kind": "measured", "source": "s", "date": "2026-01-01"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"reach": {"backend": "none"}}, "description: expected a text, got nothing"),
        ({"description": "d"}, "reach: expected"),
        (
            {"description": "d", "reach": {"backend": "telepathy"}},
            "reach.backend: expected local or none, got 'telep",
        ),
        (
            {"description": "d", "reach": {"backend": "local", "threads": 0}},
            "reach.threads: expected an integer >= 1",
        ),
        (
            {"description": "d", "reach": {"backend": "local"}, "batch": "many"},
            "batch: expected an integer >= 1, got",
        ),
        (
            {"description": "d", "reach": {"backend": "local"}, "bacth": 2},
            "bacth: unknown key: did you mean 'batch'",
        ),
        (
            {"name": "other", "description": "d", "reach": {"backend": "none"}},
            "name: expected none, a device is call",
        ),
        (
            {"description": "d", "reach": {"backend": "none"}, "facts": [{**FACT, "kind": "rumour"}]},
            "facts.0.kind: expected vendor or measured or derived or secondary, got 'rumour'",
        ),
        (
            {
                "description": "d",
                "reach": {"backend": "none"},
                "facts": [{k: FACT[k] for k in FACT if k != "source"}],
            },
            "facts.0.source: expected a text, got nothing",
        ),
    ],
)
def test_a_wrong_profile_is_refused_with_file_and_key(content, said, tmp_path):
    file = tmp_path / "board.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(FileError) as caught:
        load_profile(file)
    assert "board.yaml: " in str(caught.value) and said in str(caught.value)


def test_profiles_travel_inside_an_installed_package(tmp_path):
    package = tmp_path / "nasflow"
    package.mkdir()
    for module in Path(nasflow.__file__).parent.glob("*.py"):
        (package / module.name).symlink_to(module)
    shutil.copytree(Path(devices.__file__).parent, package / "hardware")
    (package / "hardware_profiles").symlink_to(SHELF)
    (tmp_path / "hardware_profiles").mkdir()  # somebody else's, beside the package
    told = subprocess.run(
        [sys.executable, "-c", "from nasflow import hardware; print(hardware.profiles(), hardware.__file__)"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert "'local-cpu'" in told.stdout and str(tmp_path) in told.stdout, told.stderr


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


def test_an_interpreter_that_is_not_there_is_said(files):
    with pytest.raises(
        Unreachable, match="here: cannot start /no/such/python: No such file or directory; see `python`"
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
        ("import os; os.kill(os.getpid(), 9)", "exit code -9: it said nothing"),
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


def test_the_runner_never_takes_a_module_of_nasflow_for_another(tmp_path):
    safe = _program(tmp_path, "import json, os; print(json.dumps({'environment': dict(os.environ)}))")
    told = local(python=safe)._ask([], (3, 3), 0.01)
    assert told.environment["PYTHONSAFEPATH"] == "1"


def test_a_device_that_hangs_is_given_up(tmp_path, files, monkeypatch):
    monkeypatch.setattr(devices, "DEADLINE_S", 0.8)
    with pytest.raises(DeviceError, match=r"no answer within 1 s for .*small\.onnx"):
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


# one caller at a time


def _hold(seconds, began, device):
    with devices._held(device):
        began.set()
        time.sleep(seconds)


def _holder(seconds, device="board"):
    spawn = multiprocessing.get_context("spawn")
    began = spawn.Event()
    process = spawn.Process(target=_hold, args=(seconds, began, device), daemon=True)
    process.start()
    assert began.wait(30)
    return process


def test_a_second_caller_waits_for_the_first():
    process = _holder(1.0)
    start = time.monotonic()
    with devices._held("board"):
        assert time.monotonic() - start > 0.5
    process.join(10)


def test_measuring_waits_for_whoever_measures_on_the_same_machine(files):
    process = _holder(1.0, f"local-{socket.gethostname()}")
    start = time.monotonic()
    local().check()
    assert time.monotonic() - start > 0.5
    process.join(10)


def test_other_devices_are_not_waited_for():
    process = _holder(30)
    start = time.monotonic()
    with devices._held("another"):
        assert time.monotonic() - start < 5
    process.kill()


def test_a_killed_holder_frees_the_device_at_once():
    process = _holder(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
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
    while not children and time.monotonic() < deadline:
        time.sleep(0.05)
        children = psutil.Process(caller.pid).children()
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
