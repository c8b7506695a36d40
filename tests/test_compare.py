"""Runs are compared in what they have in common, and what they have not is said."""

from __future__ import annotations

import copy
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasflow import compare, compare_page, show_compare
from nasflow.compare import CompareError
from nasflow.hardware import store
from nasflow.record import open_record
from nasflow.space import Choice, Space
from nasflow.study import Objective, Proposal, Study, Trial

Summary = dict[str, Any]


def run(folder: Path, networks: list[tuple[float, float]], **changes: Any) -> Path:
    """A finished run whose trials have these (error, latency)."""
    summary: Summary = {
        "nasflow": "1",
        "run": folder.name,
        "status": "done",
        "experiment": {
            "name": folder.name,
            "space": [{"name": "mobile"}],
            "devices": ["pi"],
            "data": {"name": "digits"},
            "search": {"strategy": {"name": "random"}, "trials": len(networks), "epochs": 4},
            "seed": 3,
        },
        "data": {"sha256": "a" * 64, "validation": 1000},
        "objectives": [
            {"metric": "error", "goal": "min", "limit": None, "optimise": True},
            {"metric": "latency_ms@pi", "goal": "min", "limit": None, "optimise": True},
        ],
        "stages": {"search": {"status": "done", "seconds": 1.0, "message": ""}},
        "trials": {"done": len(networks), "failed": 0},
        "points": [
            {
                "trial": number,
                "state": "done",
                "fidelity": 1.0,
                "metrics": {"error": error, "latency_ms@pi": latency},
            }
            for number, (error, latency) in enumerate(networks)
        ],
        "deployed": [],
        "seconds": 9.0,
    }
    for path, value in changes.items():
        place = summary
        *sections, name = path.split("__")
        for section in sections:
            place = place[section]
        place[name] = value
    folder.mkdir(parents=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


GOOD = [(0.1, 4.0), (0.2, 2.0), (0.4, 1.0), (0.9, 9.0)]
BAD = [(0.2, 4.0), (0.4, 2.0)]


def shown(found: compare.Comparison) -> dict[str, tuple[str, ...]]:
    """Every row of every table, by its first cell."""
    return {row[0]: row[1:] for sheet in show_compare.sheets(found) for row in sheet.rows}


def test_a_front_that_beats_another_covers_it_and_reaches_further(tmp_path: Path) -> None:
    found = compare.compare([run(tmp_path / "good", GOOD), run(tmp_path / "bad", BAD)])
    good, bad = found.runs
    assert [member.name for member in good.front] == ["trial-0", "trial-1", "trial-2"]
    assert found.coverage == ((1.0, 1.0), (0.0, 1.0))
    assert good.hypervolume > bad.hypervolume
    assert show_compare.headline(found).startswith("good reaches further than bad")
    assert shown(found)["covers of bad"] == ("100 %", "")


def test_hypervolume_is_counted_in_one_box_for_all(tmp_path: Path) -> None:
    found = compare.compare([run(tmp_path / "good", GOOD), run(tmp_path / "bad", BAD)])
    assert found.ideal == {"error": 0.1, "latency_ms@pi": 1.0}
    assert found.reference == pytest.approx({"error": 0.43, "latency_ms@pi": 4.3})
    box = (0.43 - 0.1) * (4.3 - 1.0)
    bad = ((0.43 - 0.2) * (4.3 - 4.0) + (0.43 - 0.4) * (4.0 - 2.0)) / box
    assert found.runs[1].hypervolume == pytest.approx(bad)
    assert found.runs[1].curve[-1] == (2.0, pytest.approx(bad))


def test_a_third_run_moves_the_box_and_not_the_order(tmp_path: Path) -> None:
    two = [run(tmp_path / "good", GOOD), run(tmp_path / "bad", BAD)]
    three = compare.compare([*two, run(tmp_path / "far", [(0.9, 0.1)])])
    assert three.ideal["latency_ms@pi"] == 0.1
    assert three.runs[0].hypervolume > three.runs[1].hypervolume
    assert len(three.coverage) == 3 and all(len(row) == 3 for row in three.coverage)


def test_each_region_goes_to_the_least_error_within_its_bound(tmp_path: Path) -> None:
    quick, exact = run(tmp_path / "quick", [(0.3, 1.0), (0.29, 8.0)]), run(tmp_path / "exact", [(0.1, 5.0)])
    found = compare.compare([quick, exact], at=[2.0, 6.0])
    assert [region.bound for region in found.regions] == [2.0, 6.0, None]
    assert [region.winner for region in found.regions] == [0, 1, 1]
    assert shown(found)["at most 2 ms"] == ("30.0 % at 1.00 ms (trial-0)", "–", "quick, alone")
    assert shown(found)["any"][2] == "exact"


def test_without_bounds_the_terciles_of_all_fronts_part_the_regions(tmp_path: Path) -> None:
    a = run(tmp_path / "a", [(0.9, 1.0), (0.7, 3.0), (0.5, 5.0)])
    b = run(tmp_path / "b", [(0.8, 2.0), (0.6, 4.0), (0.4, 6.0)])
    bounds = [region.bound for region in compare.compare([a, b]).regions]
    assert bounds[-1] is None
    assert 2.0 <= bounds[0] <= 3.0 and 4.0 <= bounds[1] <= 5.0


def test_a_lead_that_chance_could_give_is_said_to_be_that(tmp_path: Path) -> None:
    a, b = [(0.050, 1.0)], [(0.055, 1.0)]
    few = compare.compare([run(tmp_path / "a", a), run(tmp_path / "b", b)])
    assert (few.regions[-1].winner, few.regions[-1].certain) == (0, False)
    assert shown(few)["any"][2] == "a, perhaps by chance"
    many = [run(tmp_path / name, one, data__validation=100_000) for name, one in (("c", a), ("d", b))]
    assert compare.compare(many).regions[-1].certain is True


def test_equal_fronts_have_no_winner(tmp_path: Path) -> None:
    found = compare.compare([run(tmp_path / "a", GOOD), run(tmp_path / "b", GOOD)])
    assert {region.winner for region in found.regions} == {None}
    assert show_compare.headline(found) == "a and b reach equally far"


def test_other_data_make_errors_incomparable_and_the_rest_is_still_told(tmp_path: Path) -> None:
    found = compare.compare([run(tmp_path / "a", GOOD), run(tmp_path / "b", BAD, data__sha256="b" * 64)])
    assert found.metrics == () and found.regions == ()
    assert "the runs saw other data (sha256 a: aaaaaaaaaaaa; b: bbbbbbbbbbbb)" in found.apart[-1]
    assert shown(found)["full trainings"] == ("4 of 4", "2 of 2")
    assert "cannot be compared" in show_compare.headline(found)


def test_a_metric_that_only_one_run_optimised_is_left_out(tmp_path: Path) -> None:
    more = [{"metric": "error"}, {"metric": "latency_ms@pi"}, {"metric": "flops", "goal": "min"}]
    found = compare.compare([run(tmp_path / "a", GOOD, objectives=more), run(tmp_path / "b", BAD)])
    assert [metric.name for metric in found.metrics] == ["error", "latency_ms@pi"]
    assert found.apart == ("Multiply-adds is left out: b did not optimise it.",)


def test_latencies_of_other_machines_are_left_out(tmp_path: Path) -> None:
    def on(cpu: str) -> list[Summary]:
        environment = {"cpu": cpu, "load_average": [cpu]}
        return [
            {"name": "x", "shipped": True, "latency": {"pi": {"p50_ms": 1.0, "environment": environment}}}
        ]

    a, b = run(tmp_path / "a", GOOD, deployed=on("A53")), run(tmp_path / "b", BAD, deployed=on("A76"))
    found = compare.compare([a, b])
    assert [metric.name for metric in found.metrics] == ["error"]
    assert "it was measured on other machines; cpu is A53 in a, A76 in b" in found.apart[0]
    assert compare.DECISIVE == store.DECISIVE


def test_a_machine_is_known_from_a_trial_before_anything_is_deployed(tmp_path: Path) -> None:
    runs = [run(tmp_path / "a", GOOD), run(tmp_path / "b", BAD)]
    for folder, threads in zip(runs, (1, 4), strict=True):
        file = folder / "trials/00001/latency@pi.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({"latency": {"environment": {"threads": threads}}}))
    assert "threads is 1 in a, 4 in b" in compare.compare(runs).apart[0]


def test_settings_that_make_errors_differ_are_named(tmp_path: Path) -> None:
    longer = run(tmp_path / "long", BAD, experiment__search__epochs=8, experiment__seed=9)
    found = compare.compare([run(tmp_path / "short", GOOD), longer])
    assert found.differences == (
        "The setting search.epochs: 4 in short, 8 in long, so their errors are not after the same training.",
    )


def test_a_run_keeps_its_own_limits(tmp_path: Path) -> None:
    limited = [{"metric": "error"}, {"metric": "latency_ms@pi", "limit": 2.5}]
    found = compare.compare([run(tmp_path / "a", GOOD, objectives=limited), run(tmp_path / "b", GOOD)])
    assert [member.name for member in found.runs[0].front] == ["trial-1", "trial-2"]
    assert found.differences == ("The limit on latency on pi: 2.5 in a, none in b.",)


def test_short_trainings_and_failures_are_on_no_front_and_count_as_what_they_cost(tmp_path: Path) -> None:
    a = run(tmp_path / "a", GOOD)
    summary = json.loads((a / "summary.json").read_text())
    summary["points"][1]["fidelity"] = 0.25
    summary["points"][2]["state"] = "failed"
    (a / "summary.json").write_text(json.dumps(summary))
    side = compare.compare([a, run(tmp_path / "b", BAD)]).runs[0]
    assert [member.name for member in side.front] == ["trial-0"]
    assert side.spent == 3.25


def test_a_search_that_goes_on_is_compared_as_far_as_it_is(tmp_path: Path) -> None:
    begun = run(tmp_path / "begun", [], status="running", stages={"search": {"status": "pending"}})
    space, objectives = Space((Choice("a", (1, 2, 3)),)), (Objective("error"), Objective("latency_ms@pi"))
    study = Study(space, objectives, open_record(begun / "study.journal", "search", space, objectives))
    first, second, _ = study.add([Proposal({"a": a}) for a in (1, 2, 3)], 3)
    for trial, error in ((first, 0.05), (second, 0.9)):
        metrics = {"error": error, "latency_ms@pi": 2.0}
        study.finish(Trial(trial.number, trial.point, state="done", metrics=metrics))
    found = compare.compare([begun, run(tmp_path / "done", GOOD)])
    assert [member.name for member in found.runs[0].front] == ["trial-0"]
    assert shown(found)["trials under way"] == ("1", "0")
    assert found.differences == ("Not finished, and compared as far as it is: begun.",)


def test_a_run_without_a_front_is_no_error(tmp_path: Path) -> None:
    found = compare.compare([run(tmp_path / "empty", []), run(tmp_path / "a", GOOD)])
    assert found.runs[0].hypervolume == 0.0
    assert found.coverage[1][0] is None
    both = compare.compare([run(tmp_path / "none", []), tmp_path / "empty"])
    assert show_compare.headline(both) == "None of these runs has a front yet"
    assert compare_page.render(both)


def test_one_run_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(CompareError, match="at least two runs to compare, got 1"):
        compare.compare([run(tmp_path / "a", GOOD)])


def test_runs_of_the_same_folder_name_are_told_apart(tmp_path: Path) -> None:
    a, b = run(tmp_path / "x/run", GOOD), run(tmp_path / "y/run", BAD)
    assert [side.name for side in compare.compare([a, b]).runs] == [str(a), str(b)]


def test_the_page_draws_every_front_and_lets_no_script_in(tmp_path: Path) -> None:
    shipped = [
        {
            "name": "<script>alert(1)</script>",
            "shipped": True,
            "test_error": 0.11,
            "validation_error": 0.12,
            "size_kb": 30.0,
            "latency": {"pi": {"p50_ms": 2.0}},
            "limits": [],
        }
    ]
    a, b = run(tmp_path / "a", GOOD, deployed=shipped), run(tmp_path / "<b>", BAD)
    page = compare_page.render(compare.compare([a, b]))
    assert "<script" not in page and "<b>&" not in page
    assert "&lt;script&gt;" in page and "&lt;b&gt;" in page
    assert not re.search(r"(?:src|href)=", page)
    (large,) = re.findall(r'<div id="chart">(<svg.*?</svg>)', page, re.S)
    marks = dict(re.findall(r'class="mark c(\d)" d="([^"]+)"', large))
    assert {place: spots.count("M") for place, spots in marks.items()} == {"0": 3, "1": 2}
    assert large.count('class="star c0"') == 1 and large.count('class="edge') == 2


def test_what_is_written_for_programs_is_plain(tmp_path: Path) -> None:
    found = compare.compare([run(tmp_path / "a", GOOD), run(tmp_path / "b", BAD)])
    said = json.loads(json.dumps(found.to_json()))
    assert said["runs"][0]["front"][0] == {"name": "trial-0", "metrics": {"error": 0.1, "latency_ms@pi": 4.0}}
    assert said["coverage"] == [[1.0, 1.0], [0.0, 1.0]]
    assert said["regions"][-1]["bound"] is None


def test_five_thousand_trials_are_compared_in_under_a_second(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = []
    for name in "ab":
        folder = run(tmp_path / name, [])
        summary = json.loads((folder / "summary.json").read_text())
        summary["objectives"].append({"metric": "flops", "goal": "min"})
        point = {f"c{index}": "option" for index in range(20)}
        summary["points"] = [
            {
                "trial": number,
                "state": "done",
                "fidelity": 1.0,
                "point": point,
                "metrics": dict(zip(("error", "latency_ms@pi", "flops"), rng.random(3), strict=True)),
            }
            for number in range(5000)
        ]
        (folder / "summary.json").write_text(json.dumps(summary))
        runs.append(folder)
    start = time.process_time()
    page = compare_page.render(compare.compare(runs))
    assert time.process_time() - start < 1.0
    assert len(page) < 300_000


def test_a_damaged_summary_is_compared_as_far_as_it_can_be_read(tmp_path: Path) -> None:
    whole = run(tmp_path / "a", GOOD)
    summary = json.loads((whole / "summary.json").read_text())
    for name in summary:
        broken = copy.deepcopy(summary)
        for value in (None, 7, "text", [1], {"x": 1}):
            broken[name] = value
            folder = tmp_path / f"{name}-{type(value).__name__}"
            folder.mkdir()
            (folder / "summary.json").write_text(json.dumps(broken))
            found = compare.compare([whole, folder])
            assert show_compare.sheets(found) and compare_page.render(found)
