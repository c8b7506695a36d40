"""Networks of the front pruned and quantised: kept if it measurably pays, reported with both numbers if not."""

from pathlib import Path
from unittest import mock

import numpy as np
import onnx
import pytest
import tiny
import torch
from tiny import experiment, opened

from nasflow import names, stages
from nasflow.compression.multiples import Multiples
from nasflow.compression.quantize import QuantizeError
from nasflow.errors import NasflowError
from nasflow.export import predict
from nasflow.files import read_json
from nasflow.hardware import DeviceError
from nasflow.space import Choice, Space
from nasflow.stages.compress import picked, round_to
from nasflow.stages.integers import quantised, validation_error
from nasflow.stages.policies import first_policies, limited, whole_policy
from nasflow.study import Objective

QUICK = {"trials": 1, "epochs": 1}
ERROR_AND_FLOPS = [Objective("error"), Objective("flops")]


def compressed(run, cost=tiny.by_size, **settings):
    """The steps of compressing a finished search with other settings, by name."""
    mine = experiment(run.data, compress={**QUICK, **settings})
    with opened(mine, run.folder, cost=cost) as held:
        return stages.compress(held)


def always(_: Path) -> float:
    return 0.05


# Which networks


def a_run(data, folder, **changes):
    return stages.Run(experiment(data, **changes), folder)


@pytest.fixture
def study(study_of):
    """A front of 1, 2, 3 and 5 with its knee at 2; 0 is dominated, 4 failed, 6 is over the limit."""
    points = [(0.5, 90), (0.4, 10), (0.12, 20), (0.1, 60), None, (0.05, 100), (0.01, 1000)]
    metrics = [None if p is None else {"error": p[0], "flops": float(p[1])} for p in points]
    return study_of([Objective("error"), Objective("flops", limit=500.0)], *metrics)


@pytest.mark.parametrize(
    ("rule", "numbers"), [("knee", [2]), ("best", [5]), ("front", [1, 2, 3, 5]), ([5, 0], [5, 0])]
)
def test_networks_are_picked_by_rule_or_by_number(finished_run, tmp_path, study, rule, numbers):
    run = a_run(finished_run.data, tmp_path, compress={"pick": rule})
    assert [trial.number for trial in picked(run, study)] == numbers


@pytest.mark.parametrize("number", [4, 6, 99])
def test_what_failed_breaks_a_limit_or_is_not_there_is_not_picked(finished_run, tmp_path, study, number):
    run = a_run(finished_run.data, tmp_path, compress={"pick": [2, number]})
    message = (
        rf"compress\.pick: trials \[{number}\] are not done within every limit; the front is \[1, 2, 3, 5\]"
    )
    with pytest.raises(NasflowError, match=message):
        picked(run, study)


# Which policies


SPACE = Space(
    (
        Choice("channels.a", (0.5, 0.75, 1.0), ordered=True),
        Choice("channels.b", (0.5, 1.0), ordered=True),
        Choice("block.a", (False, True)),
        Choice("block.b", (False, True)),
    )
)


def test_the_search_for_policies_begins_with_what_a_person_would_try():
    whole = {"channels.a": 1.0, "channels.b": 1.0, "block.a": True, "block.b": True}
    assert whole_policy(SPACE) == whole
    first = first_policies(SPACE)
    assert all(policy in SPACE for policy in first)
    shallow = {"block.a": False, "block.b": False}
    assert first == [
        {**whole, **shallow},
        {**whole, "channels.a": 0.75, "channels.b": 0.5},  # of two options the nearer
        {**whole, "channels.a": 0.75, "channels.b": 0.5, **shallow},
        {**whole, "block.a": False},
        {**whole, "block.b": False},
        {**whole, "channels.a": 0.5, "channels.b": 0.5},
    ]


@pytest.mark.parametrize("kind", ["channels", "block"])
def test_a_network_with_only_channels_or_only_blocks_has_first_policies_too(kind):
    space = Space(tuple(p for p in SPACE.parameters if p.name.startswith(kind)))
    first = first_policies(space)
    assert first and all(policy in space and policy != whole_policy(space) for policy in first)


