"""A run's folder: what is done is done once, what changed is done again, and nothing is mixed."""

import shutil
from pathlib import Path
from unittest import mock

import pytest
import tiny
from tiny import Finished, experiment, opened

from nasflow import stages
from nasflow.errors import NasflowError
from nasflow.experiment import load as load_experiment
from nasflow.files import FolderError, read_json
from nasflow.stages import STAGES, RunError, open_run
from nasflow.stages.run import Infeasible, cores
from nasflow.training import train


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below `folder` with what changes if it is written again."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_ino)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def never(*_: object, **__: object) -> None:
    raise AssertionError("this was done before, and should not be done again")


def redone(run: Finished, **changes: object) -> set[str]:
    """The stages that are carried out again if the experiment changes so."""
    before = files(run.folder / "stages")
    tiny.run(experiment(run.data, **changes), run.folder)
    after = files(run.folder / "stages")
    return {Path(name).stem for name in after if after[name] != before.get(name)}


# What is done is done once


def test_a_finished_run_is_not_done_again(copied):
    before = files(copied.folder)
    with (
        mock.patch("nasflow.evaluators.accuracy.train", never),
        mock.patch("nasflow.data.load_test", never),
        mock.patch("torch.onnx.export", never),
    ):
        again = tiny.run(copied.experiment, copied.folder, cost=never)
    changed = {name for name, said in files(copied.folder).items() if said != before.get(name)}
    rewritten = {"experiment.yaml", "lock", "stages/report.json", "report.html", "summary.json"}
    assert changed <= {*rewritten, "study.journal"}  # where Optuna notes each opening
    assert {**again, "folder": None, "stages": None, "seconds": None} == {
        **copied.summary,
        "folder": None,
        "stages": None,
        "seconds": None,
    }


def test_the_watch_on_training_sees_it_where_there_is_some(finished_run, tmp_path):
    with (
        mock.patch("nasflow.evaluators.accuracy.train", mock.Mock(side_effect=train)) as trained,
        opened(finished_run.experiment, tmp_path / "new") as run,
    ):
        stages.search(run)
    assert trained.call_count == 5


def test_a_folder_that_was_moved_or_copied_is_still_the_run(copied, monkeypatch):
    shutil.move(copied.folder, copied.folder.with_name("moved"))
    monkeypatch.chdir(copied.folder.parent)  # and is named otherwise
    again = tiny.run(experiment(copied.data, retrain={"epochs": 2}), Path("moved"))
    assert again["status"] == "done"
    assert not copied.folder.exists()


def test_a_run_half_done_goes_on_where_it_was_moved_to(copied, tmp_path):
    shutil.rmtree(copied.folder / "retrain")
    for stage in ("retrain", "deploy"):
        (copied.folder / "stages" / f"{stage}.json").unlink()
    copied.folder.rename(tmp_path / "there")
    with mock.patch("nasflow.stages.search.search_loop", never):
        there = tiny.run(copied.experiment, tmp_path / "there")
    assert there["choice"] == copied.summary["choice"]


def test_what_the_run_does_is_on_disk_as_an_experiment_file(finished_run):
    assert load_experiment(finished_run.folder / "experiment.yaml") == finished_run.experiment


# What changed is done again


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"retrain": {"epochs": 2}}, {"retrain", "deploy", "report"}),
        ({"deploy": {"ship": "best error"}}, {"deploy", "report"}),
        ({"compress": {"int8": False}}, {"compress", "retrain", "deploy", "report"}),
    ],
)
def test_a_changed_stage_and_those_after_it_are_done_again_and_no_other(copied, changes, expected):
    with mock.patch("nasflow.stages.search.search_loop", never):
        assert redone(copied, **changes) == expected


def test_changing_back_finds_the_trainings_that_were_made_before(copied):
    redone(copied, retrain={"epochs": 2})
    with mock.patch("nasflow.evaluators.accuracy.train", never):
        assert redone(copied) == {"retrain", "deploy", "report"}
    summary = read_json(copied.folder / "summary.json")
    assert summary["retrained"] == copied.summary["retrained"]
    assert [one["sha256"] for one in summary["deployed"]] == [
        one["sha256"] for one in copied.summary["deployed"]
    ]


