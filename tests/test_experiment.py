"""Experiment files: right ones are read whole and written back, wrong ones are told what to mend."""

import doctest
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nasflow import experiment as module
from nasflow.data import DataSettings
from nasflow.experiment import (
    METRICS,
    Experiment,
    Named,
    RecipeSettings,
    differences,
    dump,
    find,
    load,
    objectives,
    recipe_settings,
    shipped,
)
from nasflow.study import Objective
from nasflow.yamlfile import FileError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(text: str, *overrides: str) -> Experiment:
    Path("one.yaml").write_text(text)
    return load("one.yaml", overrides)


def mistake(text: str, *overrides: str) -> str:
    with pytest.raises(FileError) as error:
        read(text, *overrides)
    return str(error.value)


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(module).failed == 0


def test_a_data_set_is_all_an_experiment_needs_to_say():
    found = read("data: digits\n")
    assert found == Experiment(name="one", data=DataSettings(name="digits"), space=("mobile",))
    assert found.search.strategy == Named(name="auto")
    assert [o.metric for o in objectives(found)] == ["error", "latency_ms@local-cpu", "flops"]


def test_a_section_with_every_line_commented_out_counts_as_left_out():
    assert read("data: digits\nsearch:\n#  trials: 3\nname:\n") == read("data: digits")


@pytest.mark.parametrize("name", ["digits", "mnist"])
def test_shipped_experiments_are_found_by_name_from_any_folder(name, folder):
    overrides = ["data.path=somewhere"] if name == "mnist" else []
    found = load(name, overrides)
    assert found.name == name and set(shipped()) >= {"digits", "mnist"}
    assert find(name) == shipped()[name]
    (folder / name).write_text("data: digits\nseed: 77\n")
    assert load(name).seed == 77, "a file of one's own comes before a shipped one of that name"


@pytest.mark.parametrize("name", shipped())
def test_every_shipped_experiment_is_whole(name):
    found = load(name, ["data.path=somewhere"] if "name: idx" in find(name).read_text() else [])
    assert found.name == name and objectives(found)


def test_the_first_files_a_newcomer_reads_say_what_every_line_is_for():
    for file in (find("digits"), find("mnist")):
        lines = [line for line in file.read_text().splitlines() if line.strip() and not line.startswith("#")]
        bare = [line for line in lines if "#" not in line and not line.rstrip().endswith(":")]
        assert not bare, f"{file}: no comment beside {bare}"


scalars = st.one_of(st.booleans(), st.integers(-9, 9), st.floats(-1e6, 1e6), st.text("ab*: #1-", max_size=6))
named = st.builds(
    Named,
    name=st.sampled_from(["nsga2", "tpe", "my_module:thing", "my.py:thing"]),
    arguments=st.dictionaries(st.sampled_from(["a", "b"]), st.one_of(scalars, st.lists(scalars, max_size=2))),
)
experiments = st.builds(
    lambda **parts: Experiment.model_validate({"name": "any", "data": "digits", **parts}),
    space=st.sampled_from(
        ["mobile", "mobile*training", [{"name": "mobile", "widths": [[8]]}, "training"], "my:s"]
    ),
    devices=st.sampled_from([["local-cpu"], ["pixel6", "boards/my.yaml"]]),
    objectives=st.sampled_from(
        [
            ["error"],
            ["error", "latency_ms"],
            [{"metric": "flops", "limit": 2e6}, {"metric": "error", "goal": "min"}],
            ["error", "compute_intensity", {"metric": "energy_mj", "limit": 3.0}, "throughput_per_s"],
        ]
    ),
    limits=st.dictionaries(st.sampled_from(["params", "size_kb"]), st.floats(1e-9, 1e12)),
    seed=st.integers(0, 2**40),
    point=st.one_of(st.none(), st.dictionaries(st.text("ab.1", min_size=1), scalars)),
    search=st.fixed_dictionaries(
        {},
        optional={
            "strategy": named,
            "trials": st.integers(1, 10**6),
            "workers": st.one_of(st.just("auto"), st.integers(1, 64)),
            "deadline_s": st.floats(1e-3, 1e6),
            "recipe": st.fixed_dictionaries({}, optional={"learning_rate": st.floats(1e-9, 1)}),
        },
    ),
    compress=st.fixed_dictionaries(
        {},
        optional={
            "pick": st.sampled_from(["knee", "best", "front", [0], [3, 12]]),
            "keep": st.lists(st.floats(0.01, 1), min_size=1, max_size=3),
            "int8": st.booleans(),
            "protect": st.lists(st.sampled_from(["head", "stage1.*"]), max_size=2),
        },
    ),
    deploy=st.fixed_dictionaries(
        {
            "ship": st.one_of(
                st.sampled_from(["knee", "best error"]),
                st.builds("fastest within {} points".format, st.integers(0, 100)),
            )
        }
    ),
)