# What is kept


def test_every_step_is_told_with_what_it_changed(finished_run):
    steps = finished_run.summary["compression"]
    knee = next(entry for entry in finished_run.summary["front"] if entry["knee"])
    parent = f"trial-{knee['trial']}"
    assert {step["kind"] for step in steps} == {"prune", "int8"}
    for step in steps:
        assert step["before"].keys() == step["after"].keys()
        assert {"error", "flops", "params", "size_kb", "latency_ms@local-cpu"} <= step["before"].keys()
        assert step["name"].startswith(parent) and step["reason"]
    pruned = [step for step in steps if step["kind"] == "prune"]
    assert all(step["parent"] == parent for step in pruned)
    assert all(step["before"]["error"] == knee["metrics"]["error"] for step in pruned)
    assert all(step["after"]["params"] < step["before"]["params"] for step in pruned)
    assert all(step["before"]["sparsity"] == 0 < step["after"]["sparsity"] for step in pruned)


def test_of_the_pruned_networks_that_pay_the_fastest_is_kept_and_quantised_as_its_parent_is(finished_run):
    *pruned, int8, other = finished_run.summary["compression"]
    assert pruned and all(step["kind"] == "prune" for step in pruned)
    kept = [step for step in pruned if step["accepted"]]
    assert len(kept) == 1 and kept[0]["reason"].startswith("measured faster: ")
    for step in pruned:
        assert kept[0]["after"]["latency_ms@local-cpu"] <= step["after"]["latency_ms@local-cpu"]
        if step is not kept[0]:
            assert step["reason"].endswith(f"; {kept[0]['name']} is faster still")
    assert int8["parent"] == kept[0]["name"] and int8["name"] == f"{kept[0]['name']}-int8"
    assert int8["before"]["error"] == pytest.approx(kept[0]["after"]["error"], abs=0.02)
    assert int8["before"]["size_kb"] == kept[0]["after"]["size_kb"]
    assert other["name"] == f"{kept[0]['parent']}-int8"
    count = sum(step["accepted"] for step in finished_run.summary["compression"])
    message = f"{count} of {len(pruned) + 2} steps kept"
    assert count == 3 and finished_run.summary["stages"]["compress"]["message"] == message


def test_what_is_measured_is_the_file_with_the_trained_weights(finished_run):
    kept = next(step for step in finished_run.summary["compression"] if step["accepted"])
    with opened(finished_run.experiment, finished_run.folder) as run:
        folder = run.folder / "compress" / f"{kept['parent']}-{run.key('compress')}"
        file = folder / f"{kept['name']}.onnx"
        assert validation_error(run.data, file) == pytest.approx(kept["after"]["error"])
        assert kept["after"]["latency_ms@local-cpu"] == tiny.by_size(file)
        assert kept["after"]["size_kb"] == file.stat().st_size / 1024


def test_steps_that_are_not_faster_are_refused_with_both_numbers(copied):
    found = compressed(copied, always)
    assert found["message"] == "0 of 2 steps kept" and found["networks"] == []
    for step in found["steps"]:
        assert not step["accepted"]
        assert step["reason"] == "not measurably faster: 0.05 -> 0.05 ms on local-cpu"
    with opened(experiment(copied.data, compress=QUICK), copied.folder, cost=always) as run:
        assert {one["name"] for one in stages.retrain(run)["networks"]} == set(copied.front[:2])


def test_a_step_that_is_slower_is_refused(copied):
    found = compressed(copied, lambda file: 1 / file.stat().st_size, int8=False)
    (step,) = found["steps"]
    assert not step["accepted"] and step["reason"].startswith("not measurably faster: ")
    assert step["after"]["latency_ms@local-cpu"] > step["before"]["latency_ms@local-cpu"]


def test_whoever_asks_for_size_gets_what_is_smaller_though_not_faster(copied):
    found = compressed(copied, always, accept="size", int8=False)
    (step,) = found["steps"]
    before, after = step["before"]["size_kb"], step["after"]["size_kb"]
    assert step["accepted"] and after < before
    assert step["reason"] == f"smaller: {before:.1f} kB -> {after:.1f} kB"


