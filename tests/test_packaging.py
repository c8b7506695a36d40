"""What is installed is whole: the wheel works outside the checkout, and make sets up what it needs, once."""

import email
import os
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # The build tool that is installed already, if it is: then no index is asked.
    isolation = ["--no-build-isolation"] if find_spec("hatchling") else []
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        *isolation,
        "--wheel-dir",
        folder,
        ROOT,
    ]
    subprocess.run(command, check=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def unpacked(wheel, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(wheel):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    tracked = {
        str(file.relative_to(ROOT))
        for package in ("nasflow", "flows")
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    travelling = {
        f"nasflow/{file.relative_to(ROOT)}"
        for folder in ("experiments", "hardware_profiles")
        for file in (ROOT / folder).glob("*.yaml")
    } | {"flows/prefect.yaml"}
    assert "nasflow/py.typed" in inside and "nasflow/experiments/digits.yaml" in inside
    assert inside - {name for name in inside if name.endswith("/.keep")} == tracked | travelling


def test_the_wheel_says_what_it_is_and_needs(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = email.message_from_bytes(archive.read("nasflow-0.1.0.dist-info/METADATA"))
    assert metadata["Name"] == "nasflow" and metadata["License-Expression"] == "Apache-2.0"
    needs = {r.name: r for r in map(Requirement, metadata.get_all("Requires-Dist")) if not r.marker}
    assert "0.150.0" in needs["fastapi"].specifier and "0.151.0" not in needs["fastapi"].specifier
    assert "nasflow = nasflow.cli:main" in archive.read("nasflow-0.1.0.dist-info/entry_points.txt").decode()


def test_the_version_is_the_same_everywhere():
    import nasflow

    assert nasflow.__version__ == PROJECT["version"]


def test_outside_a_checkout_experiments_and_devices_are_found(unpacked, tmp_path):
    code = (
        "import nasflow, sys; from nasflow.experiment import load, shipped;"
        "from nasflow.hardware import profiles;"
        "print(nasflow.__file__, *shipped(), load('digits').name, 'local-cpu' in profiles())"
    )
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    out = subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=environment, text=True)
    names = sorted(file.stem for file in (ROOT / "experiments").glob("*.yaml"))
    assert out.split()[0] == str(unpacked / "nasflow/__init__.py")
    assert sorted(out.split()[1:-2]) == names and out.split()[-2:] == ["digits", "True"]


def test_the_pins_satisfy_every_requirement_and_force_no_cuda_build():
    lines = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    pins = {canonicalize_name(line.partition("==")[0]): line.partition("==")[2] for line in lines}
    core = list(map(Requirement, PROJECT["dependencies"]))
    extra = list(map(Requirement, PROJECT["optional-dependencies"]["dev"]))
    assert not [r.name for r in core if canonicalize_name(r.name) not in pins]
    for requirement in core + extra:
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned is None or requirement.specifier.contains(pinned), (
            f"{requirement} does not allow {pinned}"
        )
    assert not [name for name in pins if name.startswith(("nvidia", "triton", "cuda"))]


@pytest.fixture
def checkout(tmp_path):
    """A checkout with an environment whose programs only note how they were called."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("python", "pip", "nasflow", "ruff", "mypy", "lint-imports", "pytest"):
        (programs / name).write_text(
            f'#!/bin/sh\necho {name} "$@" OMP=$OMP_NUM_THREADS >> "{tmp_path}/calls"\n'
        )
        (programs / name).chmod(0o755)

    def make(*targets):
        (tmp_path / "calls").unlink(missing_ok=True)
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "OMP_", "MFLAGS"))
        }
        subprocess.run(["make", "-s", *targets], cwd=tmp_path, env=environment, check=True)
        return (tmp_path / "calls").read_text().splitlines()

    make.folder = tmp_path
    return make


INSTALL = "pip install --quiet --constraint constraints.txt --editable .[dev] OMP="


def test_make_run_installs_once_and_again_only_if_what_is_installed_changes(checkout):
    assert checkout("run") == [INSTALL, "nasflow run digits OMP="]
    assert checkout("run") == ["nasflow run digits OMP="]
    later = (checkout.folder / ".venv/.ready").stat().st_mtime + 5
    os.utime(checkout.folder / "constraints.txt", (later, later))
    assert checkout("run")[0] == INSTALL


def test_make_test_is_lint_types_layers_and_tests_with_one_thread(checkout):
    checkout("run")
    assert checkout("test") == [
        "ruff check . OMP=1",
        "ruff format --check . OMP=1",
        "mypy OMP=1",
        "lint-imports OMP=1",
        "pytest -n auto --dist worksteal OMP=1",
    ]
    assert checkout("test-all")[-1] == "pytest -m  -n auto --dist worksteal OMP=1"


def test_continuous_integration_is_make_test_and_nothing_else(tmp_path):
    (tmp_path / "make").write_text(f'#!/bin/sh\necho "$PWD" "$@" > "{tmp_path}/calls"\n')
    (tmp_path / "make").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    subprocess.run([ROOT / ".ci/run"], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "calls").read_text() == f"{ROOT} test\n"


@pytest.mark.long
def test_the_wheel_in_an_empty_environment_runs_the_main_job_in_an_empty_folder(wheel, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    programs, folder = tmp_path / "venv/bin", tmp_path / "empty"
    folder.mkdir()
    subprocess.run(
        [programs / "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel], check=True
    )
    subprocess.run([programs / "pip", "check"], check=True)
    environment = {
        key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    environment["HOME"] = str(tmp_path)  # nothing of an earlier run is found there
    small = ["search.trials=4", "search.epochs=1", "compress.trials=2", "compress.epochs=1"]
    small += ["retrain.networks=1", "retrain.epochs=2", "retrain.seeds=1"]
    command = [programs / "nasflow", "run", *(part for change in small for part in ("--set", change))]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (folder / "runs/digits/report.html").is_file()
    again = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert again.returncode == 0 and "Finished already" in again.stdout