@given(experiments)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_back_equal(experiment):
    text = dump(experiment)
    Path("again.yaml").write_text(text)
    assert load("again.yaml") == experiment
    assert dump(load("again.yaml")) == text
    assert Experiment.model_validate_json(experiment.model_dump_json()) == experiment


def test_numbers_may_be_written_with_an_exponent_alone():
    found = read("data: digits\nlimits: {flops: 2e6}\nsearch: {recipe: {learning_rate: 1e-3}}")
    assert found.limits == {"flops": 2e6} and found.search.recipe.learning_rate == 1e-3


def test_overrides_reach_every_depth_and_win_over_the_file():
    found = read(
        "data: digits\nsearch: {trials: 3}\n",
        "search.trials=50",
        "search.recipe.learning_rate=1e-2",
        "compress.pick=[3, 4]",
        "search.strategy={name: tpe, multivariate: true}",
        "limits.latency_ms@local-cpu=5",
        "model=",
    )
    assert found.search.trials == 50 and found.search.recipe.learning_rate == 0.01
    assert found.compress.pick == (3, 4) and found.limits == {"latency_ms@local-cpu": 5.0}
    assert found.search.strategy == Named(name="tpe", arguments={"multivariate": True})
    assert read("data: digits", "search.trials=5", "search.trials=6").search.trials == 6


def test_nothing_changes_after_reading():
    found = read("data: digits")
    with pytest.raises(ValidationError):
        found.seed = 3
    with pytest.raises(ValidationError):
        found.search.trials = 3


# Objectives and limits


def test_latency_stands_for_one_objective_on_each_device():
    found = read(
        "data: digits\ndevices: [pixel6, boards/jetson.yaml]\nobjectives: [error, latency_ms]\n"
        "limits: {latency_ms@jetson: 5, params: 1e5, error: 0.1}"
    )
    assert objectives(found) == (
        Objective("error", limit=0.1),
        Objective("latency_ms@pixel6"),
        Objective("latency_ms@jetson", limit=5.0),
        Objective("params", limit=1e5, optimise=False),
    )


def test_a_limit_in_the_objective_is_the_same_as_one_under_limits():
    short = read("data: digits\nobjectives: [error, flops]\nlimits: {flops: 2e6}")
    long = read("data: digits\nobjectives: [error, {metric: flops, limit: 2e6}]")
    assert objectives(short) == objectives(long)


@pytest.mark.parametrize("metric", sorted(METRICS))
def test_every_metric_can_be_minimised_or_limited(metric):
    other = "flops" if metric == "error" else "error"
    assert len(objectives(read(f"data: digits\nobjectives: [{metric}, {other}]"))) == 2
    assert any(o.limit == 0.5 for o in objectives(read(f"data: digits\nlimits: {{{metric}: 0.5}}")))


@pytest.mark.parametrize("metric", ["energy_mj", "latency_ms", "throughput_per_s"])
def test_what_is_measured_is_a_metric_of_each_device(metric):
    found = read(f"data: digits\ndevices: [a, b]\nobjectives: [error, {metric}]\nlimits: {{{metric}@b: 7}}")
    assert [(o.metric, o.limit) for o in objectives(found)] == [
        ("error", None),
        (f"{metric}@a", None),
        (f"{metric}@b", 7.0),
    ]


def test_where_more_is_better_a_limit_is_the_least_that_is_allowed():
    asked = "objectives: [error, throughput_per_s]\nlimits: {compute_intensity: 4, throughput_per_s@local-cpu: 90}"
    assert objectives(read(f"data: digits\n{asked}")) == (
        Objective("error"),
        Objective("throughput_per_s@local-cpu", "max", limit=90.0),
        Objective("compute_intensity", "max", limit=4.0, optimise=False),
    )
    within, beyond = {"compute_intensity": 4.0}, {"compute_intensity": 3.0}
    limit = objectives(read(f"data: digits\n{asked}"))[2]
    assert limit.violation(within) == 0 and limit.violation(beyond) == 0.25
    turned = read("data: digits\nobjectives: [error, {metric: throughput_per_s, goal: min, limit: 5}]")
    assert objectives(turned)[1] == Objective("throughput_per_s@local-cpu", "min", limit=5.0)


