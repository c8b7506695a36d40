"""The durable record: everything comes back, whatever a kill left of the file."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import optuna
import pytest

from nasflow import record
from nasflow.record import RecordError, open_record
from nasflow.space import Choice, Real, Space
from nasflow.study import Objective, Proposal, Study, Trial

SPACE = Space((Choice("a", (1, 2, None, "x", "yes")), Choice("b", (0.5, 1.5)), Real("c", 0.0, 1.0)))
TWO = (Objective("error"), Objective("speed", "max", limit=1.0))


def reopened(where: Path | str, space: Space = SPACE, objectives: tuple[Objective, ...] = TWO) -> Study:
    return Study(space, objectives, open_record(where, "it", space, objectives))


def fill(study: Study) -> None:
    """One trial in each state, in two asks."""
    points = [{"a": a, "b": 0.5, "c": 0.1} for a in (1, 2, None, "x", "yes")]
    first = study.add([Proposal(point) for point in points[:3]], 4)
    study.finish(
        replace(first[0], state="done", metrics={"error": 0.1, "speed": 2.0, "more": 3}, seconds=1.25)
    )
    study.finish(replace(first[1], state="failed", metrics={"speed": 2.0}, error="ValueError: é\nmore"))
    study.finish(
        replace(first[2], state="refused", metrics={"speed": 0.5}, error="speed 0.5 is under its limit 1")
    )
    second = study.add([Proposal(points[3], 0.5, parent=0), Proposal(points[4])], 2)
    study.finish(
        replace(second[0], state="duplicate", metrics={"error": 0.1, "speed": 2.0}, error="the same")
    )
    study.note(second[1].number, {"speed": 4.0})


@pytest.fixture(params=["journal", "sqlite"])
def where(request, tmp_path):
    return tmp_path / "study.journal" if request.param == "journal" else f"sqlite:///{tmp_path}/study.db"


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning"
)  # Optuna leaves its database connection to the collector
def test_everything_comes_back(where):
    study = reopened(where)
    fill(study)
    again = reopened(where)
    assert again.trials == study.trials
    assert again.asks == study.asks
    assert again.counts == study.counts and again.front == study.front
    assert [type(value) for value in again.trials[0].point.values()] == [int, float, float]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_reopened_study_goes_on(where):
    fill(reopened(where))
    study = reopened(where)
    (pending,) = study.pending
    study.finish(replace(pending, state="done", metrics={"error": 0.3, "speed": 4.0}))
    (new,) = study.add([Proposal({"a": 1, "b": 1.5, "c": 1.0})], 1)
    assert new.number == 5
    assert reopened(where).trials == study.trials


def test_other_tools_of_optuna_read_it(tmp_path):
    fill(reopened(tmp_path / "study.journal"))
    storage = record.JournalStorage(record.JournalFileBackend(str(tmp_path / "study.journal")))
    study = optuna.load_study(study_name="it", storage=storage)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "FAIL", "PRUNED", "PRUNED", "RUNNING"]
    assert study.best_trials[0].values == [0.1, 2.0]
    assert [direction.name for direction in study.directions] == ["MINIMIZE", "MAXIMIZE"]
    assert study.metric_names == ["error", "speed"]
    assert study.best_trials[0].params == {"a": 1, "b": 0.5, "c": 0.1}


@pytest.mark.parametrize("objectives", [TWO[:1], (*TWO, Objective("size", limit=3.0, optimise=False))])
def test_one_objective_or_one_that_only_limits(tmp_path, objectives):
    study = reopened(tmp_path / "j", objectives=objectives)
    (trial,) = study.add([Proposal({"a": 1, "b": 0.5, "c": 0.1})], 1)
    study.finish(replace(trial, state="done", metrics={"error": 0.5, "speed": 3.0, "size": 1.0}))
    assert reopened(tmp_path / "j", objectives=objectives).front == study.trials


def test_a_torn_end_loses_at_most_what_was_being_written(tmp_path):
    """The last record, cut after every one of its bytes: never an error, never a half trial."""
    whole = tmp_path / "study.journal"
    study = reopened(whole)
    (trial,) = study.add([Proposal({"a": 1, "b": 0.5, "c": 0.25})], 1)
    before = len(whole.read_bytes())
    done = study.finish(replace(trial, state="done", metrics={"error": 0.1, "speed": 2.0}))
    content = whole.read_bytes()
    lines = [at for at in range(before, len(content) + 1) if content[at - 1 : at] == b"\n"]
    assert len(lines) == 3, "the proposal's end, the outcome, the state"
    for at in range(before, len(content) + 1):
        torn = tmp_path / "torn"
        torn.write_bytes(content[:at])
        again = reopened(torn)
        assert again.trials == ([done] if at == len(content) else [trial]), f"cut after byte {at}"
        if at % 20 == 0:  # it is not only readable but writable again
            again.add([Proposal({"a": 2, "b": 0.5, "c": 0.5})], 1)
            assert reopened(torn).trials == again.trials


def test_a_first_write_torn_at_any_byte_starts_anew(tmp_path):
    whole = tmp_path / "study.journal"
    reopened(whole)
    content = whole.read_bytes()
    for at in range(0, len(content) + 1, 13):
        torn = tmp_path / "torn"
        torn.write_bytes(content[:at])
        fill(reopened(torn))
        assert len(reopened(torn).trials) == 5


def test_an_outcome_without_its_state_does_not_count(tmp_path):
    """A kill between the two: what was noted stays, what was trained is trained again."""
    path = tmp_path / "study.journal"
    study = reopened(path)
    study.add([Proposal({"a": 1, "b": 0.5, "c": 0.25})], 1)
    noted = study.note(0, {"speed": 2.0})
    study.finish(replace(noted, state="done", metrics={"error": 0.9, "speed": 2.0}))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert reopened(path).trials == [noted]


@pytest.mark.parametrize("kind", ["symlink", "file", "renamed"])
def test_the_lock_of_a_dead_holder_costs_no_time(tmp_path, kind):
    path = tmp_path / "study.journal"
    fill(reopened(path))
    lock = tmp_path / ("study.journal.lock" + ("0f3a.rename" if kind == "renamed" else ""))
    if kind == "symlink":
        lock.symlink_to(path)
    else:
        lock.touch()
    (tmp_path / "study.journal.lockers").mkdir()  # no business of ours
    assert len(reopened(path).trials) == 5
    assert not lock.is_symlink() and not lock.exists()


@pytest.mark.parametrize("line", [b"{broken", b"\x00\x00\x00", b"5", b"{}", b'"text"', b""])
def test_a_broken_line_in_the_middle_is_named_and_nothing_is_changed(tmp_path, line):
    path = tmp_path / "study.journal"
    fill(reopened(path))
    lines = path.read_bytes().splitlines()
    broken = b"\n".join([*lines[:4], line, *lines[4:]]) + b"\n"
    path.write_bytes(broken)
    with pytest.raises(
        RecordError, match=r"study\.journal: line 5 is broken .* the 4 lines before it are intact"
    ):
        reopened(path)
    assert path.read_bytes() == broken


def test_the_advice_about_a_broken_line_works(tmp_path):
    path = tmp_path / "study.journal"
    fill(reopened(path))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:6], b"{broken\n", *lines[6:]]))
    with pytest.raises(RecordError) as error:
        reopened(path)
    count = str(error.value).split("head -n ")[1].split(")")[0]
    head = subprocess.run(["head", "-n", count, str(path)], capture_output=True, check=True).stdout
    path.write_bytes(head)
    assert len(reopened(path).trials) == 3


@pytest.mark.parametrize(
    ("space", "objectives", "part"),
    [
        (Space((Choice("a", (1, 2)),)), TWO, "space"),
        (SPACE, (Objective("error"), Objective("speed", "max", limit=2.0)), "objectives"),
        (SPACE, TWO[:1], "objectives"),
        (Space((Choice("a", (1, 2)),)), TWO[:1], "space and objectives"),
    ],
)
def test_the_record_of_another_search_is_refused(tmp_path, space, objectives, part):
    path = tmp_path / "study.journal"
    fill(reopened(path))
    with pytest.raises(RecordError, match=f"'it' belongs to another search: its {part} differ.* Use --fresh"):
        reopened(path, space, objectives)
    assert len(reopened(path).trials) == 5


def test_two_studies_share_a_storage(tmp_path):
    other = Space((Choice("z", (1, 2)),))
    fill(reopened(tmp_path / "j"))
    Study(other, TWO, open_record(tmp_path / "j", "other", other, TWO)).add([Proposal({"z": 1})], 1)
    assert len(reopened(tmp_path / "j").trials) == 5


def test_trials_that_are_not_ours_are_refused(tmp_path):
    reopened(tmp_path / "j")
    storage = record.JournalStorage(record.JournalFileBackend(str(tmp_path / "j")))
    optuna.load_study(study_name="it", storage=storage).ask()
    with pytest.raises(RecordError, match="trial 0 in the record was not written by nasflow"):
        reopened(tmp_path / "j")


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("nonsense", "cannot open the record nonsense: .* Expected the URL of a database"),
        ("sqlite:////nowhere/at/all.db", "cannot open the record sqlite:////nowhere/at/all.db"),
        (
            "postgresql://me:secret@localhost:1/x",
            r"cannot open the record postgresql://me:\*\*\*@localhost:1/x",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_database_that_cannot_be_opened_is_a_clear_error_without_its_password(url, complaint):
    with pytest.raises(RecordError, match=complaint) as error:
        reopened(url)
    assert "secret" not in str(error.value)


def test_a_folder_in_the_place_of_the_journal_is_a_clear_error(tmp_path):
    with pytest.raises(
        RecordError, match=r"cannot open the record .*: Is a directory; choose another folder"
    ):
        reopened(tmp_path)


def test_a_full_disk_is_a_clear_error_and_costs_only_what_was_being_written(tmp_path, monkeypatch):
    path = tmp_path / "study.journal"
    study = reopened(path)
    fill(study)
    before = list(study.trials)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            RecordError, match=r"cannot be written: .*No space left on device.* run again to go on"
        ):
            study.finish(replace(study.pending[0], state="done", metrics={"error": 0.1, "speed": 2.0}))
    assert study.trials == before, "the study says nothing that the record does not"
    assert reopened(path).trials == before


def test_what_one_trial_writes_is_little(tmp_path):
    """Three syncs for a trial: proposed, outcome, state. Each costs up to 10 ms on a slow disk."""
    study = reopened(tmp_path / "j")
    syncs, sync = [], os.fsync
    try:
        os.fsync = lambda file: (syncs.append(file), sync(file))
        (trial,) = study.add([Proposal({"a": 1, "b": 0.5, "c": 0.25})], 1)
        study.finish(replace(trial, state="done", metrics={"error": 0.1, "speed": 2.0}))
    finally:
        os.fsync = sync
    assert len(syncs) == 3


def test_mending_leaves_a_sound_journal_alone(tmp_path):
    path = tmp_path / "study.journal"
    fill(reopened(path))
    shutil.copy(path, tmp_path / "copy")
    record.mend(path)
    assert path.read_bytes() == (tmp_path / "copy").read_bytes()
    record.mend(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_opening_a_record_says_nothing(tmp_path):
    code = (
        "import sys, pathlib, warnings; warnings.simplefilter('error'); "
        "from nasflow.record import open_record; from nasflow.space import *; from nasflow.study import *; "
        "open_record(pathlib.Path(sys.argv[1]), 'it', Space((Choice('a', (1, 2)),)), [Objective('x')])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "j")], capture_output=True, text=True, check=True
    )
    assert ran.stdout == ran.stderr == ""


def test_a_pending_trial_is_what_it_was_proposed_as(tmp_path):
    study = reopened(tmp_path / "j")
    study.add([Proposal({"a": None, "b": 1.5, "c": 0.75}, fidelity=0.25, parent=0)], 1)
    expected = Trial(0, {"a": None, "b": 1.5, "c": 0.75}, fidelity=0.25, parent=0)
    assert reopened(tmp_path / "j").trials == [expected]


def test_a_record_is_read_while_its_search_goes_on(tmp_path):
    journal = tmp_path / "study.journal"
    study = reopened(journal)
    fill(study)
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "half')  # what a writer is just writing
    before = journal.read_bytes()
    assert record.read(journal) == study.trials
    assert journal.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == [journal.name]


@pytest.mark.parametrize("content", ["none\n{}\n", '{"op_code": 4}\n{}\n'])
def test_what_is_no_record_is_told_when_it_is_read(tmp_path, content):
    (tmp_path / "study.journal").write_text(content)
    with pytest.raises(RecordError, match=r"study\.journal: expected the record of a search"):
        record.read(tmp_path / "study.journal")
