"""`nasflow.fit`: the whole chain in one call, its result as an object, resumed and told in words what is wrong."""

import copy
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tiny
import torch
from torch import nn

import nasflow
from nasflow.data import DataSettings, load_test
from nasflow.errors import NasflowError

QUICK = {
    "space": {**tiny.SETTINGS["space"]},
    "search": {"workers": 1, "recipe": {"batch_size": 16}},
    "compress": {"trials": 1, "epochs": 1, "max_error_increase": 0.9},
    "retrain": {"networks": 1, "epochs": 2},
    "deploy": {"int8_agreement": 0.1},
}
SHORT = {**QUICK, "compress": {"enabled": False}, "retrain": {"networks": 1, "epochs": 1}}
OWN = {key: value for key, value in QUICK.items() if key != "space"}


def fit(data, folder: Path, cost=tiny.by_size, **options) -> nasflow.Fit:
    """nasflow.fit as small as can be, on a device that answers by a formula."""
    given = {"trials": 2, "epochs": 1, "settings": QUICK, "folder": folder, **options}
    with tiny.world(cost):
        return nasflow.fit(data, **given)


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> nasflow.Fit:
    return fit(tiny.images(), tmp_path_factory.mktemp("runs") / "bars")


# ---- the result


def test_the_front_says_what_each_network_is_and_costs(result):
    assert result.front
    for network in result.front:
        assert {"error", "latency_ms@local-cpu", "flops"} <= network["metrics"].keys()
        assert network["point"]


def test_what_it_predicts_on_raw_images_is_what_the_certificate_was_measured_with(result):
    """Scaling and normalising as in training: test images as they were given have the certified test error."""
    best = result.best()
    test = load_test(DataSettings(name="npz", path=Path(result.summary["experiment"]["data"]["path"])))
    wrong = np.mean(best.predict(test.x) != test.y)
    assert wrong == pytest.approx(best.certificate["test_error"], abs=1e-12)
    assert np.array_equal(result.predict(test.x), best.predict(test.x))
    assert best.predict(test.x).dtype == np.int64


def test_predict_takes_images_in_every_layout_that_fit_takes(result):
    x = tiny.images(20, seed=3)[0]
    expected = result.predict(x)
    for same in (x[:, None], x[..., None], x.astype(np.int64), x.tolist(), torch.from_numpy(x)):
        assert np.array_equal(result.predict(same), expected)
    assert result.predict(x[:0]).shape == (0,)


def test_predict_refuses_images_of_another_size_in_words(result):
    with pytest.raises(NasflowError, match="expected images of 1x8x8, as in training, got 1x9x8"):
        result.predict(np.zeros((2, 9, 8), np.uint8))
    with pytest.raises(NasflowError, match="expected images"):
        result.predict(np.zeros(8, np.uint8))


def test_the_exported_file_and_its_certificate_stand_alone(result, tmp_path):
    file = result.export(tmp_path / "new" / "model.onnx")
    certificate = json.loads((tmp_path / "new" / "model.certificate.json").read_text())
    assert file.read_bytes() == result.best().file.read_bytes()
    assert certificate == result.best().certificate
    x = tiny.images(5)[0][:, None].astype(np.float32)
    said = certificate["preprocess"]
    x = (x * said["scale"] - np.float32(said["mean"][0])) / np.float32(said["std"][0])
    (logits,) = onnxruntime.InferenceSession(file).run(None, {certificate["input"]["name"]: x})
    assert np.array_equal(logits.argmax(1), result.predict(tiny.images(5)[0]))


def test_the_report_is_there(result):
    assert result.report().read_text().startswith("<!doctype html>")


def test_class_numbers_have_names(result):
    assert result.best().classes == ("0", "1", "2", "3")