def test_an_objective_of_which_more_is_better_says_so_when_it_is_written_back():
    found = read("data: digits\nobjectives: [error, compute_intensity, flops]")
    written = [o.model_dump() for o in found.objectives]
    assert written == ["error", {"metric": "compute_intensity", "goal": "max", "limit": None}, "flops"]


# Recipes


def test_a_stage_trains_like_the_search_but_where_it_says_otherwise():
    found = read(
        "data: digits\nsearch: {epochs: 2, recipe: {learning_rate: 0.1, batch_size: 8}}\n"
        "retrain: {epochs: 9, recipe: {learning_rate: 0.2}}"
    )
    assert recipe_settings(found, "search") == {"learning_rate": 0.1, "batch_size": 8, "epochs": 2}
    assert recipe_settings(found, "retrain") == {"learning_rate": 0.2, "batch_size": 8, "epochs": 9}
    assert recipe_settings(found, "compress")["learning_rate"] == 0.1


def test_a_recipe_in_a_file_knows_the_settings_of_the_real_one():
    import dataclasses

    from nasflow.training import Recipe

    assert set(RecipeSettings.model_fields) | {"epochs"} == {
        field.name for field in dataclasses.fields(Recipe)
    }


def test_differences_are_told_key_by_key():
    before, after = (
        read(text).model_dump(mode="json")
        for text in ("data: digits\nseed: 1", "data: digits\nsearch: {trials: 5}\nlimits: {flops: 1}")
    )
    assert differences(before, before) == []
    assert differences(before, after) == [
        "limits: {}, now None",
        "search.trials: 24, now 5",
        "seed: 1, now 0",
        "limits.flops: None, now 1.0",
    ]


