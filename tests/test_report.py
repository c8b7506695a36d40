"""The report says which network to ship, shows everything a run knows, and survives whatever a summary holds."""

from __future__ import annotations

import base64
import copy
import doctest
import hashlib
import json
import math
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urljoin
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nasflow.report import answer, facts, figures, front_svg, page, render, words

FIXTURE = Path(__file__).parent / "data" / "summary.json"
Summary = dict[str, Any]


@pytest.fixture
def summary() -> Summary:
    return read()


def read() -> Summary:
    known: Summary = json.loads(FIXTURE.read_text(encoding="utf-8"))
    return known


class Page(HTMLParser):
    """What a browser would see: the readable text, every tag with its attributes, the scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.raw = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        self.raw = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self.raw = ""

    def handle_data(self, text: str) -> None:
        if self.raw == "script":
            self.scripts.append(text)
        elif not self.raw:
            self.words.append(text)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    @property
    def data(self) -> dict[str, Any]:
        """What the chart draws."""
        found: dict[str, Any] = json.loads(self.scripts[0], parse_constant=self.unknown_to_browsers)
        return found

    @staticmethod
    def unknown_to_browsers(constant: str) -> None:
        raise ValueError(f"expected JSON that a browser reads, came {constant}")


def shipped(summary: Summary) -> dict[str, Any]:
    entry: dict[str, Any] = next(one for one in summary["deployed"] if one["shipped"])
    return entry


# ---- the answer


def test_answer_names_what_ships_its_error_its_latency_and_what_it_gives_up(summary: Summary) -> None:
    said = answer(summary)
    assert said.startswith("Ship trial-38-pruned-1.")
    assert "1.9 % error on the test data at 0.0247 ms on local-cpu" in said
    assert (
        "5.8× faster on local-cpu than the most accurate network of the search, trial-8 (1.0 %, 0.143 ms)"
        in said
    )
    assert "for 0.8 points more validation error" in said
    assert summary["choice"]["why"] in said
    assert said.split(". ")[0] in Page(render(summary)).text


def test_answer_compares_validation_with_validation_not_with_test(summary: Summary) -> None:
    before = answer(summary)
    shipped(summary)["test_error"] = 0.5
    assert "50.0 % error on the test data" in answer(summary)
    assert re.findall("for .* points", answer(summary)) == re.findall("for .* points", before)


def test_answer_says_when_the_shipped_one_is_itself_the_most_accurate(summary: Summary) -> None:
    summary["deployed"] = [{**shipped(summary), "name": "trial-8"}]
    assert "the most accurate network of the search." in answer(summary)
    assert "faster" not in answer(summary).split("Why")[0]


def test_answer_says_what_compressing_the_most_accurate_network_gained(summary: Summary) -> None:
    summary["compression"][0]["parent"] = "trial-8"
    assert (
        "faster on local-cpu than the most accurate network of the search, trial-8, from which it was made"
        in (answer(summary))
    )


def test_a_violated_limit_comes_before_everything_else(summary: Summary) -> None:
    shipped(summary)["limits"][0].update(value=0.41, holds=False)
    found = words.result(summary)
    assert found.tone == "bad" and "violates a limit" in found.headline
    assert found.sentences[0] == "Latency on local-cpu is 0.410 ms, the limit is 0.15 ms."
    assert "✗ violated" in render(summary)
    assert "1 of 2" in Page(render(summary)).text


def test_a_limit_violated_by_another_deployed_file_is_a_warning(summary: Summary) -> None:
    summary["deployed"][2]["limits"][0].update(value=0.2, holds=False)
    assert answer(summary).startswith("Ship ")
    assert "trial-8-pruned-1 violates a limit. Latency on local-cpu is 0.200 ms" in Page(render(summary)).text


def test_infeasible_run_tells_every_limit_and_the_best_that_was_seen(summary: Summary) -> None:
    summary.update(status="infeasible", front=[], deployed=[], compression=[], retrained=[], choice={})
    summary["objectives"][0]["limit"] = 0.001
    said = answer(summary)
    assert said.startswith("Nothing to ship: no network meets every limit.")
    assert "Wanted: error at most 0.1 %; best seen: 1.0 % (trial-8)." in said
    assert "multiply-adds at most 2.5 M; best seen: 24.8 k (trial-21), but not together" in said
    assert "best seen" in Page(render(summary)).text


def test_a_limit_from_below_is_read_as_one(summary: Summary) -> None:
    summary.update(status="infeasible", front=[], deployed=[], compression=[], points=[])
    summary["objectives"] = [{"metric": "accuracy", "goal": "max", "limit": 0.99}]
    summary["points"] = [
        {"trial": trial, "metrics": {"accuracy": value}} for trial, value in ((0, 0.4), (1, 0.6))
    ]
    assert "accuracy at least 99 %; best seen: 60.0 % (trial-1)." in answer(summary)


def test_running_and_failed_runs_say_so_and_give_the_knee_so_far(summary: Summary) -> None:
    summary.update(status="running", deployed=[], compression=[])
    summary["stages"]["search"]["status"] = "running"
    assert answer(summary).startswith("Still at work: search.")
    assert (
        "7 networks are on the front so far. The best balance (the knee) is trial-38: error 2.1 %"
        in answer(summary)
    )
    summary.update(status="failed", message="no space left on device")
    assert answer(summary).startswith("The run stopped before it was done. No space left on device.")


def test_an_empty_run_says_that_nothing_was_measured() -> None:
    assert "No network has been measured yet." in answer({})
    assert "Nothing has been measured yet." in Page(render({})).text


# ---- what the page shows


def test_page_is_one_file_that_asks_for_nothing(summary: Summary) -> None:
    html = render(summary)
    seen = Page(html)
    assert not [tag for tag, _ in seen.tags if tag in ("link", "img", "iframe", "base", "object", "embed")]
    assert not [attributes for _, attributes in seen.tags if "src" in attributes]
    links = [attributes["href"] for tag, attributes in seen.tags if tag == "a"]
    assert links and not [link for link in links if link is None or ":" in link or link.startswith("/")]
    assert set(re.findall(r"https?://[^\"'\s]+", html)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in html and "url(" not in html


def test_policy_lets_only_the_pages_own_script_run(summary: Summary) -> None:
    seen = Page(render(summary))
    policy = next(
        str(tag["content"]) for _, tag in seen.tags if tag.get("http-equiv") == "Content-Security-Policy"
    )
    digest = base64.b64encode(hashlib.sha256(seen.scripts[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_same_summary_same_page(summary: Summary) -> None:
    before = copy.deepcopy(summary)
    assert render(summary) == render(summary)
    assert summary == before
    frozen = MappingProxyType({**summary, "environment": MappingProxyType(summary["environment"])})
    assert render(frozen) == render(summary)


def test_chart_knows_every_network_with_its_kind(summary: Summary) -> None:
    data = Page(render(summary)).data
    kinds = {kind: data["kind"].count(kind) for kind in data["kinds"]}
    assert kinds == {
        "shipped": 1,
        "deployed": 2,
        "front": len(summary["front"]),
        "compressed": 2,
        "rejected": 3,
        "searched": sum(point["state"] == "done" for point in summary["points"]) - len(summary["front"]),
        "refused": 4,
    }
    assert list(data["kinds"]) == list(facts.KINDS)  # their order is the order of drawing
    assert [data["name"][index] for index in data["knee"]] == ["trial-38"]
    labels = [metric["label"] for metric in data["metrics"]]
    assert labels[data["x"]] == "latency on local-cpu" and labels[data["y"]] == "error"
    assert data["metrics"][data["x"]]["limit"] == 0.15


def test_an_arrow_leads_from_before_to_after_each_compression_step(summary: Summary) -> None:
    data = Page(render(summary)).data
    for step in summary["compression"]:
        index = data["name"].index(step["name"])
        assert data["before"][str(index)][data["y"]] == step["before"]["error"]
        assert data["value"][index][data["y"]] == step["after"]["error"]


def test_pointing_at_a_network_finds_its_choices(summary: Summary) -> None:
    data = Page(render(summary)).data
    knee = next(member for member in summary["front"] if member["knee"])
    assert data["choices"][str(data["name"].index("trial-38"))] == knee["point"]
    pruned = data["choices"][str(data["name"].index("trial-38-pruned-1"))]
    assert pruned == {**knee["point"], **summary["compression"][0]["policy"]}


def test_the_shipped_file_stands_where_its_file_was_measured(summary: Summary) -> None:
    one = facts.shipped(summary)
    assert one is not None
    assert one.metrics["latency_ms@local-cpu"] == shipped(summary)["latency"]["local-cpu"]["p50_ms"]
    assert one.metrics["error"] == shipped(summary)["validation_error"]
    assert one.metrics["flops"] == summary["compression"][0]["after"]["flops"]


def test_a_perfect_network_has_an_error_of_zero_not_an_unknown_one(summary: Summary) -> None:
    shipped(summary)["validation_error"] = 0.0
    one = facts.shipped(summary)
    assert one is not None and one.metrics["error"] == 0.0
    assert words.share(0.0) == "0 %"


def test_refused_steps_keep_both_numbers_and_the_reason(summary: Summary) -> None:
    text = Page(render(summary)).text
    assert "2 of 5 steps accepted" in text
    assert "0.0360 ms → 0.0483 ms 1.34×" in text
    refused = "Slower. On networks this small the conversions around each operator cost more"
    assert re.search(rf"✗ refused [^✓✗]*latency on local-cpu \+34 %[^✓✗]*{refused}", text)
    assert "2.1 % → 4.9 % +2.8 points" in text


def test_every_fact_of_the_run_is_on_the_page(summary: Summary) -> None:
    summary["data"]["skipped"] = {"corrupt image": 3}
    text = Page(render(summary)).text
    for entry in summary["deployed"]:
        assert entry["name"] in text and entry["sha256"] in text
        for device, cost in entry["latency"].items():
            assert device in text
            assert (
                f"{words.digits(cost['p50_ms'])} ms" in text and f"{words.digits(cost['p90_ms'])} ms" in text
            )
    assert "the same answer on 100 % of 360 images; their outputs differ by at most 3.63e-06" in text
    for reason, number in summary["trials"]["failures"].items():
        assert f"{number}× {reason}" in text
    assert "40 trained and measured" in text and "4 refused before training" in text
    assert "1 min 36 s" in text and "3 min 22 s" in text
    assert "Data skipped: 3 items (corrupt image)" in text and summary["data"]["sha256"] in text
    assert "2.13.0+cpu" in text and "machine.processor" in text and "strategy: nsga2" in text
    assert "1.7 %, 2.1 %, 1.7 %" in text


def test_links_lead_to_the_files_of_the_run(summary: Summary) -> None:
    shipped(summary)["file"] = "models/my net #1/model.onnx"
    links = {attributes.get("href") for tag, attributes in Page(render(summary)).tags if tag == "a"}
    assert {
        "./models/my%20net%20%231/model.onnx",
        "./models/trial-38/certificate.json",
        "summary.json",
    } <= links


# ---- nothing a person typed becomes part of the page's code


EVIL = [
    "</script><script>boom()</script>",
    '"><img src=x onerror=boom()>',
    "<!--<script>",
    "' onmouseover='boom()",
    "]]></svg><script>boom()</script>",
    "{{ 7 * 191 }}",
    "\u2028\u2029",
]


def strings_replaced(value: Any, by: str) -> Any:
    if isinstance(value, dict):
        return {key: strings_replaced(inner, by) for key, inner in value.items()}
    if isinstance(value, list):
        return [strings_replaced(inner, by) for inner in value]
    return by if isinstance(value, str) else value


@pytest.mark.parametrize("evil", EVIL)
def test_whatever_is_typed_stays_text(summary: Summary, evil: str) -> None:
    usual = [tag for tag, _ in Page(render(summary)).tags if tag in ("script", "img")]
    bad = copy.deepcopy(summary)
    for step in (*bad["compression"], *bad["deployed"], *bad["retrained"]):
        step["name"] += evil
    bad["compression"][0]["reason"] = bad["message"] = bad["choice"]["why"] = bad["run"] = evil
    bad["stages"][evil] = {"status": evil, "message": evil, "seconds": 1.0}
    bad["trials"]["failures"] = {evil: 1}
    bad["environment"][evil] = bad["experiment"][evil] = bad["data"][evil] = evil
    bad["deployed"][0]["latency"][evil] = bad["deployed"][0]["latency"]["local-cpu"]
    bad["front"][0]["point"][evil] = evil
    bad["front"][0]["metrics"][f"latency_ms@{evil}"] = 1.0
    bad["objectives"].append({"metric": f"latency_ms@{evil}", "goal": evil, "limit": 2.0})
    axes = {"points": [{"trial": 0, "metrics": {evil: 1.0, f"{evil}@{evil}": 2.0}}]}
    axes["objectives"] = [{"metric": name, "limit": 1.5} for name in (evil, f"{evil}@{evil}")]
    for made in (bad, strings_replaced(summary, evil), axes):
        seen = Page(render(made))
        assert [tag for tag, _ in seen.tags if tag in ("script", "img")] == usual == ["script", "script"]
        assert not [name for _, attributes in seen.tags for name in attributes if name.startswith("on")]
        assert seen.data["name"] and "1337" not in seen.text
        tree = ElementTree.fromstring(front_svg(made))
        assert not [one for one in tree.iter() if one.tag.endswith("script")]
    assert evil in Page(render(bad)).data["choices"][str(Page(render(bad)).data["name"].index("trial-8"))]


@pytest.mark.parametrize(
    "path",
    [
        "javascript:boom()",
        "//elsewhere.example/x",
        "https://elsewhere.example",
        "\\\\host\\x",
        "../../etc/passwd",
    ],
)
def test_no_link_leads_out_of_the_run_folder(summary: Summary, path: str) -> None:
    for entry in summary["deployed"]:
        entry["file"] = entry["certificate"] = path
    for tag, attributes in Page(render(summary)).tags:
        if tag == "a":
            assert urljoin("file:///run/report.html", attributes["href"]).startswith("file:///run/")


# ---- a summary may lack anything


@pytest.mark.parametrize("key", sorted(read()))
@pytest.mark.parametrize(
    "value", ["missing", None, [], {}, "text", 3, [None, 1, "x", [], {}], {"x": None}], ids=str
)
def test_any_part_may_be_missing_or_odd(summary: Summary, key: str, value: Any) -> None:
    if value == "missing":
        del summary[key]
    else:
        summary[key] = value
    assert Page(render(summary)).data is not None
    ElementTree.fromstring(front_svg(summary))
    assert answer(summary)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested data, lists by their first two entries."""
    inner: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        inner = list(value.items())
    elif isinstance(value, list):
        inner = list(enumerate(value))[:2]
    return [path, *(deeper for key, one in inner for deeper in places(one, (*path, key)))]