def test_whoever_asks_for_size_does_not_get_what_is_larger(copied):
    found = compressed(copied, always, accept="size")
    int8 = found["steps"][-1]  # of a network this small, the scales weigh more than the bits saved
    assert int8["after"]["size_kb"] > int8["before"]["size_kb"] and not int8["accepted"]


def test_an_error_that_rises_too_much_is_refused_however_fast(copied):
    found = compressed(copied, trials=3, epochs=2, max_error_increase=0.0, int8=False)
    worse = [step for step in found["steps"] if step["after"]["error"] > step["before"]["error"]]
    assert worse and len(worse) < len(found["steps"])
    for step in worse:
        points = 100 * (step["after"]["error"] - step["before"]["error"])
        assert not step["accepted"]
        took, takes = (step[side]["latency_ms@local-cpu"] for side in ("before", "after"))
        assert step["reason"] == (
            f"error rose by {points:.2f} points, more than the 0 allowed: {took:.4g} -> {takes:.4g} ms on local-cpu"
        )
    assert sum(step["accepted"] for step in found["steps"]) == 1


def test_faster_on_one_device_and_slower_on_another_is_not_faster(finished_run, tmp_path):
    (tmp_path / "board.yaml").write_text("description: a board\nreach: {backend: local}\n")
    mine = experiment(
        finished_run.data,
        devices=["local-cpu", str(tmp_path / "board.yaml")],
        search={"trials": 1, "epochs": 1},
        compress={**QUICK, "int8": False},
    )
    real = tiny.Scripted.compare

    def compare(self, a, b, watch=None):
        return real(self, b, a) if self.name == "board" else real(self, a, b)

    with opened(mine, tmp_path / "run") as run, mock.patch.object(tiny.Scripted, "compare", compare):
        stages.search(run)
        steps = stages.compress(run)["steps"]
    assert steps and not any(step["accepted"] for step in steps)
    assert all("ms on local-cpu, " in step["reason"] and "ms on board" in step["reason"] for step in steps)


# Targets


def test_what_is_too_slow_for_the_target_is_not_trained(copied):
    found = compressed(copied, target="latency_ms=0.8x@local-cpu", trials=2, int8=False)
    (parent,) = found["originals"]
    most = 0.8 * found["originals"][parent]["latency_ms@local-cpu"]
    folder = max(
        copied.folder.glob("compress/*/original.json"), key=lambda file: file.stat().st_mtime_ns
    ).parent
    trained = [file.parent for file in folder.glob("trials/*/training.json")]
    assert 0 < len(trained) < len(list(folder.glob("trials/*/candidate.onnx")))
    for place in trained:
        assert read_json(place / "latency@local-cpu.json")["latency"]["p50_ms"] <= most
    kept = [step for step in found["steps"] if step["accepted"]]
    assert all(step["after"]["latency_ms@local-cpu"] <= most for step in kept)


def test_with_a_target_the_candidate_counts_as_the_int8_file_that_it_would_be(copied):
    """Integers are three times as fast here: a pruning that misses the target in floats may still meet it."""
    found = compressed(copied, target="latency_ms=0.6x@local-cpu", trials=3)
    (costs,) = found["originals"].values()
    most = 0.6 * costs["latency_ms@local-cpu"]
    folder = max(
        copied.folder.glob("compress/*/original.json"), key=lambda file: file.stat().st_mtime_ns
    ).parent
    trained = [file.parent.name for file in folder.glob("trials/*/training.json")]
    times = [
        [
            read_json(folder / form / number / "latency@local-cpu.json")["latency"]["p50_ms"]
            for form in ("trials", "trials-int8")
        ]
        for number in trained
    ]
    assert times and all(min(pair) <= most for pair in times)
    assert any(floats > most for floats, _ in times)


