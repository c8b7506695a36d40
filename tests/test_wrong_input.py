"""What goes wrong around a run: each ends in one message that says what was expected, what came and what to do."""

import contextlib
import errno
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import cloudpickle
import numpy as np
import pytest
import tiny
from tiny import experiment, opened

from nasflow import stages
from nasflow.data import DataError
from nasflow.errors import NasflowError
from nasflow.files import FolderError, read_json
from nasflow.record import RecordError
from nasflow.stages import Infeasible, RunError
from nasflow.testing import elsewhere


@pytest.fixture
def copied(finished_run, tmp_path):
    """The finished run in a folder of its own."""
    shutil.copytree(finished_run.folder, tmp_path / "copied")
    return replace(finished_run, folder=tmp_path / "copied")


def told(wanted, folder, error, **options):
    """The message with which a run ends; it is the summary's too, if one can be written."""
    with pytest.raises(error) as stopped:
        tiny.run(wanted, folder, **options)
    return str(stopped.value)


# Limits


def test_a_space_without_a_feasible_point_ends_with_the_limit_and_the_best_seen(finished_run, tmp_path):
    mine = experiment(finished_run.data, limits={"params": 5.0}, search={"trials": 1})
    message = told(mine, tmp_path / "run", Infeasible)
    assert (
        "params must be at most 5, best seen " in message and "Loosen a limit or widen the space" in message
    )
    summary = read_json(tmp_path / "run" / "summary.json")
    best = min(point["metrics"]["params"] for point in summary["points"])
    assert f"best seen {best:g}" in message
    assert (summary["status"], summary["message"]) == ("infeasible", message)
    assert told(mine, tmp_path / "run", Infeasible) == message  # and again, at once


# Folders


def test_a_file_where_the_run_s_folder_should_be_is_told(finished_run, tmp_path):
    (tmp_path / "run").write_text("")
    message = told(finished_run.experiment, tmp_path / "run", FolderError)
    assert f"cannot write in {tmp_path / 'run'}" in message and "choose another folder with --out" in message


@contextlib.contextmanager
def mounted(place: Path, *options: str):
    """A file system of its own at `place`; skips where that is not allowed."""
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", *options, "tmpfs", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip(f"mounting is not allowed here: {made.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_read_only_folder_is_told(finished_run, tmp_path):
    with mounted(tmp_path / "disk"):
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "disk")], check=True)
        message = told(finished_run.experiment, tmp_path / "disk" / "run", FolderError)
    assert "Read-only file system" in message and "choose another folder with --out" in message


@pytest.mark.parametrize("reason", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written_is_told(finished_run, tmp_path, reason):
    with mock.patch("pathlib.Path.open", side_effect=OSError(reason, os.strerror(reason))):
        message = told(finished_run.experiment, tmp_path / "run", FolderError)
    assert message.startswith("cannot write in ") and os.strerror(reason) in message


def test_a_full_disk_is_told_and_the_run_goes_on_when_there_is_room(finished_run, tmp_path):
    with mounted(tmp_path / "disk", "-o", "size=500k"):
        folder = tmp_path / "disk" / "run"
        message = told(finished_run.experiment, folder, NasflowError)
        assert "No space left on device" in message
        subprocess.run(["mount", "-o", "remount,size=50m", str(tmp_path / "disk")], check=True)
        summary = tiny.run(finished_run.experiment, folder)
    assert summary["status"] == "done"
    assert summary["trials"] == finished_run.summary["trials"]


@pytest.mark.parametrize(
    "file", ["experiment.yaml", "search.json", "choice.json", "report.html", "summary.json"]
)
def test_whatever_cannot_be_written_is_named(copied, file):
    real = os.fsync

    def fsync(fd):
        if f".{file}." in os.readlink(f"/proc/self/fd/{fd}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd)

    for stage in ("search", "deploy"):
        (copied.folder / "stages" / f"{stage}.json").unlink()
    with mock.patch("os.fsync", fsync):
        message = told(copied.experiment, copied.folder, FolderError)
    assert f"{file}: No space left on device" in message
    assert tiny.run(copied.experiment, copied.folder)["status"] == "done"


# The record


def undo(run, *stages_done):
    for stage in stages_done:
        (run.folder / "stages" / f"{stage}.json").unlink()


def test_a_record_that_is_broken_in_the_middle_says_where_and_how_to_go_on(copied):
    undo(copied, "search", "compress", "retrain", "deploy")
    journal = copied.folder / "study.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    half = len(lines) // 2
    journal.write_bytes(b"".join(lines[:half]) + b"\x00\xff garbage\n" + b"".join(lines[half:]))
    message = told(copied.experiment, copied.folder, RecordError)
    assert f"line {half + 1} is broken" in message and "or start anew with --fresh" in message
    assert read_json(copied.folder / "summary.json")["status"] == "failed"
    keep = int(re.search(r"head -n (\d+)", message)[1])
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:keep]))  # as it was told
    summary = tiny.run(copied.experiment, copied.folder)
    assert summary["status"] == "done"
    assert [p["metrics"].get("error") for p in summary["points"]] == [
        p["metrics"].get("error") for p in copied.summary["points"]
    ]