junk = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**12) | st.floats(width=32) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(places(read())[1:]), junk), min_size=1, max_size=4))
def test_no_damage_to_a_summary_keeps_the_page_from_being_made(
    damage: list[tuple[tuple[Any, ...], Any]],
) -> None:
    def within(spot: Any, key: Any) -> bool:
        if isinstance(spot, list):
            return isinstance(key, int) and len(spot) > key
        return isinstance(spot, dict) and key in spot

    summary = read()
    for path, value in damage:
        spot: Any = summary
        for key in path[:-1]:  # what was damaged before may have no such place any more
            spot = spot[key] if within(spot, key) else None
        if within(spot, path[-1]):
            spot[path[-1]] = value
    assert Page(render(summary)).data is not None
    ElementTree.fromstring(front_svg(summary))


def test_metrics_that_are_no_numbers_are_left_out(summary: Summary) -> None:
    for point in summary["points"][:6]:
        point["metrics"]["error"] = math.nan
    summary["front"][0]["metrics"]["error"] = math.inf
    summary["front"][1]["point"]["train.learning_rate"] = math.nan
    summary["compression"][0]["after"]["error"] = math.nan
    html = render(summary)
    data = Page(html).data
    assert data["value"][data["name"].index("trial-8")][data["y"]] is None
    assert not re.search(r"\bnan\b|\binf\b", front_svg(summary), re.IGNORECASE)


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1e-9, 1e12])
def test_a_single_network_is_drawn(value: float) -> None:
    metrics = {"error": value, "latency_ms@x": value}
    summary = {
        "points": [{"trial": 0, "metrics": metrics}],
        "front": [{"trial": 0, "metrics": metrics, "knee": True}],
    }
    assert 'class="dot front"' in front_svg(summary)
    assert Page(render(summary)).data["value"] == [[value, value]]