def test_limits_join_what_is_optimised_or_stand_beside_it():
    wanted = [Objective("error"), Objective("latency_ms@a")]
    limits = [
        Objective("latency_ms@a", limit=2.0, optimise=False),
        Objective("size_kb", limit=8.0, optimise=False),
    ]
    found = {one.metric: one for one in limited(wanted, limits, int8=True)}
    assert found["latency_ms@a"] == Objective("latency_ms@a", limit=2.0)
    assert found["size_kb"] == Objective("size_kb", limit=32.0, optimise=False)
    assert limited(wanted, limits, int8=False)[-1].limit == 8.0


def test_a_target_that_no_pruning_meets_is_told(copied):
    found = compressed(copied, target="flops=1", int8=False)
    assert found["steps"] == [] and "tried meets the target" in found["message"]


# Criteria, multiples and precision, by the experiment's settings


def test_another_criterion_keeps_other_channels(copied):
    files = {}
    for criterion in ("l1", "random", "taylor", "hessian"):
        compressed(copied, criterion=criterion, int8=False)
        pruned = max(
            copied.folder.glob("compress/*/trials/*/weights.pt"), key=lambda file: file.stat().st_mtime_ns
        )
        files[criterion] = pruned.read_bytes()
    assert len(set(files.values())) == len(files)


def test_what_is_left_may_make_up_for_what_went_before_it_is_trained(copied):
    files = {}
    for reconstruct in (False, True):
        compressed(copied, reconstruct=reconstruct, int8=False)
        pruned = max(
            copied.folder.glob("compress/*/trials/*/weights.pt"), key=lambda file: file.stat().st_mtime_ns
        )
        files[reconstruct] = pruned.read_bytes()
    assert files[True] != files[False]


def test_an_agent_may_choose_what_to_prune_within_the_target(copied):
    strategy = {"name": "amc", "warm_up": 1, "conv_cap": 0.6}
    found = compressed(copied, strategy=strategy, trials=3, target="flops=0.8x", int8=False)
    (costs,) = found["originals"].values()
    assert found["steps"]
    for step in found["steps"]:
        assert step["after"]["flops"] <= 0.8 * costs["flops"]


def test_a_strategy_for_pruning_is_known_by_its_name(finished_run):
    with pytest.raises(NasflowError, match="unknown strategy 'acm'"):
        experiment(finished_run.data, compress={"strategy": "acm"})


def test_ranges_are_read_by_the_method_asked_for(finished_run, tmp_path):
    file = next(finished_run.folder.glob("trials/*/candidate.onnx"))
    written = {}
    for method in ("minmax", "percentile", "mse"):
        asked = experiment(finished_run.data, compress={"calibration": method})
        with tiny.world():
            run = stages.Run(asked, finished_run.folder)
            written[method] = quantised(run, run.data, file, tmp_path / f"{method}.onnx").read_bytes()
    assert len(set(written.values())) == 3


def test_multiples_are_measured_once_and_kept_with_the_run(copied):
    asked = experiment(copied.data, compress={**QUICK, "round_to": "measured"})
    with (
        opened(asked, copied.folder) as run,
        mock.patch("nasflow.compression.multiples.measure", return_value=Multiples(16, {64: 1.0})) as measure,
    ):
        assert (round_to(run), round_to(run)) == (16, 16)
    measure.assert_called_once()


def test_which_layers_run_in_integers_is_told_and_kept(copied):
    def cost(file):
        """Integers help all but the first layer, which they make ten times as slow."""
        graph = onnx.load(file).graph
        makers = {name: node.op_type for node in graph.node for name in node.output}
        layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
        whole = [makers.get(node.input[1]) == "DequantizeLinear" for node in layers]
        return sum(0.01 if w else 0.03 for w in whole) + (0.3 if whole[0] else 0.0)

    found = compressed(copied, cost, mixed=True, max_error_increase=1.0)
    steps = [step for step in found["steps"] if step["kind"] == "int8"]
    assert steps and all(step["accepted"] for step in steps)
    for step in steps:
        precisions = {name: value for name, value in step["policy"].items() if name.startswith("precision.")}
        assert set(precisions.values()) == {"int8", "fp32"}
        assert (
            next(iter(precisions.values())) == "fp32"
            and "fp32 kept where int8 does not pay" in step["reason"]
        )
    assert all(one["floats"] for one in found["networks"] if one["int8"])


