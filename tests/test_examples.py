"""Every example runs as it is printed: here as small as can be, in `make test-all` in full on this machine's device."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest
import tiny

import nasflow

HERE = Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))

SMALL = {
    "trials": 3,
    "epochs": 1,
    "settings": {
        "data": {"train_limit": 200},
        "search": {"workers": 1},
        "compress": {"trials": 1, "epochs": 1, "max_error_increase": 0.9},
        "retrain": {"networks": 1, "epochs": 1},
        "deploy": {"int8_agreement": 0.1},
    },
}
# The same said in a cell before the first of the notebook.
SMALL_CELL = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import nasflow, tiny

def small(data, fit=nasflow.fit, **options):
    with tiny.world():
        return fit(data, **options | {SMALL!r})

nasflow.fit = small
"""


@pytest.fixture
def somewhere(tmp_path, monkeypatch) -> Path:
    """A current folder of one's own; what the examples import or put on the path is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in {Path(script).stem for script in SCRIPTS} & (set(sys.modules) - before):
        del sys.modules[name]


def run_small(script: str, monkeypatch) -> None:
    def small(data, fit=nasflow.fit, **options):
        with tiny.world():
            return fit(data, **options | SMALL)

    monkeypatch.setitem(vars(nasflow), "fit", small)
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")


def execute(notebook: nbformat.NotebookNode, folder: Path) -> str:
    """What the notebook's cells print, run in their order by a kernel of its own."""
    client = nbclient.NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    return "".join(output.text for output in outputs if output.output_type == "stream")


def read_notebook() -> nbformat.NotebookNode:
    return nbformat.read(EXAMPLES / "fit.ipynb", as_version=4)


def test_fit(somewhere, monkeypatch, capsys):
    run_small("fit.py", monkeypatch)
    printed = capsys.readouterr().out
    assert "wrong on test images, certified" in printed
    assert "exported to digits.onnx, all about it in runs/fit/report.html" in printed
    assert (somewhere / "digits.onnx").exists() and (somewhere / "digits.certificate.json").exists()


def test_fit_takes_ten_lines():
    lines = (EXAMPLES / "fit.py").read_text().split('"""')[2].split("\n")
    assert len([line for line in lines if line.strip()]) <= 10


def test_own_model(somewhere, monkeypatch, capsys):
    run_small("own_model.py", monkeypatch)
    printed = capsys.readouterr().out
    assert "trial-0-pruned-0, " in printed and "trial-0-int8, " in printed
    summary = json.loads((somewhere / "runs/own-model/summary.json").read_text())
    assert summary["experiment"]["model"]["name"].startswith("__main__:Net#")


def test_own_model_by_the_name_of_its_file(somewhere, monkeypatch):
    monkeypatch.chdir(EXAMPLES.parent)
    asked = {"name": "own", "data": "digits", "model": "examples/own_model.py:Net", "limits": {"flops": 1.0}}
    with pytest.raises(nasflow.NasflowError, match="no network keeps every limit: flops"):
        tiny.run(nasflow.experiment.from_mapping(asked, "test"), somewhere / "run")


def test_own_space_as_an_experiment_file(somewhere, monkeypatch):
    monkeypatch.chdir(EXAMPLES.parent)
    small = ["search.trials=2", "search.epochs=1", "search.workers=1", "compress.enabled=false"]
    small += ["retrain.networks=1", "retrain.epochs=1"]
    summary = tiny.run(nasflow.load_experiment("examples/own_space.yaml", small), somewhere / "run")
    assert summary["status"] == "done"
    assert {"layers", "width", "train.learning_rate"} <= summary["front"][0]["point"].keys()
    assert max(summary["front"][0]["point"]["layers"], 4) == 4


def test_own_space_takes_some_25_lines():
    lines = (EXAMPLES / "own_space.py").read_text().split('"""', 2)[2].split("\n")
    assert len([line for line in lines if line.strip()]) <= 26


def test_search_only_needs_no_torch(tmp_path):
    program = f"import runpy, sys; runpy.run_path({str(EXAMPLES / 'search_only.py')!r}, run_name='__main__')"
    ended = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{program}; print('torch' in sys.modules)"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "50 trials trained of 84 possible; on the front:\n" in ended.stdout
    assert ended.stdout.endswith("False\n")


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's own
def test_the_notebook(tmp_path):
    notebook = read_notebook()
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SMALL_CELL))
    printed = execute(notebook, tmp_path)
    assert "limit 1e+06: holds" in printed
    assert (tmp_path / "digits.onnx").exists() and (tmp_path / "runs/notebook/report.html").exists()


def test_the_notebook_is_kept_without_outputs():
    for cell in read_notebook().cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None


@pytest.mark.long
@pytest.mark.parametrize("script", SCRIPTS)
def test_in_full(script, tmp_path):
    if script == "own_space.py":
        (tmp_path / "examples").symlink_to(EXAMPLES)
        command = [Path(sys.executable).with_name("nasflow"), "run", "examples/own_space.yaml"]
    else:
        command = [sys.executable, EXAMPLES / script]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_notebook_in_full(tmp_path):
    assert "holds" in execute(read_notebook(), tmp_path)