def test_a_front_without_the_list_of_points_is_drawn(summary: Summary) -> None:
    del summary["points"]
    assert Page(render(summary)).data["kind"].count("front") == 7


def many(count: int) -> Summary:
    summary = read()
    base = summary["points"]
    summary["points"] = [
        {
            "trial": index,
            "state": "done",
            "on_front": False,
            "seconds": 1.0,
            "metrics": {
                name: value * (1.001 + (index * 7919 % 1000) / 500) + 1e-9 * index
                for name, value in base[index % 30]["metrics"].items()
            },
        }
        for index in range(100, 100 + count)
    ]
    summary["hypervolume"]["curve"] = [1 - 1 / (2 + index) for index in range(count)]
    return summary


def test_five_thousand_networks_fit_in_three_megabytes() -> None:
    summary = many(5000)
    began = time.process_time()
    html = render(summary)
    assert time.process_time() - began < 5
    assert len(html.encode()) < 3e6
    assert len(Page(html).data["name"]) >= 5000


def test_a_huge_front_is_listed_in_part_and_says_so(summary: Summary) -> None:
    summary["front"] = [{**summary["front"][0], "trial": trial, "knee": False} for trial in range(1000)]
    html = render(summary)
    assert len(html.encode()) < 3e6
    assert f"{page.FRONT_SHOWN} of 1000 are listed" in Page(html).text