def test_switched_off_it_does_nothing(copied):
    found = compressed(copied, enabled=False)
    assert (found["steps"], found["networks"], found["message"]) == ([], [], "switched off")


def test_the_front_is_compressed_one_by_one(copied):
    found = compressed(copied, pick="front", int8=False)
    assert {step["parent"] for step in found["steps"]} == set(copied.front)
    assert len(copied.front) > 1


def test_a_finished_policy_search_is_not_repeated(copied):
    first = compressed(copied)
    (copied.folder / "stages" / "compress.json").unlink()
    with mock.patch("nasflow.evaluators.accuracy.train", side_effect=AssertionError("it trained")):
        assert compressed(copied)["steps"] == first["steps"]


# Steps that are not possible cost themselves, not the run


@pytest.mark.parametrize(
    ("what", "error", "reason"),
    [
        ("nasflow.compression.quantize.int8", QuantizeError("no layer in integers"), "no layer in integers"),
        ("tiny.Scripted.compare", DeviceError("it hung"), "it hung"),
    ],
)
def test_a_step_that_cannot_be_tried_is_refused_with_the_reason(copied, what, error, reason):
    with mock.patch(what, side_effect=error):
        found = compressed(copied)
    step = found["steps"][-1]
    assert (step["accepted"], step["reason"]) == (False, f"not possible: {reason}")
    summary = tiny.run(experiment(copied.data, compress=QUICK), copied.folder)
    assert summary["status"] == "done"
    assert step["name"] not in {one["name"] for one in summary["deployed"]}
    assert reason in (copied.folder / "report.html").read_text()


# Data


def test_ranges_are_read_from_training_images_alone(finished_run, tmp_path):
    def seen():
        with (
            opened(finished_run.experiment, finished_run.folder) as run,
            mock.patch("nasflow.compression.quantize.int8") as int8,
        ):
            quantised(run, run.data, next(run.folder.glob("trials/*/candidate.onnx")), tmp_path / "int8.onnx")
            return run.data, int8.call_args.args[1]

    data, images = seen()
    assert len(images) == min(256, len(data.train.x))
    training = {image.tobytes() for image in data.preprocess(data.train.x)}
    assert {image.tobytes() for image in images} <= training
    assert np.array_equal(images, seen()[1])


def test_with_folds_int8_is_compared_on_images_its_weights_have_not_seen(finished_run, tmp_path):
    raw = experiment(finished_run.data, search={"trials": 1, "epochs": 1}, compress=QUICK).model_dump(
        mode="json"
    )
    raw["data"]["folds"] = 3
    mine = tiny.from_mapping(raw, "folds")
    with opened(mine, tmp_path / "run") as run:
        stages.search(run)
        int8 = stages.compress(run)["steps"][-1]
        folder = next((tmp_path / "run" / "compress").iterdir())
        fold = run.folds[0]
        for side, name in (("before", int8["parent"]), ("after", int8["name"])):
            logits = predict(folder / f"{name}.onnx", fold.preprocess(fold.validation.x))
            assert int8[side]["error"] == np.mean(logits.argmax(1) != fold.validation.y)


# A user's own model