def test_more_trials_go_on_with_the_search(copied):
    before = files(copied.folder / "trials")
    with (
        mock.patch("nasflow.evaluators.accuracy.train", mock.Mock(side_effect=train)) as trained,
        opened(experiment(copied.data, search={"trials": 7}), copied.folder) as run,
    ):
        stages.search(run)
        assert run.study().spent == 7
    assert trained.call_count == 2
    after = files(copied.folder / "trials")
    assert {name: after[name] for name in before} == before


def test_fewer_trials_keep_those_there_are(copied):
    with opened(experiment(copied.data, search={"trials": 3}), copied.folder) as run:
        stages.search(run)
        assert run.study().spent == 5


@pytest.mark.parametrize(
    ("changes", "section"),
    [
        ({"search": {"epochs": 1}}, "search"),
        ({"search": {"strategy": "random"}}, "search"),
        ({"seed": 1}, "seed"),
        ({"limits": {"flops": 1e5}}, "limits"),
        ({"objectives": ["error"]}, "objectives"),
        ({"space": "mobile"}, "space"),
    ],
)
def test_a_search_is_not_continued_with_other_settings(copied, changes, section):
    before = files(copied.folder)
    with pytest.raises(
        RunError, match=f"other settings for {section}. Use --fresh .* or --out .* It had {section}"
    ):
        tiny.run(experiment(copied.data, **changes), copied.folder)
    changed = {name for name, said in files(copied.folder).items() if said != before.get(name)}
    assert changed <= {"lock"}


def test_where_it_runs_and_what_it_is_called_is_no_part_of_a_search(copied):
    moved = experiment(
        copied.data, name="other", search={"workers": 2, "memory_mb": 4096, "deadline_s": 60.0}
    )
    with mock.patch("nasflow.stages.search.search_loop", never), opened(moved, copied.folder) as run:
        stages.search(run)
        front = [trial.number for trial in run.study().front]
    assert sorted(front) == sorted(one["trial"] for one in copied.summary["front"])
    assert redone(copied, name="other", search={"workers": 2, "memory_mb": 4096}) == {"report"}


def test_settings_of_a_stage_are_in_its_key_and_in_those_of_later_ones(finished_run, tmp_path):
    def keys(**changes):
        run = stages.Run(experiment(finished_run.data, **changes), tmp_path)
        return [run.key(stage) for stage in STAGES]

    plain = keys()
    for stage, changes in {
        "define": {"seed": 3},
        "search": {"search": {"epochs": 1}},
        "compress": {"compress": {"round_to": 4}},
        "retrain": {"retrain": {"seeds": 1}},
        "deploy": {"deploy": {"max_difference": 0.5}},
    }.items():
        at = STAGES.index(stage)
        changed = [a != b for a, b in zip(plain, keys(**changes), strict=True)]
        assert changed == [False] * at + [True] * (len(STAGES) - at), stage


# Nothing is mixed


def test_data_that_changed_are_refused(copied, tmp_path):
    mine = experiment(tiny.write_images(tmp_path / "mine.npz"))
    with opened(mine, tmp_path / "run") as run:
        stages.define(run)
    tiny.write_images(tmp_path / "mine.npz", seed=1)
    with (
        opened(mine, tmp_path / "run") as run,
        pytest.raises(RunError, match=r"the data have changed .*\(sha256 \w{12} then, \w{12} now\)\. Bring"),
    ):
        stages.search(run)


def test_a_finished_run_whose_data_changed_for_a_while_is_finished_still(finished_run, tmp_path):
    data = tiny.write_images(tmp_path / "mine.npz")
    mine = experiment(data, compress={"enabled": False}, retrain={"networks": 1, "epochs": 1, "seeds": 1})
    assert tiny.run(mine, tmp_path / "run")["status"] == "done"
    tiny.write_images(data, seed=1)
    with pytest.raises(RunError, match="the data have changed"):
        tiny.run(mine, tmp_path / "run")
    tiny.write_images(data)
    assert tiny.run(mine, tmp_path / "run")["status"] == "done"


def test_a_stage_whose_ground_is_missing_names_the_one_that_comes_first(finished_run, tmp_path):
    with (
        opened(finished_run.experiment, tmp_path / "new") as run,
        pytest.raises(RunError, match="retrain comes first; run the whole pipeline, or nasflow retrain"),
    ):
        stages.deploy(run)


