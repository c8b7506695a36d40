import ast
import hashlib
import io
import shutil
import subprocess
import sys
import zipfile

from nasflow.hardware import bundle as module
from nasflow.hardware.bundle import FOLDER, PACKAGE, bundle, digest

RUNTIMES = {"numpy", "onnxruntime"}  # what is imported by name; other runtimes are looked for by `installed`


def test_the_same_source_gives_the_same_bytes_wherever_and_whenever_it_lies(tmp_path, monkeypatch):
    here = bundle()
    shutil.copytree(FOLDER, tmp_path / "board", copy_function=shutil.copyfile)
    monkeypatch.setattr(module, "FOLDER", tmp_path / "board")
    assert bundle.__wrapped__() == here
    assert digest() == hashlib.sha256(here).hexdigest()


def test_another_source_gives_another_digest(tmp_path, monkeypatch):
    here = bundle()
    shutil.copytree(FOLDER, tmp_path / "board")
    (tmp_path / "board/cores.py").write_text("")
    monkeypatch.setattr(module, "FOLDER", tmp_path / "board")
    assert bundle.__wrapped__() != here


def test_it_hides_no_module_of_the_board():
    with zipfile.ZipFile(io.BytesIO(bundle())) as archive:
        assert {name.partition("/")[0] for name in archive.namelist()} == {"__main__.py", PACKAGE}


def test_it_needs_nothing_of_nasflow_and_python_39_reads_it():
    imported = set()
    for file in FOLDER.rglob("*.py"):
        for statement in ast.walk(ast.parse(file.read_text(), feature_version=(3, 9))):
            if isinstance(statement, ast.Import):
                imported |= {name.name.partition(".")[0] for name in statement.names}
            elif isinstance(statement, ast.ImportFrom) and statement.level == 0:
                imported.add((statement.module or "").partition(".")[0])
    assert imported - set(sys.stdlib_module_names) <= RUNTIMES


def test_a_broken_spec_ends_in_an_error(tmp_path):
    file = tmp_path / "runner.pyz"
    file.write_bytes(bundle())
    done = subprocess.run([sys.executable, file], input="{}", capture_output=True, text=True, timeout=60)
    assert done.returncode != 0 and "KeyError: 'threads'" in done.stderr and not done.stdout
