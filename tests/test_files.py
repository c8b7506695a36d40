"""Files that are whole or absent, and the lock that dies with its holder."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nasflow import files
from nasflow.files import FolderError

KINDS = {
    "bytes": lambda path: files.write_bytes(path, b"new"),
    "text": lambda path: files.write_text(path, "new"),
    "json": lambda path: files.write_json(path, {"new": 1}),
}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", KINDS)
def test_writing_makes_folders_and_replaces_what_was_there(tmp_path, kind):
    path = tmp_path / "deep" / "er" / "file"
    KINDS[kind](path)
    KINDS[kind](path)
    assert "new" in path.read_text()
    assert names(path.parent) == ["file"]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, kind, moment):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if moment == "fsync" else (Path, "replace")), fail)
    with pytest.raises(FolderError, match=r"cannot write .*file: No space left on device"):
        KINDS[kind](path)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_an_error_while_writing_is_passed_on_and_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), files.replacing(tmp_path / "file") as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path) == []


@pytest.mark.parametrize("moment", ["os.fsync", "pathlib.Path.replace"])
def test_a_kill_while_writing_leaves_the_old_file_and_a_part_that_is_swept(tmp_path, moment):
    path = tmp_path / "run" / "file"
    files.write_text(path, "old")
    code = f"""
import os, pathlib, sys
from nasflow import files
def die(*_): os.kill(os.getpid(), 9)
{moment} = die
files.write_text(pathlib.Path(sys.argv[1]), "new")
"""
    ended = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(names(path.parent)) == 2
    files.sweep(tmp_path)
    assert names(path.parent) == ["file"]


def test_whole_files_can_be_read_by_others(tmp_path):
    files.write_text(tmp_path / "file", "x")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_a_folder_that_is_a_file_is_a_clear_error(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(FolderError, match="choose another folder with --out"):
        files.write_text(tmp_path / "taken" / "file", "x")
    with (
        pytest.raises(FolderError, match="choose another folder with --out"),
        files.locked(tmp_path / "taken" / "lock"),
    ):
        pass


def test_json_comes_back_and_is_strict(tmp_path):
    value = {"a": [1, 2.5, None, True, "é"]}
    files.write_json(tmp_path / "x.json", value)
    assert files.read_json(tmp_path / "x.json") == value
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(tmp_path / "x.json", {"a": float("nan")})
    assert files.read_json(tmp_path / "x.json") == value


@pytest.mark.parametrize("content", [b"", b'{"a": ', b"\xff\xfe\x00"])
def test_a_broken_json_file_is_named(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(FolderError, match=r"x\.json: expected JSON, got something else .* delete the file"):
        files.read_json(tmp_path / "x.json")


def test_hashes_are_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert files.sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_second_holder_is_refused_and_told_who_the_first_is(tmp_path):
    with files.locked(tmp_path / "lock"):
        with (
            pytest.raises(FolderError, match=f"in use by process {os.getpid()}: wait for it to end"),
            files.locked(tmp_path / "lock"),
        ):
            pass
        assert (tmp_path / "lock").read_text() == str(os.getpid()), "the refused one left it alone"
    with files.locked(tmp_path / "lock"):
        pass


HOLD = """
import pathlib, sys, time
from nasflow import files
with files.locked(pathlib.Path(sys.argv[1]) / "lock"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_dies_with_its_holder_and_a_waiting_one_gets_it(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with (
            pytest.raises(FolderError, match=f"in use by process {holder.pid}"),
            files.locked(tmp_path / "lock"),
        ):
            pass
        wait = "import pathlib, sys\nfrom nasflow import files\n" + (
            "with files.locked(pathlib.Path(sys.argv[1]) / 'lock', wait=True, poll_s=0.02): print('mine')"
        )
        with subprocess.Popen(
            [sys.executable, "-c", wait, str(tmp_path)], stdout=subprocess.PIPE, text=True
        ) as waiting:
            time.sleep(0.3)
            assert waiting.poll() is None
            holder.kill()
            assert waiting.communicate(timeout=30)[0] == "mine\n"


def test_what_is_written_reads_well(tmp_path):
    files.write_json(tmp_path / "x.json", {"a": 1, "b": [1]})
    text = (tmp_path / "x.json").read_text()
    assert text.endswith("}\n") and '\n "a": 1' in text
    assert json.loads(text) == {"a": 1, "b": [1]}