@pytest.mark.parametrize("trained", [True, False])
def test_an_own_model_enters_here(finished_run, tmp_path, at_home, trained):
    model = {"name": "networks_at_home.py:plain"}
    if trained:
        model["weights"] = str(tmp_path / "weights.pt")
        torch.manual_seed(0)
        network = names.resolve("model", model["name"])()
        torch.save(network.state_dict(), model["weights"])
    mine = experiment(
        finished_run.data,
        space=None,
        limits=None,
        model=model,
        search={"epochs": 2},
        compress={"trials": 2, "epochs": 3},
        retrain={"seeds": 1, "epochs": 3},
    )
    summary = tiny.run(mine, tmp_path / "run")
    assert summary["status"] == "done"
    assert [point["trial"] for point in summary["points"]] == [0]
    pruned = [step for step in summary["compression"] if step["kind"] == "prune"]
    assert any(step["accepted"] for step in pruned)
    assert {one["parent"] for one in pruned} == {"trial-0"}
    whole = next(one for one in summary["deployed"] if one["name"] == "trial-0")
    assert whole["parity"]["max_abs_difference"] < 1e-3
    if trained:  # it was finished when it came
        retrained = next(one for one in summary["retrained"] if one["name"] == "trial-0")
        assert (retrained["epochs"], retrained["curve"]) == (0, [])
        assert whole["validation_error"] == pytest.approx(summary["points"][0]["metrics"]["error"])
        result = read_json(tmp_path / "run" / "stages" / "retrain.json")["networks"][0]
        kept = torch.load(tmp_path / "run" / result["network"]["weights"], weights_only=True)
        assert all(torch.equal(value, kept[name]) for name, value in network.state_dict().items())
    assert "trial-0" in (tmp_path / "run" / "report.html").read_text()


OWN_MODEL = {"space": None, "limits": None, "search": {"trials": 1, "epochs": 2}}


@pytest.mark.parametrize(
    ("asked", "narrower"),
    [({}, {"0", "3"}), ({"only": ["3"]}, {"3"}), ({"only": ["0"]}, {"0"}), ({"protect": ["1"]}, {"3"})],
)
def test_parts_of_an_own_model_are_spared_or_the_only_ones_changed(
    finished_run, tmp_path, at_home, asked, narrower
):
    model = {"name": "networks_at_home.py:plain", "arguments": {"width": 16}}
    settings = {"trials": 2, "epochs": 1, "keep": [0.5, 1.0], **asked}
    mine = experiment(finished_run.data, model=model, compress=settings, **OWN_MODEL)
    with opened(mine, tmp_path / "run") as run:
        stages.search(run)
        found = stages.compress(run)
    pruned = [one for one in found["steps"] if one["kind"] == "prune"]
    assert {name for one in pruned for name in one["policy"]} == {f"channels.{name}" for name in narrower}
    trials = list((tmp_path / "run").glob("compress/*/trials/*/weights.pt"))
    smallest = min((torch.load(one, weights_only=True) for one in trials), key=lambda w: len(w["3.weight"]))
    assert [len(smallest[f"{name}.weight"]) for name in ("0", "3")] == [
        8 if name in narrower else 16 for name in ("0", "3")
    ]
    assert found["networks"]


def test_where_nothing_can_be_pruned_that_is_told_and_integers_are_tried(finished_run, tmp_path, at_home):
    model = {"name": "networks_at_home.py:plain"}
    mine = experiment(finished_run.data, model=model, compress={"protect": ["0", "3"]}, **OWN_MODEL)
    with opened(mine, tmp_path / "run") as run:
        stages.search(run)
        found = stages.compress(run)
    assert "nothing of trial-0 can be pruned, as protect and only say" in found["message"]
    assert [step["kind"] for step in found["steps"]] == ["int8"]


def test_a_network_with_heads_of_attention_is_compressed_around_them(finished_run, tmp_path, at_home):
    model = {"name": "networks_at_home.py:Attentive"}
    mine = experiment(finished_run.data, model=model, compress={"trials": 2, "epochs": 1}, **OWN_MODEL)
    with opened(mine, tmp_path / "run") as run:
        stages.search(run)
        found = stages.compress(run)
    pruned = [one for one in found["steps"] if one["kind"] == "prune"]
    assert pruned and all(
        not name.startswith("channels.attention") for one in pruned for name in one["policy"]
    )
    assert {"channels.after.0"} <= {name for one in pruned for name in one["policy"]}
    for one in pruned:
        if one["policy"].get("block.attention", True):
            kept = torch.load(next(iter((tmp_path / "run").glob("compress/*/trials/*/weights.pt"))))
            assert kept["attention.in_proj_weight"].shape == (48, 16)
