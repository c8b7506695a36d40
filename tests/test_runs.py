"""Run folders seen from outside."""

import json

import pytest

from nasflow.errors import NasflowError
from nasflow.runs import NoRun, find, summary


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/one", "runs/two", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "summary.json").write_text(json.dumps({"run": name}))
    (tmp_path / "runs/three").mkdir()
    return tmp_path


def test_a_run_is_found_by_its_folder_or_its_name_under_runs(folder):
    assert summary(find("one")) == summary(find("runs/one")) == summary(find(str(folder / "runs/one")))
    assert summary(find("elsewhere")) == {"run": "elsewhere"}


def test_a_folder_without_a_summary_is_no_run_and_the_others_are_named():
    with pytest.raises(NoRun, match=r"three: expected the folder of a run, .*runs/one, runs/two"):
        find("three")


@pytest.mark.parametrize("content", ["{", "[1]", "", "\x00"])
def test_a_summary_that_is_none_is_told_clearly(folder, content):
    (folder / "runs/one/summary.json").write_text(content)
    with pytest.raises(NasflowError, match=r"summary\.json: expected"):
        summary(find("one"))
