"""A day with nasflow: runs started, watched, cancelled and gone on with, as the page in the browser does it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from prefects import Place, bearing, ended, until

pytestmark = pytest.mark.long

EXPERIMENT = """
name: small
data: {name: digits, train_limit: 600}
objectives: [error, latency_ms, flops]
search: {strategy: random, trials: 16, epochs: 6, batch: 4, workers: 2}
compress: {enabled: false}
retrain: {networks: 1, epochs: 2}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("day"))
    (place.folder / "small.yaml").write_text(EXPERIMENT)
    with ended(place):
        said = place.call(*place.up, "--detach", "--limit", "2")
        assert said.returncode == 0, said.stderr
        yield place


def searched(place: Place, run: str) -> int:
    """How many trials the page says are done."""
    shown = place.api.artifacts(run).get("small-progress", {}).get("description", "")
    stage, _, count = str(shown).partition(" ")
    return int(count.partition("/")[0]) if stage == "search" and count else 0


def working(place: Place) -> list[list[str]]:
    """The command lines of what runs, trains and measures."""
    found = []
    for process in bearing(None, place.home):
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        if any(word in " ".join(line) for word in ("prefect.engine", "nasflow.pool", "runner.pyz")):
            found.append(line)
    return found


def test_a_cancelled_run_leaves_no_process_and_goes_on_when_it_is_started_again(place: Place) -> None:
    asked = {"experiment": "small.yaml"}
    first = place.api.start("pipeline/pipeline", asked)
    until(lambda: searched(place, first) >= 4, "four trials")
    assert any("nasflow.pool" in line for line in working(place))
    place.api.cancel(first)
    assert place.api.ended(first)["state_name"] == "Cancelled"
    until(lambda: not working(place), "end of its processes", 20)
    folder = place.folder / "runs/small"
    done = {file: file.stat().st_mtime_ns for file in folder.glob("trials/*/weights.pt")}
    assert len(done) >= 4

    second = place.api.ended(place.api.start("pipeline/pipeline", asked))
    assert second["state_name"] == "Completed", second["state"]["message"]
    assert {file: file.stat().st_mtime_ns for file in done} == done, "a trial was trained twice"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["trials"]["done"] == 16 and summary["trials"]["failed"] == 0
    until(lambda: not working(place), "end of its processes", 20)


def test_two_runs_never_use_a_device_at_once_and_the_page_says_who_waits(place: Place) -> None:
    names = ["one", "two"]
    for name in names:
        (place.folder / f"{name}.yaml").write_text(EXPERIMENT.replace("small", name))
    runs = [place.api.start("search/search", {"experiment": f"{name}.yaml"}) for name in names]
    seen: set[str] = set()

    def over() -> list[dict[str, Any]]:
        said = [place.api.run(run) for run in runs]
        seen.update(f"{one['state_name']}: {one['state'].get('message')}" for one in said)
        return said if all(one["state_type"] == "COMPLETED" for one in said) else []

    until(over, "end of both runs", 300)
    assert "AwaitingDevice: another run measures on local-cpu" in seen
    limit = place.api.get("v2/concurrency_limits/device-local-cpu")
    assert (limit["limit"], limit["active_slots"]) == (1, 0)


# In a real browser.

CHROMIUM = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--window-size=1400,1400"]  # fmt: skip


class Browser:
    """Chromium on Prefect's page. Pictures of what it shows lie in `folder`."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.folder = driver, folder

    def open(self, url: str, words: str) -> None:
        self.driver.get(url)
        self.wait_for(words)

    def wait_for(self, words: str, seconds: float = 60) -> None:
        until(lambda: words in self.text(), f"{words!r} in the page", seconds)

    def text(self) -> str:
        return str(self.driver.execute_script("return document.body.innerText"))

    def click(self, words: str) -> None:
        """Click the thing with these words: the button, if they are on one."""
        path = f"//*[text()[normalize-space()={words!r}]] | //button[normalize-space()={words!r}]"
        until(lambda: self.driver.find_elements("xpath", path), f"{words!r} to click", 30)
        found = self.driver.find_elements("xpath", path)[-1]
        self.driver.execute_script("(arguments[0].closest('button, a') || arguments[0]).click()", found)

    def field(self, name: str, kind: str) -> Any:
        """The input of a field of the form."""
        label = (
            f"//*[contains(@class, 'schema-form-property__label')][starts-with(normalize-space(), {name!r})]"
        )
        inside = "/ancestor::*[contains(concat(' ', @class, ' '), ' schema-form-property ')][1]"
        return self.driver.find_element("xpath", f"{label}{inside}//{kind}")

    def picture(self, name: str) -> Path:
        file = self.folder / f"{name}.png"
        self.driver.save_screenshot(str(file))
        return file


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium here to drive a browser")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("no chromium with its chromedriver on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    for option in (*CHROMIUM, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(option)
    service = webdriver.ChromeService(executable_path=programs[1])
    driver = webdriver.Chrome(options=options, service=service)
    folder = Path(os.environ.get("NASFLOW_PICTURES", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield Browser(driver, folder)
    finally:
        driver.quit()


def test_in_a_browser_a_run_is_started_from_its_form_watched_and_its_artifacts_opened(
    place: Place, browser: Browser
) -> None:
    from selenium.webdriver.support.select import Select

    page, deployment = place.api.page, place.api.deployment("pipeline/pipeline")
    browser.open(f"{page}/deployments", "At 02:00 AM every day")
    browser.picture("deployments")
    browser.open(
        f"{page}/deployments/deployment/{deployment['id']}/run", "Which networks there are to choose"
    )
    experiment = browser.field("experiment", "textarea")
    experiment.clear()
    experiment.send_keys("small.yaml")
    Select(browser.field("strategy", "select")).select_by_visible_text("tpe")
    trials = browser.field("trials", "input")
    trials.clear()
    trials.send_keys("8")
    folder = browser.field("folder", "textarea")
    folder.clear()
    folder.send_keys("runs/clicked")
    browser.picture("form")
    browser.click("Submit")
    browser.picture("submitted")
    made = until(
        lambda: [
            one for one in place.api.runs(deployment["id"]) if one["parameters"]["folder"] == "runs/clicked"
        ],
        "run of the form",
        60,
    )
    run = made[0]["id"]
    wanted = {"experiment": "small.yaml", "strategy": "tpe", "trials": 8}
    assert wanted.items() <= made[0]["parameters"].items()

    until(lambda: searched(place, run) >= 2, "progress")
    browser.open(f"{page}/runs/flow-run/{run}", "small with tpe")
    browser.click("Artifacts")
    browser.wait_for("small-progress")
    browser.picture("progress")
    assert place.api.ended(run)["state_name"] == "Completed"
    browser.open(f"{page}/runs/flow-run/{run}", "Completed")
    browser.picture("run")

    shown = place.api.artifacts(run)
    assert shown.keys() == {"small-progress", "small-front", "small-result", "small-report"}
    browser.open(f"{page}/artifacts/artifact/{shown['small-result']['id']}", "small-result")
    image = "const one = document.querySelector('img[src^=\"data:image/svg\"]'); return one ? one.naturalWidth : 0"
    until(lambda: browser.driver.execute_script(image), "picture of the front", 30)
    browser.picture("result")
    browser.open(f"{page}/artifacts/artifact/{shown['small-front']['id']}", "latency on local-cpu")
    browser.picture("front")
    mlflow = f"http://127.0.0.1:{place.mlflow_port}"
    assert shown["small-report"]["data"].startswith(f"[Report of small]({mlflow}/#/experiments/")
