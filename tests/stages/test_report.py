"""The last stage: a page that is there, says what ships, and is made anew whenever it is asked for."""

import tiny
from tiny import experiment, opened

from nasflow import stages
from nasflow.files import read_json


def test_the_page_says_what_ships(finished_run):
    page = (finished_run.folder / "report.html").read_text()
    assert finished_run.summary["choice"]["name"] in page
    assert "<html" in page
    assert finished_run.summary["stages"]["report"]["status"] == "done"


def test_it_is_made_anew_since_the_summary_may_have_grown(copied):
    (copied.folder / "report.html").write_text("old")
    with opened(copied.experiment, copied.folder) as run:
        stages.report(run)
    assert copied.summary["choice"]["name"] in (copied.folder / "report.html").read_text()


def test_it_reports_on_a_run_that_is_not_done(finished_run, tmp_path):
    with opened(experiment(finished_run.data, search={"trials": 1, "epochs": 1}), tmp_path / "run") as run:
        stages.report(run)
        stages.define(run), stages.search(run)
        stages.report(run)
    assert "<html" in (tmp_path / "run" / "report.html").read_text()
    assert read_json(tmp_path / "run" / "summary.json")["status"] == "running"


def test_a_page_that_was_deleted_comes_back_with_the_next_run(copied):
    (copied.folder / "report.html").unlink()
    tiny.run(copied.experiment, copied.folder)
    assert (copied.folder / "report.html").exists()