# ---- figures


def test_front_picture_stands_alone_and_follows_dark_mode(summary: Summary) -> None:
    text = front_svg(summary)
    tree = ElementTree.fromstring(text)
    assert tree.tag == "{http://www.w3.org/2000/svg}svg"
    assert "prefers-color-scheme: dark" in text and "--front" in text
    named = [one.text for one in tree.iter() if one.get("class") == "name"]
    assert sorted(map(str, named)) == ["knee", "shipped"]
    front = next(one for one in tree.iter() if one.get("class") == "dot front")
    assert str(front.get("d")).count("M") == len(summary["front"])


def test_stairs_turn_with_the_goals() -> None:
    members = [{"accuracy": 0.5, "ms": 1.0}, {"accuracy": 0.6, "ms": 2.0}, {"accuracy": 0.55, "ms": 3.0}]
    front = [{"trial": index, "metrics": metrics} for index, metrics in enumerate(members)]
    goals = [{"metric": "accuracy", "goal": "max"}, {"metric": "ms", "goal": "min"}]
    svg = front_svg({"front": front, "objectives": goals})
    stairs = re.search(r'class="stairs" d="([^"]*)"', svg)
    assert stairs is not None and stairs[1].count("H") == 1  # the third one is beaten in both
    assert "accuracy, % (higher is better)" in svg


