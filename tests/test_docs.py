"""What the documents say is so: their blocks run, their commands exist, their links lead somewhere."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree

import pytest
import tiny
from PIL import Image
from typer.main import get_command

import nasflow
from nasflow import cli, hardware, stages
from nasflow.experiment import objectives
from nasflow.hardware.profile import QUANTITIES

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
HOW_TO = ROOT / "docs/how-to.md"

DIGITS = {"data": "{name: digits, train_limit: 200}"}
SMALL = {
    "search.trials": 2,
    "search.epochs": 1,
    "compress.trials": 1,
    "compress.epochs": 1,
    "retrain.networks": 1,
    "retrain.epochs": 1,
}


def blocks(document: Path, language: str) -> list[str]:
    """The fenced blocks of one language in a document."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.MULTILINE | re.DOTALL)


def files(document: Path) -> dict[str, str]:
    """The blocks that begin with a file's name, by it."""
    named = [*blocks(document, "python"), *blocks(document, "yaml")]
    return {
        match[1]: text
        for text in named
        if (match := re.match(r"# ([\w./-]+\.(?:py|yaml))\n", text)) is not None
    }


def commands(document: Path) -> list[str]:
    """The command lines of a document: in blocks of sh, in indented blocks and between backticks."""
    text = re.sub(r"\\\n +", "", document.read_text())  # a line that goes on in the next
    lines = [line for block in blocks(document, "sh") for line in block.splitlines()]
    lines += re.findall(r"^    (\w.*)$", text, re.MULTILINE)
    lines += re.findall(r"`((?:nasflow|make) [^`]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))
    return [
        command.strip() for line in lines for command in line.partition("#")[0].split("&&") if command.strip()
    ]


@pytest.fixture
def somewhere(tmp_path, monkeypatch) -> Path:
    """A current folder that holds the files of the how-to; what is imported from it is forgotten afterwards."""
    for name, text in files(HOW_TO).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]


@pytest.fixture
def small_fit(monkeypatch) -> None:
    """Within, nasflow.fit is as small as can be."""
    settings: dict[str, dict[str, object]] = {"data": {"train_limit": 200}}
    for key, value in SMALL.items():
        section, _, name = key.partition(".")
        settings.setdefault(section, {})[name] = value

    def small(data, fit=nasflow.fit, **options):
        with tiny.world():
            return fit(data, **options | {"settings": settings, "trials": 2, "epochs": 1, "limits": {}})

    monkeypatch.setitem(vars(nasflow), "fit", small)


def run_small(experiment: str, folder: Path, more: Mapping[str, object]) -> dict[str, object]:
    overrides = [f"{key}={value}" for key, value in {**SMALL, **more}.items()]
    return tiny.run(nasflow.load_experiment(experiment, overrides), folder / "run")


# ---- the how-to's blocks


@pytest.mark.parametrize(
    ("file", "more"),
    [
        ("stripes.yaml", {}),
        ("my-model.yaml", {**DIGITS, "compress.max_error_increase": 0.9}),
        pytest.param(
            "climb.yaml",
            {**DIGITS, "search.trials": 4, "search.strategy.first": 2},
            marks=pytest.mark.long,
        ),
        pytest.param("two-devices.yaml", DIGITS, marks=pytest.mark.long),
        pytest.param(
            "limits.yaml",
            {**DIGITS, "limits.error": 0.99, "limits.latency_ms": 10},
            marks=pytest.mark.long,
        ),
    ],
)
def test_the_experiments_of_the_how_to_run(file, more, somewhere):
    summary = run_small(file, somewhere, more)
    assert summary["status"] == "done", summary["message"]
    if file == "stripes.yaml":
        assert summary["data"]["shape"] == [1, 12, 12] and summary["data"]["classes"] == 2
    if file == "my-model.yaml":
        assert not any("channels.0" in step["policy"] for step in summary["compression"])
    if file == "two-devices.yaml":
        assert {"latency_ms@local-cpu", "latency_ms@lab-pc"} <= summary["front"][0]["metrics"].keys()


def test_every_experiment_of_the_how_to_is_tried_or_is_a_device():
    tried = next(
        mark for mark in test_the_experiments_of_the_how_to_run.pytestmark if mark.name == "parametrize"
    )
    experiments = {name for name in files(HOW_TO) if name.endswith(".yaml") and "/" not in name}
    assert {getattr(case, "values", case)[0] for case in tried.args[1]} == experiments


def test_the_device_of_the_how_to_can_be_asked(somewhere):
    profile = hardware.load_profile("boards/lab-pc.yaml")
    assert (profile.name, profile.reach.threads, profile.facts[0].value) == ("lab-pc", 2, 16)


