import datetime
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml

import nasflow
from nasflow.hardware import load_profile, profiles
from nasflow.hardware import profile as profile_module
from nasflow.hardware.profile import QUANTITIES, RUNTIMES, Fact, Reach
from nasflow.names import UnknownName
from nasflow.yamlfile import FileError

SHELF = Path(__file__).parents[2] / "hardware_profiles"


DESCRIBED = {
    "apple-m1", "ascend-310", "coral-edge-tpu", "intel-n100", "jetson-nano", "jetson-orin-nano", "jetson-tx2",
    "pixel-3", "raspberry-pi-4", "raspberry-pi-5",
}  # fmt: skip


@pytest.mark.parametrize("name", profiles())
def test_every_profile_is_valid_and_says_where_each_fact_is_from(name):
    profile = load_profile(name)
    assert profile.name == name and profile.description
    for fact in profile.facts:
        assert fact.source and datetime.date(2000, 1, 1) < fact.date, fact.quantity


def test_this_machine_and_ten_boards_are_described():
    assert set(profiles()) == DESCRIBED | {"local-cpu", "local-cuda"}
    assert profiles() == sorted(file.stem for file in SHELF.glob("*.yaml"))
    assert all(load_profile(name).facts for name in DESCRIBED)


@pytest.mark.parametrize("name", sorted(DESCRIBED))
def test_a_described_board_is_not_connected_and_says_how_it_can_be(name, tmp_path):
    assert load_profile(name).reach.backend == "none"
    comment = [line for line in (SHELF / f"{name}.yaml").read_text().splitlines() if line.startswith("#   ")]
    file = tmp_path / "own.yaml"
    file.write_text("\n".join(line.removeprefix("#   ") for line in comment))
    assert load_profile(file).reach.backend in ("ssh", "adb")
    assert load_profile(file).facts == load_profile(name).facts


COMPUTED = {
    ("raspberry-pi-4", "peak_memory_bandwidth"): 3.2 * 32 / 8,
    ("raspberry-pi-4", "peak_fp32"): 4 * 1.8 * 8,
    ("raspberry-pi-5", "peak_memory_bandwidth"): 4.267 * 32 / 8,
    ("raspberry-pi-5", "peak_fp32"): 4 * 2.4 * 16,
    ("jetson-orin-nano", "gpu_peak_fp32"): 1024 * 2 * 0.625,
    ("pixel-3", "peak_memory_bandwidth"): 3.733 * 4 * 16 / 8,
    ("intel-n100", "peak_memory_bandwidth"): 4.8 * 64 / 8,
}


def test_every_derived_fact_is_what_its_note_computes():
    derived = {
        (name, fact.quantity): fact.value
        for name in profiles()
        for fact in load_profile(name).facts
        if fact.kind == "derived"
    }
    assert derived == pytest.approx(COMPUTED, rel=0.005)


def test_a_fact_is_asked_for_by_its_quantity():
    board = load_profile("raspberry-pi-4")
    assert board.value("peak_memory_bandwidth") == 12.8 and board.value("cpu_clock") == 1.8
    assert board.value("gpu_clock") is None and board.value("cpu") is None


def test_every_quantity_has_a_unit_and_a_meaning():
    assert all(unit and meaning for unit, meaning in QUANTITIES.values())


def test_an_unknown_device_gets_the_nearest_name():
    with pytest.raises(UnknownName, match=r"unknown device 'rasberry-pi4': did you mean 'raspberry-pi-4' or"):
        load_profile("rasberry-pi4")


def test_a_profile_of_ones_own_is_given_by_its_file(tmp_path):
    file = tmp_path / "my-board.yaml"
    file.write_text("description: mine\nreach: {backend: local, threads: 2}\nbatch: 4\n")
    profile = load_profile(str(file))
    assert (profile.name, profile.reach.threads, profile.batch) == ("my-board", 2, 4)
    with pytest.raises(FileError, match="cannot be read: No such file"):
        load_profile(tmp_path / "other.yaml")


FACT = {"quantity": "power", "value": 1, "unit": "W", "kind": "measured", "source": "s", "date": "2026-01-01"}


def with_fact(**different):
    return {"description": "d", "reach": {"backend": "none"}, "facts": [{**FACT, **different}]}


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
        (with_fact(quantity="pwoer"), "facts.0.quantity: unknown quantity 'pwoer': did you mean 'power'"),
        (with_fact(unit="kW"), "facts.0.unit: expected W for power, got 'kW'"),
        (
            with_fact(value="some"),
            "facts.0.value: expected a number of W above 0, got 'some'; what is unknown is",
        ),
        (with_fact(value=0), "facts.0.value: expected a number of W above 0, got 0"),
        (with_fact(value=-1.5), "facts.0.value: expected a number of W above 0, got -1.5"),
        (with_fact(quantity="cpu", unit="text"), "facts.0.value: expected a text, got 1; what is unknown"),
        (with_fact(kind="derived"), "facts.0.note: expected how a derived value was computed, got nothing"),
        (
            {**with_fact(), "facts": [FACT, FACT]},
            "facts: expected each quantity once, got power twice; a range",
        ),
        (
            {"like": "raspbery-pi-4"},
            "like: expected a device that nasflow describes, got 'raspbery-pi-4': did you",
        ),
        ({"like": ["pixel-3"]}, "like: expected a device that nasflow describes, got ['pixel-3']"),
        ({"like": "pixel-3", "facts": "many"}, "facts: expected a list of entries, got 'many'"),
    ],
)
def test_a_wrong_profile_is_refused_with_file_and_key(content, said, tmp_path):
    file = tmp_path / "board.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(FileError) as caught:
        load_profile(file)
    assert "board.yaml: " in str(caught.value) and said in str(caught.value)


def test_a_board_that_is_like_one_of_nasflows_adds_how_it_is_reached(tmp_path):
    file, pi = tmp_path / "kitchen.yaml", load_profile("raspberry-pi-4")
    own = {**FACT, "quantity": "power_under_hpl", "value": 6.5}
    file.write_text(
        yaml.safe_dump({"like": "raspberry-pi-4", "reach": {"backend": "ssh", "host": "k"}, "facts": [own]})
    )
    kitchen = load_profile(file)
    assert (kitchen.name, kitchen.description, kitchen.reach.host) == ("kitchen", pi.description, "k")
    assert (kitchen.value("power_under_hpl"), kitchen.value("hpl_fp64")) == (6.5, pi.value("hpl_fp64"))
    assert len(kitchen.facts) == len(pi.facts)


def test_the_template_of_the_documents_is_a_board(tmp_path):
    template = Path(__file__).parents[2] / "docs/board-template.yaml"
    assert load_profile(template).reach.backend == "ssh"
    text = template.read_text()
    assert all(f"# {key}:" in text or f"\n  {key}:" in text for key in Reach.model_fields)
    assert all(kind in text for kind in get_args(Fact.model_fields["kind"].annotation))
    # What stands behind a # can be put in as it is.
    (tmp_path / "all.yaml").write_text(re.sub(r"^(  )?# (?=[a-z]+: )", r"\1", text, flags=re.MULTILINE))
    with pytest.raises(FileError, match="serial: expected it with backend adb only, got it with ssh"):
        load_profile(tmp_path / "all.yaml")


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
        ({"backend": "local", "runtime": "litert", "device": "cuda"}, "reach.device: expected cuda with onnxruntime,"),
        ({"backend": "local", "device": "tpu"}, "reach.device: expected cpu or cuda, got 'tpu'"),
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