def test_fresh_forgets_everything(copied):
    with opened(experiment(copied.data, seed=5), copied.folder, fresh=True) as run:
        assert {path.name for path in run.folder.iterdir()} == {"lock", "stages", "experiment.yaml"}
        assert [path.name for path in (run.folder / "stages").iterdir()] == ["begun.json"]


def test_emptying_a_folder_that_was_cut_short_is_finished_by_the_next_run(copied):
    removed = []

    def rmtree(path: Path) -> None:
        removed.append(path.name)
        if len(removed) == 2:
            raise KeyboardInterrupt
        real(path)

    real = shutil.rmtree
    with (
        mock.patch("shutil.rmtree", rmtree),
        pytest.raises(KeyboardInterrupt),
        opened(copied.experiment, copied.folder, fresh=True),
    ):
        pass
    with opened(copied.experiment, copied.folder) as run:
        assert {path.name for path in run.folder.iterdir()} == {"lock", "stages", "experiment.yaml"}


def test_only_a_run_s_folder_is_emptied(finished_run, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(RunError, match=r"holds no run: thesis\.tex\. Choose another folder with --out"),
        opened(finished_run.experiment, tmp_path, fresh=True),
    ):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_fresh_in_a_new_folder_is_no_mistake(finished_run, tmp_path):
    with opened(finished_run.experiment, tmp_path / "new", fresh=True) as run:
        assert run.folder.is_dir()


def test_what_a_killed_run_left_half_written_is_swept_away(copied):
    left = copied.folder / "trials" / "00001" / ".weights.pt.abc.part"
    left.write_bytes(b"half")
    with opened(copied.experiment, copied.folder):
        assert not left.exists()


# How a stage is carried out


def test_progress_is_told_from_the_beginning_to_the_end_of_every_stage(finished_run):
    for stage in STAGES:
        told = [event for event in finished_run.told if event[0] == stage]
        assert told[0][1] == 0 and told[-1][1] == told[-1][2]
        assert all(0 <= done <= total for _, done, total, _ in told)
        assert told[-1][3] == finished_run.summary["stages"][stage]["message"]
    order = list(dict.fromkeys(event[0] for event in finished_run.told))
    assert tuple(order) == STAGES


@pytest.mark.parametrize(("error", "infeasible"), [(Infeasible("no"), True), (NasflowError("no"), False)])
def test_a_stage_that_fails_leaves_its_reason_until_it_works(finished_run, tmp_path, error, infeasible):
    def fail():
        raise error

    with opened(finished_run.experiment, tmp_path / "new") as run:
        with pytest.raises(type(error)):
            run.carry_out("define", fail)
        assert read_json(run.folder / "failure.json") == {
            "stage": "define",
            "message": "no",
            "infeasible": infeasible,
        }
        assert run.done("define") is None
        run.carry_out("define", lambda: {"message": "yes"})
        assert not (run.folder / "failure.json").exists()
        assert run.done("define")["message"] == "yes"


def test_a_stage_with_a_broken_result_says_which_file_to_delete(copied):
    (copied.folder / "stages" / "search.json").write_text('{"key": ')
    with pytest.raises(
        FolderError, match=r"stages/search\.json: expected JSON.* delete the file or use --fresh"
    ):
        tiny.run(copied.experiment, copied.folder)


def test_workers_take_all_cores_and_share_the_memory(finished_run, tmp_path):
    auto = stages.Run(experiment(finished_run.data, search={"workers": "auto"}), tmp_path)
    one = stages.Run(experiment(finished_run.data, search={"workers": 1}), tmp_path)
    assert auto.workers == cores() >= 1
    assert one.workers == 1 and one.memory_mb >= auto.memory_mb > 0
    asked = stages.Run(experiment(finished_run.data, search={"memory_mb": 100}), tmp_path)
    assert asked.memory_mb == 100
    assert asked.objectives[-1].limit == 100


def test_only_one_process_holds_a_run(finished_run, tmp_path):
    with (
        opened(finished_run.experiment, tmp_path / "new"),
        pytest.raises(FolderError, match="in use by process"),
        open_run(finished_run.experiment, tmp_path / "new"),
    ):
        pass
