"""The command line: instant help, one clear message for a mistake, and the right work asked for."""

import functools
import json
import os
import resource
import subprocess
import sys
import types
from pathlib import Path

import pytest

from nasflow import cli
from nasflow.experiment import Experiment, load

SUMMARY = json.loads((Path(__file__).parent / "data" / "summary.json").read_text())
HEAVY = {
    "torch",
    "prefect",
    "mlflow",
    "optuna",
    "sklearn",
    "onnxruntime",
    "onnx",
    "pandas",
    "scipy",
    "plotly",
}
NOT_FOR_HELP = HEAVY | {"numpy", "yaml", "PIL", "nasflow.experiment"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def nasflow(monkeypatch, capsys):
    """Call the command in this process: (exit code, what it printed, what it said on the error output)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["nasflow", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return call


@pytest.fixture
def pipeline(monkeypatch):
    """Stands in for the real pipeline; remembers how it was called and does what it is told to."""
    calls = []

    def run_pipeline(experiment, folder, *, fresh, wait, console):
        calls.append({"experiment": experiment, "folder": folder, "fresh": fresh, "wait": wait})
        if isinstance(stand_in.result, BaseException):
            raise stand_in.result
        return stand_in.result

    stand_in = types.ModuleType("flows.pipeline")
    stand_in.run_pipeline = run_pipeline
    stand_in.result = {**SUMMARY, "experiment": load("digits").model_dump(mode="json")}
    stand_in.calls = calls
    monkeypatch.setitem(sys.modules, "flows", types.ModuleType("flows"))
    monkeypatch.setitem(sys.modules, "flows.pipeline", stand_in)
    return stand_in


def finish(folder, wanted: Experiment, **changes):
    """Leave a finished run in a folder."""
    for deployed in SUMMARY["deployed"]:
        (folder / deployed["file"]).parent.mkdir(parents=True, exist_ok=True)
        (folder / deployed["file"]).write_text("")
    (folder / "report.html").write_text("")
    summary = {**SUMMARY, "experiment": wanted.model_dump(mode="json"), **changes}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "tracking.json").write_text(json.dumps({"key": "k", "behind": False}))


def loaded(*arguments):
    """Run the command in a process of its own: (modules it loaded, seconds of processor time, output)."""
    code = (
        "import sys; from nasflow.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "finally: print('MODULES', *sys.modules)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.check_output([sys.executable, "-c", code, *arguments], text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    text, _, modules = out.rpartition("MODULES")
    return set(modules.split()), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, text


# Fast where nothing is to be done


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["profile", "-h"]])
def test_help_loads_nothing_and_takes_no_time(arguments):
    modules, seconds, text = loaded(*arguments)
    assert not modules & NOT_FOR_HELP
    assert seconds < 1.0  # half a second, on a machine half as fast or busy with other things
    assert text.strip()


def test_a_finished_run_is_shown_in_no_time_without_anything_heavy(folder):
    finish(folder / "runs/digits", load("digits"))
    modules, seconds, text = loaded("run")
    assert not modules & (HEAVY | {"flows"})
    assert seconds < 2.0  # a second, on a machine half as fast or busy with other things
    assert "Ship trial-38-pruned-1" in text and "Finished already; --fresh starts anew" in text


def test_every_command_explains_itself(nasflow):
    for command in (
        "run", "check", "show", "report", "retrain", "compress", "devices", "profile", "up", "down",
    ):  # fmt: skip
        code, out, _ = nasflow(command, "--help")
        assert code == 0 and "Usage:" in out and command in out
        assert command in nasflow("--help")[1]


# run


def test_run_asks_for_the_digits_by_default_in_a_folder_named_after_them(nasflow, pipeline):
    code, out, _ = nasflow("run")
    assert code == 0 and "Ship trial-38-pruned-1" in out
    assert pipeline.calls == [
        {"experiment": load("digits"), "folder": Path("runs/digits"), "fresh": False, "wait": False}
    ]


def test_run_passes_on_every_option(nasflow, pipeline, folder):
    (folder / "mine.yaml").write_text("data: digits\n")
    code, *_ = nasflow(
        "run",
        "mine.yaml",
        "--set",
        "search.trials=5",
        "--set",
        "seed=3",
        "--fresh",
        "--wait",
        "--out",
        "there",
    )
    assert code == 0
    wanted = load("mine.yaml", ["search.trials=5", "seed=3"])
    assert pipeline.calls == [{"experiment": wanted, "folder": Path("there"), "fresh": True, "wait": True}]


@pytest.mark.parametrize(
    "change",
    [
        {"status": "running"},
        {"status": "failed"},
        {"experiment": {}},
        {"deployed": None},
        {"deployed": [{"file": "models/gone/model.onnx"}]},
    ],
)
def test_what_is_not_finished_goes_on(nasflow, pipeline, change):
    finish(Path("runs/digits"), load("digits"), **change)
    assert nasflow("run")[0] == 0
    assert len(pipeline.calls) == 1


def test_other_settings_or_fresh_are_work_to_do(nasflow, pipeline):
    finish(Path("runs/digits"), load("digits"))
    nasflow("run", "--set", "search.trials=99")
    nasflow("run", "--fresh")
    assert [call["fresh"] for call in pipeline.calls] == [False, True]
    nasflow("run")
    assert len(pipeline.calls) == 2


def test_a_run_that_mlflow_lacks_something_of_is_gone_on_with(nasflow, pipeline):
    finish(Path("runs/digits"), load("digits"))
    nasflow("run")
    assert not pipeline.calls
    Path("runs/digits/tracking.json").write_text(json.dumps({"key": "k", "behind": True}))
    nasflow("run")
    assert len(pipeline.calls) == 1


def test_a_torn_summary_counts_as_not_finished(nasflow, pipeline):
    finish(Path("runs/digits"), load("digits"))
    whole = Path("runs/digits/summary.json").read_text()
    Path("runs/digits/summary.json").write_text(whole[: len(whole) // 2])
    nasflow("run")
    assert len(pipeline.calls) == 1


def test_shipping_over_a_limit_is_told_by_the_exit_code(nasflow, pipeline):
    pipeline.result = {**pipeline.result, "status": "infeasible"}
    code, out, _ = nasflow("run")
    assert code == 3 and "no network meets every limit" in out


def test_ctrl_c_says_how_to_go_on(nasflow, pipeline):
    pipeline.result = KeyboardInterrupt()
    code, _, err = nasflow("run")
    assert code == 130 and "run the same command again to go on" in err and "Traceback" not in err


def test_an_error_that_is_nobodys_mistake_keeps_its_traceback(monkeypatch, pipeline):
    pipeline.result = ZeroDivisionError("a bug")
    monkeypatch.setattr(sys, "argv", ["nasflow", "run"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


# Mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "digitts"], "digitts: no such experiment file: did you mean 'digits'"),
        (["run", "--set", "search.trials=many"], "search.trials: expected an integer >= 1, got 'many'"),
        (["run", "--set", "devices=[local-cup]"], "unknown device 'local-cup': did you mean 'local-cpu'"),
        (["run", "--set", "search.strategy=ngsa2"], "unknown strategy 'ngsa2': did you mean 'nsga2'"),
        (["run", "--set", "data=digitz"], "unknown data 'digitz': did you mean 'digits'"),
        (["run", "mnist"], "data.path: expected the folder or file that data idx lies in"),
        (["check", "nothing.yaml"], "nothing.yaml: no such experiment file"),
        (
            ["show", "nowhere"],
            "nowhere: expected the folder of a run, with summary.json in it: known: runs/one",
        ),
        (["show", "oen"], "runs/one"),
        (["report", "nowhere"], "nowhere: expected the folder of a run"),
        (
            ["profile", "local-cpu"],
            "expected either one FILE.onnx to measure or --compare A.onnx B.onnx, or --build METHOD",
        ),
        (["profile", "local-cpu", "gone.onnx"], "gone.onnx: no such file"),
        (["profile", "locl-cpu", "here.onnx"], "unknown device 'locl-cpu': did you mean 'local-cpu'"),
        (["retrain", "--point", "nowhere", "--data", "digits"], "nowhere: expected the folder of a run"),
    ],
)
def test_a_mistake_is_told_in_one_message_with_exit_code_2(nasflow, pipeline, folder, arguments, message):
    finish(Path("runs/one"), load("digits"))
    (folder / "here.onnx").write_text("")
    code, out, err = nasflow(*arguments)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and message in err and "Traceback" not in err
    assert not pipeline.calls


def test_brackets_in_a_message_are_not_taken_for_markup(nasflow):
    assert "'[bold]x'" in nasflow("run", "--set", "search.trials='[bold]x'")[2]


def test_a_message_is_not_broken_where_it_is_to_be_searched_for(nasflow, monkeypatch):
    monkeypatch.setenv("COLUMNS", "30")
    assert "no such experiment file: did you mean 'digits'" in nasflow("run", "digitts")[2]


def test_an_unknown_command_is_answered_with_the_nearest(nasflow):
    code, _, err = nasflow("rum")
    assert code == 2 and "Did you mean 'run'?" in err


# Looking at runs


def test_show_prints_a_run_by_name_or_folder(nasflow):
    finish(Path("runs/digits"), load("digits"))
    by_name, by_folder = nasflow("show", "digits"), nasflow("show", "runs/digits/")
    assert by_name[0] == by_folder[0] == 0
    assert "Ship trial-38-pruned-1" in by_name[1] and by_name[1] == by_folder[1]


def test_show_json_is_the_file_itself(nasflow):
    finish(Path("runs/digits"), load("digits"))
    assert nasflow("show", "digits", "--json")[1] == Path("runs/digits/summary.json").read_text()


def test_show_names_the_mlflow_store_the_run_was_tracked_in(nasflow, folder, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    finish(Path("runs/digits"), load("digits"))
    assert f"mlflow ui --backend-store-uri sqlite:///{folder}/runs/mlflow.db" in nasflow("show", "digits")[1]
    finish(Path("runs/digits"), load("digits", ["mlflow.uri=http://tracker"]))
    assert "mlflow ui --backend-store-uri http://tracker" in nasflow("show", "digits")[1]
    finish(Path("runs/digits"), load("digits"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://other")
    assert "mlflow ui --backend-store-uri http://other" in nasflow("show", "digits")[1]


def test_report_is_written_anew(nasflow):
    finish(Path("runs/digits"), load("digits"))
    code, out, _ = nasflow("report", "digits")
    assert code == 0 and out.strip() == "runs/digits/report.html"
    assert "trial-38-pruned-1" in Path("runs/digits/report.html").read_text()


# Devices


def test_devices_lists_every_profile_and_whether_it_answers(nasflow, monkeypatch):
    from nasflow.hardware import answering, profiles

    patient = functools.partial(answering.answering, within_s=100)  # however busy this machine is
    monkeypatch.setattr(answering, "answering", patient)
    code, out, _ = nasflow("devices")
    assert code == 0 and all(name in out for name in profiles())
    assert "answers" in next(line for line in out.splitlines() if "local-cpu" in line)


def test_one_device_is_shown_with_all_its_facts(nasflow):
    code, out, _ = nasflow("devices", "raspberry-pi-4")
    assert code == 0 and "derived" in out and "described but not connected" in " ".join(out.split())
    assert nasflow("devices", "rasberry-pi-4")[0] == 2


def test_profile_measures_a_file_and_keeps_every_sample(nasflow, folder):
    from nasflow.hardware import Latency
    from nasflow.hardware.device import reference_network

    (folder / "net.onnx").write_bytes(reference_network())
    code, out, _ = nasflow("profile", "local-cpu", "net.onnx", "--json", "out/told.json")
    assert code == 0 and "net.onnx on local-cpu" in out
    written = json.loads((folder / "out/told.json").read_text())
    told = Latency.from_json(written)
    assert told.p50_ms > 0 and f"{len(told.samples_ms):,}" in out
    assert written.keys() >= {"p50_ms", "p90_ms", "interval", "samples", "environment", "verdict"}


def test_profile_compares_two_files(nasflow, folder):
    from nasflow.hardware.device import reference_network

    for name in ("a.onnx", "b.onnx"):
        (folder / name).write_bytes(reference_network())
    code, out, _ = nasflow("profile", "local-cpu", "--compare", "a.onnx", "b.onnx", "--json", "told.json")
    assert code == 0 and "b.onnx" in out and "its time" in out
    names = {"p50_ms", "p90_ms", "interval", "samples", "environment", "verdict", "ratio", "a", "b"}
    assert names <= set(json.loads((folder / "told.json").read_text()))


# Others


def test_check_prints_the_plan_of_the_file_with_its_overrides(nasflow, monkeypatch):
    asked = []
    plan = types.ModuleType("nasflow.plan")

    def stand_in(experiment, folder):
        asked.append((experiment, folder))
        step = types.SimpleNamespace(stage="search", what="7 trainings", seconds=12.0)
        return types.SimpleNamespace(name="digits", steps=(step,), notes=("A note.",), seconds=12.0)

    plan.plan = stand_in
    monkeypatch.setitem(sys.modules, "nasflow.plan", plan)
    monkeypatch.setattr("nasflow.plan", plan, raising=False)
    code, out, _ = nasflow("check", "digits", "--set", "search.trials=7")
    assert code == 0 and "7 trainings" in out and "12.0 s" in out
    assert asked == [(load("digits", ["search.trials=7"]), Path("runs/digits"))]


def test_retrain_runs_an_experiment_with_that_one_point(nasflow, pipeline, folder):
    (folder / "point.yaml").write_text("stage1.width: 16\n")
    code, *_ = nasflow(
        "retrain", "--point", "point.yaml", "--data", "digits", "--set", "retrain.epochs=3", "--out", "there"
    )
    (call,) = pipeline.calls
    assert code == 0 and call["folder"] == Path("there")
    assert call["experiment"].point == {"stage1.width": 16} and call["experiment"].retrain.epochs == 3


def test_up_ends_quietly_with_ctrl_c(nasflow, monkeypatch):
    up = types.ModuleType("flows.up")

    def bring(**asked):
        assert asked["host"] == "127.0.0.1"
        raise KeyboardInterrupt

    up.bring = bring
    flows = types.ModuleType("flows")
    flows.up = up
    monkeypatch.setitem(sys.modules, "flows", flows)
    monkeypatch.setitem(sys.modules, "flows.up", up)
    assert nasflow("up")[0] == 130


def test_a_reader_that_goes_away_is_no_error(folder):
    finish(Path("runs/digits"), load("digits"))
    command = f"{sys.executable} -m nasflow.cli show digits --json"
    shown = subprocess.run(
        f"{command} | head -c 10", shell=True, capture_output=True, text=True, env=os.environ
    )
    assert "Traceback" not in shown.stderr