def test_the_best_on_a_device_is_as_good_as_what_ships_and_no_slower(result):
    shipped, best = result.best(), result.best("local-cpu")
    assert best.certificate["validation_error"] <= shipped.certificate["validation_error"]
    times = [one.certificate["latency"]["local-cpu"]["p50_ms"] for one in (best, shipped)]
    assert times[0] <= times[1]
    with pytest.raises(
        NasflowError, match="nothing was measured on 'pixel-3'; this run measured on local-cpu"
    ):
        result.best("pixel-3")


# ---- going on


def test_a_second_call_returns_at_once(result, monkeypatch):
    monkeypatch.setattr(nasflow.api.stages, "open_run", None)
    again = fit(tiny.images(), result.folder)
    assert again.summary == result.summary


def test_other_settings_of_later_stages_go_on_from_the_search(result):
    notes = []
    settings = {**QUICK, "retrain": {"networks": 1, "epochs": 3}}
    more = fit(tiny.images(), result.folder, settings=settings, notify=lambda *note: notes.append(note))
    assert more.summary["points"] == result.summary["points"]
    assert more.summary["retrained"][0]["epochs"] == 3
    assert ("search", 1, 1, result.summary["stages"]["search"]["message"]) in notes


def test_other_data_in_the_same_folder_are_refused(result):
    with pytest.raises(NasflowError, match="holds a search with other settings for data"):
        fit(tiny.images(240), result.folder)


# ---- what goes in


def test_starting_anew_with_test_images_of_ones_own(result, tmp_path):
    shutil.copytree(result.folder, tmp_path / "run")
    x, y = tiny.images(200)
    names = np.array(["first", "second", "third", "fourth"])
    test_x, test_y = tiny.images(37, seed=9)
    found = fit((x, names[y], test_x, names[test_y]), tmp_path / "run", settings=SHORT, fresh=True)
    best = found.best()
    assert best.certificate["data"]["test_images"] == 37
    assert best.classes == ("first", "fourth", "second", "third")
    wrong = np.mean(np.array(best.classes)[best.predict(test_x)] != names[test_y])
    assert wrong == pytest.approx(best.certificate["test_error"], abs=1e-12)


def test_limits_are_kept_in_the_search_and_a_broken_one_is_warned_of(tmp_path, result):
    flops = min(point["metrics"]["flops"] for point in result.summary["points"])
    limits = {"flops": 1.01 * flops, "latency_ms": 0.5}

    def slow_in_the_end(file: Path) -> float:
        return 1.0 if "models" in file.parts else 0.1

    with pytest.warns(UserWarning, match="breaks a limit: .* oversteps latency_ms@local-cpu"):
        found = fit(tiny.images(), tmp_path / "run", limits=limits, settings=SHORT, cost=slow_in_the_end)
    assert all(one["metrics"]["flops"] <= limits["flops"] for one in found.front)
    held = {limit["metric"]: limit["holds"] for limit in found.best().certificate["limits"]}
    assert held == {"flops": True, "latency_ms@local-cpu": False, "agreement": True}


def test_limits_that_no_network_keeps_are_an_error_that_names_them(tmp_path):
    with pytest.raises(NasflowError, match="no network keeps every limit: flops"):
        fit(tiny.images(), tmp_path / "run", limits={"flops": 10.0})