# Wrong input


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("search: {trials: many}", "search.trials: expected an integer >= 1, got 'many'"),
        ("search: {trials: 0}", "search.trials: expected an integer >= 1, got 0"),
        ("search: {trials: 2.5}", "search.trials: expected an integer >= 1, got 2.5"),
        ("search: {trials: true}", "search.trials: expected an integer >= 1, got true"),
        ("search: {trials: '3'}", "search.trials: expected an integer >= 1, got '3'"),
        ("search: {trials: }", "search.trials: expected an integer >= 1, got nothing"),
        ("search: {epochs: 0}", "search.epochs: expected an integer >= 1, got 0"),
        ("search: {deadline_s: .inf}", "search.deadline_s: expected a number > 0, got inf"),
        ("search: {workers: all}", "search.workers: expected an integer >= 1 or auto, got 'all'"),
        ("search: {memory_mb: -1}", "search.memory_mb: expected an integer >= 1 or auto, got -1"),
        ("search: {trails: 3}", "search.trails: unknown key: did you mean 'trials'?"),
        ("search: 3", "search: expected a section with strategy, trials,"),
        ("search: {strategy: ngsa2}", "search.strategy: unknown strategy 'ngsa2': did you mean 'nsga2'"),
        (
            "search: {strategy: {nam: tpe}}",
            "search.strategy: expected {name: ..., ...its arguments}, got no name",
        ),
        (
            "search: {strategy: 3}",
            "search.strategy: expected a strategy such as nsga2, or {name: nsga2, ...}, got 3",
        ),
        ("search: {recipe: {learning_rate: 0}}", "search.recipe.learning_rate: expected a number > 0, got 0"),
        ("serach: {trials: 3}", "serach: unknown key: did you mean 'search'"),
        ("space: mobil", "space: unknown space 'mobil': did you mean 'mobile'"),
        ("space: mobile * trainin", "space: unknown space 'trainin': did you mean 'training'"),
        (
            "space: [mobile, {nam: x}]",
            "space.1: expected {name: ..., ...its arguments}, got no name beside nam",
        ),
        (
            "space: training",
            "space: expected a space of networks, such as mobile * training, got training alone",
        ),
        ("space: 7", "space: expected a space such as mobile, a product such as mobile * training"),
        (
            "model: resnet",
            "model: unknown model 'resnet': there is none; one of your own is written my_module:model",
        ),
        ("model: {weights: w.pt}", "model.name: expected a text, got nothing"),
        ("model: m:make\nspace: mobile", "model: expected either a model of your own or the space mobile"),
        (
            "model: m:make\npoint: {a: 1}",
            "point: expected either a point of the space or a model of your own",
        ),
        ("devices: []", "devices: expected a list of devices such as [local-cpu], got []"),
        ("devices: pixel6", "devices: expected a list of devices such as [local-cpu], got 'pixel6'"),
        ("devices: [pixel6, boards/pixel6.yaml]", "devices: expected each device once, got pixel6, pixel6"),
        (
            "objectives: []",
            "objectives: expected a list of at least one metric such as [error, latency_ms, flops]",
        ),
        (
            "objectives: [error, speed]",
            "objectives: unknown metric 'speed': known: compute_intensity, energy_mj, error,",
        ),
        ("objectives: [error, latency]", "objectives: unknown metric 'latency': did you mean 'latency_ms'"),
        ("objectives: [error, error]", "objectives: expected each metric once, got error twice"),
        ("objectives: [error, latency_ms, latency_ms@local-cpu]", "got latency_ms@local-cpu twice"),
        (
            "objectives: [error, latency_ms@pixel6]",
            "'latency_ms@pixel6' names a device that is not under devices",
        ),
        ("objectives: [error, flops@local-cpu]", "expected flops, which is the same on every device"),
        ("objectives: [flops]", "objectives: expected error among them (or a limit on it)"),
        ("objectives: [{metric: error, goal: low}]", "objectives.0.goal: expected min or max, got 'low'"),
        ("limits: {flops: lots}", "limits.flops: expected a number > 0, got 'lots'"),
        ("limits: {flops: 0}", "limits.flops: expected a number > 0, got 0"),
        ("limits: {flop: 1}", "limits: unknown metric 'flop': did you mean 'flops'"),
        (
            "limits: {latency_ms@pixel: 1}",
            "limits: 'latency_ms@pixel' names a device that is not under devices",
        ),
        (
            "limits: {error: 2.5}",
            "limits: expected the limit on error as a share below 1 (0.025 is 2.5 %), got 2.5",
        ),
        (
            "limits: {latency_ms: 1, latency_ms@local-cpu: 2}",
            "expected one limit on latency_ms@local-cpu, got 1 and 2",
        ),
        ("limits: [flops]", "limits: expected a section, got ['flops']"),
        ("compress: {pick: nose}", "compress.pick: expected knee, best, front or a list of trial numbers"),
        ("compress: {pick: [-1]}", "compress.pick: expected knee, best, front or a list of trial numbers"),
        ("compress: {keep: [0]}", "compress.keep.0: expected a number > 0 and <= 1, got 0"),
        ("compress: {keep: []}", "compress.keep: expected a list of shares such as [0.5, 0.75, 1.0], got []"),
        ("compress: {int8: maybe}", "compress.int8: expected true or false, got 'maybe'"),
        ("compress: {accept: both}", "compress.accept: expected latency or size, got 'both'"),
        (
            "compress: {max_error_increase: 2}",
            "compress.max_error_increase: expected a number >= 0 and <= 1, got 2",
        ),
        ("retrain: {seeds: 0}", "retrain.seeds: expected an integer >= 1, got 0"),
        (
            "deploy: {ship: fast}",
            "deploy.ship: expected knee, best error or fastest within 2 points, got 'fast'",
        ),
        ("deploy: {ship: fastest within 200 points}", "deploy.ship"),
        ("seed: -1", "seed: expected an integer >= 0, got -1"),
        ("name: ../up", "name: expected a name of letters, digits, dots, - and _"),
        ("mlflow: {uri: 3}", "mlflow.uri: expected a text, got 3"),
    ],
)
def test_a_wrong_value_is_answered_with_file_key_expected_and_came(text, message):
    said = mistake(f"data: digits\n{text}\n")
    assert said.startswith("one.yaml: ") and message in said
    assert "\n" not in said, "one mistake, one line"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x", "data: expected a data set such as digits"),
        ("data: digitz", "data: unknown data 'digitz': did you mean 'digits'"),
        ("data: {name: digits, validation: 1}", "data.validation: expected a number > 0 and < 1, got 1"),
        ("data: {name: digits, validation: 1.5}", "data.validation: expected a number > 0 and < 1, got 1.5"),
        ("data: {name: digits, pth: x}", "data.pth: unknown key: did you mean 'path'"),
        ("data: idx", "data.path: expected the folder or file that data idx lies in, got none"),
    ],
)
def test_wrong_data_settings_are_told_alike(text, message):
    assert f"one.yaml: {message}" in mistake(text)


