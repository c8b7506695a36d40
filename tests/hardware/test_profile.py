import datetime
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import nasflow
from nasflow.hardware import load_profile, profiles
from nasflow.hardware import profile as profile_module
from nasflow.hardware.profile import RUNTIMES, Reach
from nasflow.names import UnknownName
from nasflow.yamlfile import FileError

SHELF = Path(__file__).parents[2] / "hardware_profiles"


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
            "reach.backend: expected local or ssh or adb or none, got 'telep",
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
    shutil.copytree(Path(profile_module.__file__).parent, package / "hardware")
    (package / "hardware_profiles").symlink_to(SHELF)
    (tmp_path / "hardware_profiles").mkdir()  # somebody else's, beside the package
    told = subprocess.run(
        [sys.executable, "-c", "from nasflow import hardware; print(hardware.profiles(), hardware.__file__)"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert "'local-cpu'" in told.stdout and str(tmp_path) in told.stdout, told.stderr


# how a device is reached


@pytest.mark.parametrize(
    ("reach", "said"),
    [
        ({"backend": "ssh"}, "reach.host: expected the board's address for backend ssh, such as pi@192"),
        ({"backend": "ssh", "host": "pi@board:2222"}, "reach.host: expected an address without its port, got"),
        ({"backend": "ssh", "host": "pi@board:2222"}, "add: port: 2222"),
        ({"backend": "ssh", "host": "-oProxyCommand=x"}, "reach.host: expected a text without spaces that does"),
        ({"backend": "ssh", "host": "pi board"}, "reach.host: expected a text without spaces that does not"),
        ({"backend": "ssh", "host": "b", "port": 70000}, "reach.port: expected an integer >= 1 and <= 65535, got"),
        ({"backend": "ssh", "host": "b", "serial": "1"}, "reach.serial: expected it with backend adb only, got it"),
        ({"backend": "adb", "host": "b"}, "reach.host: expected it with backend ssh only, got it with adb"),
        ({"backend": "local", "port": 22}, "reach.port: expected it with backend ssh only, got it with local"),
        ({"backend": "adb", "serial": "--x"}, "reach.serial: expected a text without spaces that does not begin"),
        ({"backend": "adb", "program": ""}, "reach.program: expected a text, got ''"),
        ({"backend": "local", "runtime": "tflite"}, "reach.runtime: expected onnxruntime or torch or"),
        ({"backend": "local", "password": "x"}, "reach.password: unknown key"),
    ],
)  # fmt: skip
def test_an_impossible_reach_is_refused_with_its_key(reach, said, tmp_path):
    file = tmp_path / "board.yaml"
    file.write_text(yaml.safe_dump({"description": "d", "reach": reach}))
    with pytest.raises(FileError) as caught:
        load_profile(file)
    assert said in str(caught.value)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_can_be_named(runtime):
    assert Reach(backend="local", runtime=runtime).runtime == runtime


@pytest.mark.parametrize(
    "reach",
    [
        {"backend": "ssh", "host": "pi@192.168.1.20", "port": 2222, "python": "/opt/venv/bin/python"},
        {"backend": "ssh", "host": "fe80::1%eth0"},
        {"backend": "adb", "serial": "emulator-5554", "program": "/data/local/tmp/benchmark_model"},
        {"backend": "adb"},
        {"backend": "none", "host": "pi@board"},
    ],
)
def test_a_board_is_reached_by_ssh_or_adb_or_put_away_without_forgetting_how(reach):
    assert Reach(**reach).model_dump(exclude_defaults=True) == reach
