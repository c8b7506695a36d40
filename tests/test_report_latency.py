"""What the report shows of latency: only what is known, one mark for each thing, and text that cannot break out."""

import pytest

from nasflow import report
from nasflow.report import latency

LAYERS = [
    {"name": "stem", "kind": "Conv+Relu", "ms": 0.02, "macs": 400_000, "bytes": 80_000},
    {"name": "reorder", "kind": "ReorderOutput", "ms": 0.01, "macs": None, "bytes": None},
    {"name": "last", "kind": "Gemm", "ms": 0.01, "macs": 1280, "bytes": 6000},
]
ESTIMATE = {"value": 0.05, "low": 0.03, "high": 0.07}
FIGURES = {"count": 9, **dict.fromkeys(("within_5", "within_10", "mape", "spearman", "kendall"), ESTIMATE)}


def summary(**board):
    return {"run": "it", "status": "done", "latency": {"board": board}}


def breakdown(layers=LAYERS, **roof):
    return {"source": "measured by ONNX Runtime", "layers": layers, "roof": roof or None}


@pytest.mark.parametrize("said", [{}, {"latency": {}}, {"latency": {"board": {}}}, {"latency": None}])
def test_where_nothing_is_known_there_is_no_panel(said):
    assert latency.panels(said) == [] and latency.warnings(said) == []
    assert 'id="latency"' not in report.render({"run": "it", **said})


def test_each_network_that_was_predicted_and_measured_is_a_mark():
    pairs = [[1, 1.0, 0.05, 1.1], [2, 2.0, 0.1, 1.9], [3, 2.0, 0.1, 0], [4, None, 0.1, 2.0], "no row"]
    said = summary(
        predictor={"kind": "network", "accuracy": FIGURES}, pairs=pairs, outside=1, accuracy=FIGURES
    )
    (panel,) = latency.panels(said)
    assert panel["scatter"].count('class="dot') == panel["measured"] == 2
    page = report.render(said)
    assert "2 networks of the search, each predicted before it was measured" in page
    assert "1 of 2 lie outside" in page and "5.0 %" in page and "0.03 to 0.07" in page
    assert "too noisy" not in page
    assert "3 of the networks measured were too noisy to tell" in report.render(
        summary(predictor={"kind": "network"}, pairs=pairs, untaught=3)
    )


def test_a_predictor_of_which_nothing_was_measured_says_so():
    page = report.render(summary(predictor={"kind": "network"}, pairs=[]))
    assert "nothing can be compared" in page


def test_every_kernel_is_a_column_and_those_with_work_are_under_the_roof():
    (panel,) = latency.panels(summary(breakdown=breakdown(gmacs=50.0, memory_gbs=10.0, cache_gbs=80.0)))
    assert panel["bars"].count("<rect") == 3 and panel["total"] == pytest.approx(0.04)
    assert panel["roofline"].count('class="spot') == 2 and panel["roofline"].count('class="roof') == 2
    assert [kind for _, kind, _, _ in panel["kinds"]] == ["Conv+Relu", "ReorderOutput", "Gemm"]


def test_without_a_roof_the_page_names_the_command_that_measures_it():
    page = report.render(summary(breakdown=breakdown()))
    assert "nasflow profile board --build roofline" in page and 'class="roof' not in page


def test_kernels_without_known_work_have_no_roofline():
    (panel,) = latency.panels(summary(breakdown=breakdown(LAYERS[1:2])))
    assert "bars" in panel and "roofline" not in panel


def test_many_kinds_are_told_apart_up_to_six():
    layers = [{"name": f"n{i}", "kind": f"kind {i}", "ms": 1.0 + i} for i in range(20)]
    (panel,) = latency.panels(summary(breakdown=breakdown(layers)))
    assert len(panel["kinds"]) == 6 and panel["kinds"][-1][1] == "others"
    assert sum(part for *_, part in panel["kinds"]) == pytest.approx(1.0)


def test_stale_predictors_and_networks_that_were_not_measured_are_warned_of():
    said = summary(stale=["the predictor of board is old"], unmeasured=list(range(10)))
    page = report.render(said)
    assert "The predictor of board is old." in page
    assert "Not measured on board, which did not answer" in page and "trial-7 and 2 more" in page


def test_latencies_that_are_not_to_be_trusted_are_marked_and_said():
    front = [
        {"trial": n, "point": {}, "metrics": {"error": 0.1 * n, "latency_ms@board": 1.0}} for n in (1, 2, 3)
    ]
    said = summary(noisy={"1": "others had the core"}, moved={"2": 0.12, "3": -0.2}) | {"front": front}
    assert latency.doubts(said) == {
        "trial-1": ["noisy on board"],
        "trial-2": ["board was 12.0 % slower"],
        "trial-3": ["board was 20.0 % faster"],
    }
    page = report.render(said)
    assert page.count('<span class="badge bad">') == 3 and "board was 12.0 % slower</span>" in page
    assert "The latency of trial-1 on board is too noisy to tell: others had the core." in page
    assert "When trial-2 was measured, board itself was 12.0 % slower than for most of the front" in page


def test_a_file_whose_latency_is_noisy_says_so_beside_it():
    cost = {"p50_ms": 1.0, "p90_ms": 1.1, "noisy": "the p50 is known to within 9% only", "drift": -0.04}
    file = {
        "name": "trial-1",
        "shipped": True,
        "file": "models/trial-1/model.onnx",
        "latency": {"board": cost},
    }
    page = report.render({"run": "it", "status": "done", "deployed": [file]})
    assert "Too noisy to tell: the p50 is known to within 9% only." in page
    assert "the device got 4.0 % faster meanwhile" in page
    assert "nasflow profile board models/trial-1/model.onnx" in page
    quiet = {**file, "latency": {"board": {**cost, "noisy": "", "drift": 0.0}}}
    page = report.render({"run": "it", "status": "done", "deployed": [quiet]})
    assert "Too noisy" not in page and "meanwhile" not in page and "too noisy" not in page


def test_names_are_escaped():
    bad = [{**LAYERS[0], "name": "<script>alert(1)</script>", "kind": "<b>"}]
    page = report.render(summary(breakdown=breakdown(bad)))
    assert "<script>alert" not in page and "&lt;b&gt;" in page