@pytest.mark.parametrize("low, high", [(0, 1), (0.0123, 0.0456), (-5, 5), (1e6, 3e6), (0, 1e-7)])
@pytest.mark.parametrize("log", [False, True])
def test_ticks_are_round_and_inside(low: float, high: float, log: bool) -> None:
    if log and low <= 0:
        low = high / 500  # a logarithmic scale has no zero
    ticks = figures.Scale(low, high, 0, 100, log).ticks(5)
    assert 2 <= len(ticks) <= 11 and ticks == sorted(ticks)
    assert all(low <= tick <= high and float(f"{tick:.1e}") == tick for tick in ticks)


def test_scale_puts_its_ends_at_its_ends() -> None:
    assert [figures.Scale(2, 4, 10, 20)(value) for value in (2, 3, 4)] == [10, 15, 20]
    assert [figures.Scale(1, 100, 0, 100, log=True)(value) for value in (0, 1, 10, 100)] == [0, 0, 50, 100]


def test_a_near_limit_is_in_view_and_a_far_one_does_not_squeeze_the_rest() -> None:
    near, far = figures.spread([1, 2], 0, 100, limit=2.5), figures.spread([1, 2], 0, 100, limit=50)
    assert near.low < 1 and near.high > 2.5
    assert far.high < 3