def test_a_record_whose_last_line_was_cut_off_is_mended(copied):
    undo(copied, "search")
    journal = copied.folder / "study.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 8, "tri')
    assert tiny.run(copied.experiment, copied.folder)["status"] == "done"


def test_a_record_of_another_search_is_not_mixed_with_this_one(copied, tmp_path):
    other = experiment(copied.data, space={**tiny.SETTINGS["space"], "stems": [8, 16]}, search={"trials": 1})
    with opened(other, tmp_path / "other") as run:
        stages.search(run)
    undo(copied, "search")
    shutil.copy(tmp_path / "other" / "study.journal", copied.folder)
    message = told(copied.experiment, copied.folder, RecordError)
    assert "belongs to another search: its space" in message and "--fresh" in message


def test_results_of_another_training_are_not_taken_for_this_one_s(copied):
    undo(copied, "search")
    (copied.folder / "study.journal").unlink()
    for place in (copied.folder / "trials").iterdir():
        said = read_json(place / "training.json")
        (place / "training.json").write_text(json.dumps({**said, "seed": 99}))
    message = told(copied.experiment, copied.folder, NasflowError)
    assert "is of another training: it differs in seed. Delete the folder to train anew" in message


# Two at once


class Holder:
    """Another process that is at work on a run until it is told to stop."""

    def __init__(self, wanted, folder):
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self.process = subprocess.Popen(
            [sys.executable, "-c", elsewhere.PROGRAM],
            stdin=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.process.stdin.write(cloudpickle.dumps(functools.partial(hold, wanted, folder)))
        self.process.stdin.close()
        end = time.monotonic() + 60
        while not (folder / "held").exists() and time.monotonic() < end:
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()


def hold(wanted, folder):
    with opened(wanted, folder):
        (folder / "held").touch()
        time.sleep(60)


def test_a_second_run_on_the_same_folder_refuses_or_waits(copied):
    """Refused, it changes nothing; waiting, it begins when the first has ended, however that ended."""
    with Holder(copied.experiment, copied.folder) as holder:
        before = sorted(copied.folder.rglob("*"))
        message = told(copied.experiment, copied.folder, FolderError)
        assert f"{copied.folder} is in use by process {holder.process.pid}: wait for it to end" in message
        assert "--wait" in message and "another folder with --out" in message
        assert sorted(copied.folder.rglob("*")) == before
        threading.Timer(0.5, holder.process.kill).start()
        start = time.monotonic()
        summary = tiny.run(copied.experiment, copied.folder, wait=True)
        assert time.monotonic() - start > 0.4
    assert summary["status"] == "done"


# Data


@pytest.fixture
def images(tmp_path):
    """Writes images and labels after a change to them."""

    def write(change):
        x, y = tiny.images()
        x, y = change(x.astype(np.float32), y)
        np.savez(tmp_path / "mine.npz", x=x, y=y)
        return experiment(tmp_path / "mine.npz", search={"trials": 1, "epochs": 1})

    return write


def nan(count):
    def change(x, y):
        x[:count, 3, 3] = np.nan
        return x, y

    return change


def test_images_that_are_no_numbers_are_counted_and_left_out(images, tmp_path):
    with opened(images(nan(8)), tmp_path / "run") as run:
        found = stages.define(run)["data"]
    assert found["train"] + found["validation"] == 256 - sum(found["skipped"].values())
    assert 0 < sum(found["skipped"].values()) <= 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (nan(320), "expected usable images, but 256 of 256 are not"),
        (lambda x, y: (x, 0 * y), "expected at least two classes to tell apart, got 1"),
        (lambda x, y: (x[:0], y[:0]), "expected images, got none"),
        (lambda x, y: (x[:, 0, 0], y), "expected .*images"),
        (lambda x, y: (x, y[:-1]), "320.*319|319.*320"),
    ],
)
def test_data_that_cannot_be_used_are_told_before_anything_else(images, tmp_path, change, message):
    said = told(images(change), tmp_path / "run", DataError)
    assert re.search(message, said), said
    summary = read_json(tmp_path / "run" / "summary.json")
    assert summary["status"] == "failed" and summary["message"] == said
    assert summary["stages"]["define"]["status"] == "failed"