class Net(nn.Module):
    """A network of one's own, as someone would write it in a notebook."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.block = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.last = nn.Linear(width * 4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        return self.last(nn.functional.adaptive_avg_pool2d(x + self.block(x), (4, 1)).flatten(1))


def test_a_module_with_its_weights_is_judged_as_it_is_and_compressed(tmp_path):
    torch.manual_seed(0)
    net = Net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = fit(tiny.images(), tmp_path / "run", model=net, settings=OWN)
    assert net.training and all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    (trial,) = found.summary["points"]
    kept = torch.load(tmp_path / "run/trials/00000/weights.pt", weights_only=True)
    assert all(torch.equal(value, before[name]) for name, value in kept.items())
    assert trial["metrics"]["params"] == sum(parameter.numel() for parameter in net.parameters())
    assert {step["kind"] for step in found.summary["compression"]} == {"prune", "int8"}
    whole = next(one for one in found.deployed if one.name == "trial-0")
    x, said = tiny.images(50, seed=5)[0], whole.certificate["preprocess"]
    with torch.no_grad():
        pixels = torch.from_numpy(x[:, None]).float() * said["scale"]
        logits = copy.deepcopy(net).eval()((pixels - said["mean"][0]) / said["std"][0])
    assert np.array_equal(whole.predict(x), logits.argmax(1).numpy())
    again = fit(tiny.images(), tmp_path / "run", model=net, settings=OWN)
    assert again.summary == found.summary
    with torch.no_grad():
        net.last.bias += 1
    with pytest.raises(NasflowError, match="other settings for model"):
        fit(tiny.images(), tmp_path / "run", model=net, settings=OWN)


def test_a_function_or_class_that_others_can_import_goes_by_its_name(tmp_path):
    with pytest.raises(NasflowError, match="no network keeps every limit"):
        fit(tiny.images(), tmp_path / "run", model=Net, settings=OWN, limits={"flops": 1.0})
    assert "name: test_api:Net\n" in (tmp_path / "run/experiment.yaml").read_text()


def test_a_function_of_a_script_is_enough_and_the_script_resumes(tmp_path):
    """Nothing of it can be imported: the workers get it by value, and the script runs once in each process."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import tiny, nasflow, torch
from torch import nn

print("once")
WIDTH = int(sys.argv[1])

def make():
    return nn.Sequential(nn.Conv2d(1, WIDTH, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(WIDTH * 16, 4))

with tiny.world(processes=True):
    settings = {OWN!r} | {{"compress": {{"enabled": False}}}}
    found = nasflow.fit(tiny.images(), model=make, epochs=1, folder="run", settings=settings, notify=print)
print(found.summary["experiment"]["model"]["name"], len(found.predict(tiny.images(3)[0])))
""")

    def ran(width: int) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "error", script, str(width)], cwd=tmp_path, capture_output=True, text=True
        )

    first = ran(8)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("once") == 1
    assert re.search(r"^__main__:make#[0-9a-f]{8} 3$", first.stdout, re.MULTILINE)
    assert "search 1 1" in first.stdout
    second = ran(8)
    assert second.stdout.splitlines()[-1] == first.stdout.splitlines()[-1]
    assert "search" not in second.stdout
    changed = ran(16)
    assert "other settings for model" in changed.stderr


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"data": "digist"}, "fit.*'digist': did you mean 'digits'"),
        ({"data": (np.zeros((4, 8, 8)),)}, r"expected .* \(images, labels\).* got 1 of them"),
        ({"data": np.zeros((4, 8, 8))}, r"expected .* \(images, labels\).* got ndarray"),
        ({"data": (np.zeros((4, 8)), np.zeros(4))}, r"expected images .* got \(4, 8\)"),
        ({"data": (np.zeros((4, 8, 8)), np.zeros((4, 2)))}, "take y.argmax"),
        ({"data": (np.zeros((5, 8, 8)), np.zeros(4, int))}, "expected one label an image"),
        ({"limits": {"latency": 1.0}}, "unknown metric 'latency': did you mean 'latency_ms'"),
        ({"devices": "pixel3"}, "unknown device 'pixel3': did you mean 'pixel-3'"),
        ({"model": 3}, "expected a torch.nn.Module, a function .* got int"),
        ({"model": lambda: 3}, "expected a function that returns a torch.nn.Module, got int from it"),
        ({"model": "nowhere"}, "unknown model 'nowhere'"),
        ({"settings": {"serch": {}}}, "did you mean 'search'"),
        ({"folder": "runs/a b"}, "expected a name of letters"),
    ],
)
def test_what_cannot_be_is_said_in_words(options, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"data": "digits", "settings": {}, "folder": "run", **options}
    with pytest.raises(NasflowError, match=f"(?s){says}"):
        fit(**given)