def test_the_boards_and_the_experiment_of_the_devices_can_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = files(ROOT / "docs/devices.md")
    for name, text in found.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    boards = [hardware.load_profile(name) for name in found if name.startswith("boards/")]
    assert [board.reach.backend for board in boards] == ["ssh", "adb", "local"]
    limits = {one.metric: one.goal for one in objectives(nasflow.load_experiment("frugal.yaml")) if one.limit}
    assert (limits["energy_mj@local-cpu"], limits["compute_intensity"]) == ("min", "max")


def test_every_quantity_of_a_fact_is_in_the_documents():
    text = (ROOT / "docs/devices.md").read_text()
    assert all(f"| {name} | {unit} | {told} |" in text for name, (unit, told) in QUANTITIES.items())


def test_the_python_of_the_how_to_runs(somewhere, small_fit, capsys):
    names: dict[str, object] = {}
    for block in blocks(HOW_TO, "python"):
        if block not in files(HOW_TO).values():
            exec(compile(block, str(HOW_TO), "exec"), names)
    printed = capsys.readouterr().out
    assert "('across', 'down') [" in printed
    assert "5 trials trained [Trial(" in printed
    assert "'weight_bits.0': " in printed and "'error_simulated': " in printed
    assert (somewhere / "runs/costs.journal").exists()


def test_the_tests_of_the_how_to_pass(somewhere):
    shutil.copy(somewhere / "examples/own_space.py", somewhere)
    tests = [name for name in files(HOW_TO) if name.startswith("test_")]
    assert len(tests) == 2
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", *tests],
        cwd=somewhere, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout


# ---- pictures


@pytest.fixture
def pictures(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import pictures

    return pictures


def test_pictures_are_drawn_from_a_finished_run(pictures, finished_run, tmp_path, monkeypatch, capsys):
    if not any(map(shutil.which, pictures.BROWSERS)):
        pytest.skip("no browser on this machine")
    monkeypatch.setattr(sys, "argv", ["pictures.py", str(finished_run.folder), "--out", str(tmp_path)])
    pictures.main()
    report, front = (tmp_path / name for name in ("report.png", "front.svg"))
    assert capsys.readouterr().out == f"{report}\n{front}\n"
    with Image.open(report) as picture:
        assert picture.size == pictures.WINDOW
        assert len(picture.convert("RGB").getcolors(2**20)) > 50
    assert ElementTree.parse(front).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_without_a_browser_there_is_no_half_picture(pictures, finished_run, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "BROWSERS", ("no-such-browser",))
    with pytest.raises(nasflow.NasflowError, match=r"expected a browser .* one of no-such-browser"):
        pictures.draw(finished_run.folder, tmp_path)
    assert not list(tmp_path.iterdir())


# ---- the README's blocks


def test_the_python_of_the_readme_runs(somewhere, small_fit):
    images = tiny.images(3)[0]
    for block in blocks(ROOT / "README.md", "python"):
        exec(compile(block, "README.md", "exec"), {"images": images})
    assert (somewhere / "model.onnx").exists()


def test_the_experiment_of_the_readme_is_one(somewhere):
    (text,) = blocks(ROOT / "README.md", "yaml")
    (somewhere / "it.yaml").write_text(text)
    assert nasflow.load_experiment("it.yaml").name == "digits"


# ---- all documents


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_exist_with_their_options(document):
    known = get_command(cli.app)
    targets = re.findall(r"^([\w-]+(?: [\w-]+)*):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for command in commands(document):
        program, *arguments = shlex.split(command)
        if program == "make":
            assert set(arguments) <= {name for target in targets for name in target.split()}, command
        if program == "nasflow":
            name, *rest = arguments
            assert name in known.commands, command
            if "..." not in command:
                known.commands[name].make_context(name, rest)  # raises for an option that is not there


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    text = document.read_text()
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if not target.startswith(("http:", "https:")):
            assert (document.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_files_that_are_named_are_there(document):
    """`nasflow/x.py`, `stages/y.py`, `hardware_profiles/`: seen from the checkout or the package."""
    for path in re.findall(r"`([\w/*]+(?:\.py|/))`", document.read_text()):
        places = [folder for folder in (ROOT, ROOT / "nasflow", document.parent) if list(folder.glob(path))]
        assert places or path in files(HOW_TO), path


def test_stages_are_told_in_their_order():
    text = (ROOT / "README.md").read_text()
    places = [text.index(f"-> {stage}") for stage in stages.STAGES]
    assert places == sorted(places)