def test_histogram_holds_every_sample_and_names_its_ends() -> None:
    samples = [1.0] * 50 + [1.1] * 50 + [9.0]
    svg = ElementTree.fromstring(figures.histogram(samples, 1.05, 1.1, [1.0, 1.1]))
    told = [str(one.text) for one in svg if one.tag.endswith("text")]
    assert told[0] == "1.00" and told[1].startswith("≥ ")  # 9.0 is in the last bar
    bars = next(one for one in svg if one.get("class") == "bar")
    assert str(bars.get("d")).count("M") == 3
    assert figures.histogram([], None, None) == ""
    ElementTree.fromstring(figures.histogram([2.0], 2.0, 2.0))


def test_numbers_read_as_people_write_them() -> None:
    for module in (facts, words):
        found = doctest.testmod(module)
        assert found.attempted > 0 and found.failed == 0
    assert words.duration(59.96) == "1 min 0 s"
    assert words.amount("size_kb", 2048.0) == "2.05 MB"
    assert words.amount("flops", None) == "–"
    assert facts.metric("peak_memory_kb").unit == "kB" and facts.metric("energy_mj@x").label == "energy on x"


# ---- in a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


def dump(html: str, folder: Path, width: int = 1280) -> tuple[str, str, float]:
    """The page after its script ran, what the browser complained about, and the seconds it took."""
    file = folder / "report.html"
    file.write_text(html, encoding="utf-8")
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    )
    flags += " --disable-component-update --disable-sync --enable-logging=stderr --dump-dom"
    began = time.monotonic()
    done = subprocess.run(
        [
            str(CHROMIUM),
            *flags.split(),
            f"--user-data-dir={folder / 'profile'}",
            f"--window-size={width},900",
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    complaints = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, complaints, time.monotonic() - began


def probed(html: str, script: str) -> str:
    """The page with a visitor who acts and then writes down what there is to see."""
    html = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    return html.replace("</body>", f'<pre id="probe"></pre><script>{script}</script></body>')


def probe(html: str, script: str, folder: Path, width: int = 1280) -> Any:
    body = f"document.getElementById('probe').textContent = JSON.stringify((() => {{ {script} }})());"
    dom, complaints, _ = dump(probed(html, body), folder, width)
    assert complaints == ""
    found = re.search(r'<pre id="probe">(.*?)</pre>', dom)
    assert found is not None
    return json.loads(found[1].replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))


@pytest.mark.long
@browser
@pytest.mark.parametrize("width", [390, 1280])
def test_browser_draws_the_networks_without_an_error(summary: Summary, tmp_path: Path, width: int) -> None:
    dom, complaints, _ = dump(render(summary), tmp_path, width)
    assert complaints == ""
    assert dom.count('class="dot front"') == len(summary["front"]) + 1  # the marks and their legend
    assert dom.count('class="dot shipped"') == 1 + 1
    assert 'class="ring"' in dom and "limit 0.15 ms" in dom
    assert dom.count('class="step compressed"') == 2


@pytest.mark.long
@browser
@pytest.mark.parametrize("change", ["empty", "single", "no points", "evil", "infeasible", "running"])
def test_browser_opens_every_kind_of_page_without_an_error(
    summary: Summary, tmp_path: Path, change: str
) -> None:
    if change == "empty":
        summary = {}
    elif change == "single":
        summary.update(points=summary["points"][:1], front=[], compression=[], deployed=[])
    elif change == "no points":
        summary.update(points=[], front=[])
    elif change == "evil":
        summary = strings_replaced(summary, EVIL[0])
    else:
        summary.update(status=change, front=[], compression=[], deployed=[], retrained=[])
    dom, complaints, _ = dump(render(summary), tmp_path)
    assert complaints == "" and "</html>" in dom


@pytest.mark.long
@browser
def test_page_never_scrolls_sideways_on_a_phone(summary: Summary, tmp_path: Path) -> None:
    summary["deployed"][0]["name"] = summary["choice"]["name"] = (
        "a-rather-long-name-without-a-single-space-" * 3
    )
    wide = probe(
        render(summary), "return [document.documentElement.scrollWidth, innerWidth]", tmp_path, width=390
    )
    assert wide[0] <= wide[1] <= 500


@pytest.mark.long
@browser
def test_reader_can_choose_axes_point_at_networks_and_sort(summary: Summary, tmp_path: Path) -> None:
    script = """
        const get = (id) => document.getElementById(id), seen = {};
        const names = () => [...document.querySelectorAll("table.sortable tbody tr")].map((row) => row.dataset.network);
        seen.first = document.querySelector("#detail h3").textContent;
        seen.near = document.querySelectorAll("#chart .dot.searched").length;
        get("view").value = "all"; get("view").dispatchEvent(new Event("change"));
        seen.all = document.querySelectorAll("#chart .dot.searched").length;
        const choose = (axis, label) => {
            get(axis).value = [...get(axis).options].find((option) => option.text === label).value;
            get(axis).dispatchEvent(new Event("change"));
        };
        choose("x", "multiply-adds"); choose("y", "parameters");
        get("logx").checked = true; get("logx").dispatchEvent(new Event("change"));
        seen.refused = document.querySelectorAll("#chart .dot.refused").length;
        seen.title = document.querySelector("#chart svg").getAttribute("aria-label");
        const svg = document.querySelector("#chart svg");
        const dot = document.querySelector("#chart .ring").getBoundingClientRect();
        svg.dispatchEvent(new MouseEvent("click", { clientX: dot.x + dot.width / 2, clientY: dot.y + dot.height / 2 }));
        seen.pointed = get("detail").textContent;
        svg.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
        seen.walked = get("detail").querySelector("h3").textContent;
        svg.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft" }));
        seen.back = get("detail").querySelector("h3").textContent;
        const button = document.querySelectorAll("table.sortable thead button")[1];
        button.click(); seen.up = names(); button.click(); seen.down = names();
        document.querySelector("tr[data-network=trial-21] td").click();
        seen.row = document.querySelector("#detail h3").textContent;
        return seen;
    """
    seen = probe(render(summary), script, tmp_path)
    assert seen["first"] == "trial-38-pruned-1"
    assert seen["near"] < seen["all"] == 33
    assert seen["refused"] == 4 and seen["title"].startswith("45 networks, parameters against multiply-adds")
    assert "trial-38" in seen["pointed"] and "stage1.kernel" in seen["pointed"]
    assert seen["walked"] != "trial-38" == seen["back"]
    assert seen["up"][0] == "trial-21" and seen["down"][0] == "trial-8"
    assert seen["row"] == "trial-21"


@pytest.mark.long
@browser
def test_five_thousand_networks_open_within_three_seconds(tmp_path: Path) -> None:
    for name in ("bare", "full"):
        (tmp_path / name).mkdir()
    *_, bare = dump("<!doctype html><title>nothing</title>", tmp_path / "bare")
    dom, complaints, full = dump(render(many(5000)), tmp_path / "full")
    assert complaints == "" and dom.count('class="dot searched"') > 1000
    assert full - bare < 3


def test_where_the_time_of_a_compressed_network_went_is_told_by_kind_of_kernel(summary: Summary) -> None:
    before, after = {"Conv": 3.0, "Relu": 0.5}, {"QLinearConv": 1.25, "Relu": 0.25}
    summary["time"] = {"my-pi": {"original": "trial-38", "before": before, "after": after}}
    page = render(summary)
    _, _, told = page.partition("Where the time went on my-pi")
    told = told[: told.index("</table>")]
    kinds = re.findall(r'<th scope="row">(.*?)</th><td class="n">(.*?)</td><td class="n">(.*?)</td>', told)
    assert [kind for kind, *_ in kinds] == ["Conv", "QLinearConv", "Relu", "all kernels"]
    assert kinds[-1][1].startswith("3.5") and kinds[-1][2].startswith("1.5")
    changes = re.findall(r'<td class="n">([^<]*)</td></tr>', told)
    assert changes == ["-100 %", "new", "-50 %", "-57 %"]
    assert "Where the time went" not in render({**summary, "time": {}})


def test_a_compression_step_is_told_in_one_line(summary: Summary) -> None:
    step = summary["compression"][0]
    step["before"] = {"error": 0.1, "flops": 100.0, "latency_ms@my-pi": 2.0, "size_kb": 0.0}
    step["after"] = {"error": 0.105, "flops": 52.0, "latency_ms@my-pi": 1.38, "size_kb": 0.0}
    assert "FLOPs -48 %, latency on my-pi -31 %, error +0.5 points." in render(summary)


def test_a_policy_is_told_by_what_it_does(summary: Summary) -> None:
    step = summary["compression"][0]
    step["policy"] = {"channels.stem": 0.5, "channels.a.1": 0.5, "channels.b": 1.0, "block.c": False, "block.d": True,
                      "channels.c.1": 0.5, "block.c.2": False,
                      "precision.stem": "int8", "precision.b": "fp32"}  # fmt: skip
    told = Page(render(summary)).text
    assert (
        "50 % of the channels in stem, a.1 · all channels in b · without c · int8 in stem · fp32 in b" in told
    )
    step["policy"] = {"precision.stem": "int8", "precision.b": "int8"}
    assert "int8 in all layers" in Page(render(summary)).text


def test_steps_tell_what_was_asked_for_and_what_compression_is_about(summary: Summary) -> None:
    step = summary["compression"][0]
    for side in ("before", "after"):
        step[side] = {**step[side], "compute_intensity": 3.0, "sparsity": 0.25}
    section = render(summary).partition("Compression, before and after")[2].partition("</thead>")[0]
    assert "sparsity" in section and "multiply-adds per byte" not in section
    summary["objectives"].append({"metric": "compute_intensity", "goal": "max"})
    section = render(summary).partition("Compression, before and after")[2].partition("</thead>")[0]
    assert "multiply-adds per byte" in section


def test_an_own_network_is_compared_with_itself_as_deployed(summary: Summary) -> None:
    ships = shipped(summary)
    origin = facts.origin(summary, ships["name"])
    summary["experiment"]["model"] = {"name": "mine.py:net"}
    summary["front"] = [one for one in summary["front"] if f"trial-{one['trial']}" == origin]
    twice = {device: {**cost, "p50_ms": 2 * cost["p50_ms"]} for device, cost in ships["latency"].items()}
    whole = {**ships, "name": origin, "shipped": False, "latency": twice, "size_kb": 4 * ships["size_kb"],
             "limits": [{"metric": "size_kb", "limit": 1.0, "value": 2.0, "holds": False}]}  # fmt: skip
    summary["deployed"] = [ships, whole]
    said = answer(summary)
    assert f"2.0× faster on local-cpu than {origin}, your mine.py:net" in said
    assert "latency on local-cpu -50 %" in said and f"against {origin}, as deployed." in said
    assert f"{origin} violates a limit" not in Page(render(summary)).text