def test_all_mistakes_are_told_at_once_each_in_a_line():
    said = mistake("data: digits\nsearch: {trials: many, epochs: 0}\nwat: 1\n")
    assert said.splitlines()[0] == "one.yaml: 3 problems"
    assert [line.split(":")[0].strip() for line in said.splitlines()[1:]] == [
        "search.trials",
        "search.epochs",
        "wat",
    ]


def test_what_is_wrong_in_an_override_is_said_to_come_from_there():
    said = mistake("data: digits\nsearch: {trials: 3}", "search.trials=many")
    assert said == "one.yaml: --set search.trials=many: search.trials: expected an integer >= 1, got 'many'"
    assert "--set" not in mistake("data: digits\nsearch: {trials: many}", "search.epochs=3")
    assert "--set" not in mistake("data: digits\nsearch: {trials: many}", "search.tri=3").splitlines()[1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.trials", "--set search.trials: expected key=value such as search.trials=50"),
        ("=3", "--set =3: expected key=value"),
        ("search..trials=3", "expected key=value"),
        ("search.trials=[", "--set search.trials=[: expected a YAML value after the =, got '['"),
        ("search.strategy.population=3", "set all of it: --set 'search.strategy={name: tpe, population: 3}'"),
    ],
)
def test_an_override_that_cannot_be_applied_says_how_to_write_it(override, message):
    assert message in mistake("data: digits\nsearch: {strategy: tpe}", override)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"data: digits\n  seed: 3\n",
            "one.yaml: line 2, column 7: not valid YAML: mapping values are not allowed",
        ),
        (b"data: digits\nsearch: [\n", "one.yaml: line 3, column 1: not valid YAML"),
        (
            b"data: digits\nseed: 1\nseed: 2\n",
            "one.yaml: line 3, column 1: not valid YAML: the key 'seed' is given twice",
        ),
        (b"data: digits\nsearch: {trials: 1, trials: 2}\n", "the key 'trials' is given twice"),
        (b"- data\n- digits\n", "one.yaml: expected lines such as `name: value`, got ['data', 'digits']"),
        (b"digits\n", "one.yaml: expected lines such as `name: value`, got 'digits'"),
        (b"", "one.yaml: expected lines such as `name: value`, got nothing"),
        (b"\xff\xfe\x00", "one.yaml: expected YAML text in UTF-8"),
        (b"data: digits\nx: \x00", "one.yaml: expected YAML text in UTF-8"),
        (b"1: 2\ndata: digits\n", "one.yaml: 1: unknown key"),
        (b"? [a]\n: 2\n", "one.yaml: line 1, column 3: not valid YAML"),
        (
            b"data: digits\nx: !!python/object/apply:os.getcwd []\n",
            "could not determine a constructor for the tag",
        ),
    ],
)
def test_a_file_that_is_no_experiment_says_where_and_why(folder, content, message):
    (folder / "one.yaml").write_bytes(content)
    with pytest.raises(FileError) as error:
        load("one.yaml")
    assert message in str(error.value)


def test_a_missing_file_is_answered_with_the_nearest_ones(folder):
    (folder / "digitts.yaml").write_text("data: digits")
    with pytest.raises(
        FileError, match=r"^digit\.yaml: no such experiment file: did you mean 'digitts\.yaml'"
    ):
        load("digit.yaml")
    with pytest.raises(FileError, match=r"^digit: no such experiment file: did you mean 'digits'.*mnist"):
        load("digit")
    with pytest.raises(FileError, match=r"nowhere/x\.yaml: no such experiment file"):
        load("nowhere/x.yaml")
    with pytest.raises(
        FileError, match="expected an experiment file, got a folder; to see a run: nasflow show"
    ):
        load(str(folder))


def test_reading_an_experiment_loads_neither_torch_nor_anything_slow(folder):
    code = (
        "import sys; from nasflow.experiment import load, objectives; objectives(load('digits'));"
        "slow = {'torch', 'sklearn', 'optuna', 'prefect', 'mlflow', 'onnxruntime', 'pandas', 'scipy', 'plotly'};"
        "print(sorted(slow & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_schema_describes_every_section_for_forms():
    schema = Experiment.model_json_schema()
    assert schema["$defs"]["SearchSettings"]["properties"]["trials"]["minimum"] == 1
    assert yaml.safe_load(dump(read("data: digits")))["search"]["trials"] == 24