def test_data_that_changed_between_two_runs_are_refused_with_both_digests(finished_run, tmp_path):
    data = tiny.write_images(tmp_path / "mine.npz")
    mine = experiment(data, search={"trials": 1, "epochs": 1})
    with opened(mine, tmp_path / "run") as run:
        stages.define(run)
        stages.search(run)
        then = run.data.sha256[:12]
    tiny.write_images(data, seed=1)
    message = told(mine, tmp_path / "run", RunError)
    assert f"the data have changed since this run began (sha256 {then} then, " in message
    assert "Bring the old data back, use --fresh to start anew or --out for another folder" in message


# A model of one's own


MODELS = """
from torch import nn

def nothing(): pass
def module(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
def broken(): raise RuntimeError("my own mistake")
class Lazy(nn.Module):
    def forward(self, x): return x.flatten(1)[:, :4]
"""


@pytest.fixture
def own(tmp_path, monkeypatch, finished_run):
    """The experiment with a model of one's own."""
    (tmp_path / "models_that_fail.py").write_text(MODELS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "models_that_fail", raising=False)
    monkeypatch.setattr(sys, "path", sys.path[:])
    return lambda model, **more: experiment(
        finished_run.data, space=None, limits=None, model={"name": f"models_that_fail.py:{model}", **more}
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "nothing",
            "expected a function that returns a torch.nn.Module, such as my_file.py:function, got a None",
        ),
        ("modul", "no 'modul' in models_that_fail.py: did you mean 'module'?"),
        ("Lazy", "expected a network with parameters to train, Lazy has none"),
    ],
)
def test_a_model_that_is_none_is_told_before_anything_is_trained(own, tmp_path, model, message):
    assert message in told(own(model), tmp_path / "run", NasflowError)
    assert read_json(tmp_path / "run" / "summary.json")["status"] == "failed"


def test_weights_that_are_not_there_or_do_not_fit_are_named(own, tmp_path):
    assert "no weights at weights.pt" in told(
        own("module", weights="weights.pt"), tmp_path / "a", NasflowError
    )
    (tmp_path / "weights.pt").write_text("no weights")
    message = told(own("module", weights="weights.pt"), tmp_path / "b", NasflowError)
    assert message.startswith("weights.pt: expected the state dict of this network")


def test_a_mistake_in_ones_own_code_keeps_its_traceback(own, tmp_path):
    with pytest.raises(RuntimeError, match="my own mistake"):
        tiny.run(own("broken"), tmp_path / "run")
