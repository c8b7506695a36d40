"""Networks said in data: built again anywhere, with the weights they had, and clear about what does not fit."""

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import SETTINGS
from torch import nn

from nasflow import names
from nasflow.compression import prune
from nasflow.errors import NasflowError
from nasflow.network import Architecture, Network, Part, Pruning, load_weights
from nasflow.testing import elsewhere

SHAPE, CLASSES = (1, 8, 8), 4
MOBILE = Part("mobile", {key: value for key, value in SETTINGS["space"].items() if key != "name"})
ARCHITECTURE = Architecture((MOBILE,), SHAPE, CLASSES)
MINE = """
import torch
from torch import nn

def network(width=6):
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4))

def nothing():
    pass

def text():
    return "network"

NUMBER = 3
NETWORK = nn.Linear(1, 1)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A user's folder with a model of their own."""
    home = tmp_path_factory.mktemp("home")
    (home / "network_of_mine.py").write_text(MINE)
    return home


@pytest.fixture
def own(home, monkeypatch):
    """The architecture of a user's own model in the current folder."""
    monkeypatch.chdir(home)
    return Architecture((), SHAPE, CLASSES, Part("network_of_mine.py:network", {"width": 5}))


def first(space):
    return {parameter.name: parameter.options[0] for parameter in space.parameters}


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def save(model, file):
    torch.save(model.state_dict(), file)
    return file


# Architecture


def test_the_space_is_the_product_of_its_parts():
    both = Architecture((MOBILE, Part("training", {"optimizer": ["sgd"]})), SHAPE, CLASSES).space()
    alone = [p.name for p in ARCHITECTURE.space().parameters]
    assert [p.name for p in both.parameters][: len(alone)] == alone
    assert both["train.optimizer"].options == ("sgd",)


def test_what_a_point_says_about_training_does_not_change_its_network():
    point = first(ARCHITECTURE.space())
    both = Architecture((MOBILE, Part("training")), SHAPE, CLASSES)
    torch.manual_seed(0)
    plain = ARCHITECTURE.build(point)
    torch.manual_seed(0)
    assert equal(both.build({**point, "train.batch_size": 32}), plain)


def test_an_architecture_reaches_workers_whole():
    again = pickle.loads(pickle.dumps(ARCHITECTURE))
    assert again == ARCHITECTURE
    assert again.build(first(again.space()))(torch.zeros(2, *SHAPE)).shape == (2, CLASSES)


def test_a_space_without_networks_says_which_space_has_some():
    with pytest.raises(NasflowError, match="none of \\['training'\\] builds networks; mobile does"):
        Architecture((Part("training"),), SHAPE, CLASSES).build({})


def test_a_model_of_ones_own_is_a_space_with_one_point(own):
    assert own.space().size == 1
    assert own.build({})[0].out_channels == 5


def test_a_model_of_ones_own_comes_with_its_weights(own, tmp_path):
    trained = own.build({})
    weights = save(trained, tmp_path / "weights.pt")
    assert equal(replace(own, weights=weights).build({}), trained)
    assert not equal(own.build({}), trained)


def test_a_function_without_a_name_for_others_stands_in_for_the_named_one(own):
    made = nn.Linear(1, 1)
    assert replace(own, model=Part("__main__:made"), make=lambda: made).build({}) is made


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (":nothing", "NoneType"),
        (":text", "str"),
        (":NUMBER", "int"),
        (":NETWORK", "Linear"),
        ("", "module"),
    ],
)
def test_what_gives_no_network_is_told_what_it_gave(own, function, got):
    named = replace(own, model=Part(f"network_of_mine.py{function}"))
    with pytest.raises(
        NasflowError, match=f"expected a function that returns a torch.nn.Module.*, got a {got}"
    ):
        named.build({})


def test_a_class_of_networks_is_a_function_that_gives_one(own):
    assert isinstance(replace(own, model=Part("network_of_mine.py:nn.ReLU")).build({}), nn.ReLU)


def test_arguments_that_the_function_does_not_take_are_named(own):
    with pytest.raises(names.UnknownName, match=r"takes no argument 'wdith': did you mean 'width'\?"):
        replace(own, model=Part("network_of_mine.py:network", {"wdith": 5})).build({})


# Weights


def test_weights_of_another_network_are_told_to_be_so(own, tmp_path):
    weights = save(nn.Linear(3, 3), tmp_path / "other.pt")
    with pytest.raises(NasflowError, match="expected the state dict of this network: "):
        replace(own, weights=weights).build({})


def test_a_missing_file_of_weights_is_named(own):
    with pytest.raises(NasflowError, match=r"no weights at nowhere\.pt"):
        replace(own, weights=Path("nowhere.pt")).build({})


def test_a_whole_pickled_network_is_no_state_dict_and_is_not_executed(own, tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save(Trap(), tmp_path / "trap.pt")
    with pytest.raises(NasflowError, match="expected the state dict"):
        load_weights(nn.Linear(1, 1), tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()


def test_a_torn_file_of_weights_is_an_error_that_names_it(own, tmp_path):
    file = save(own.build({}), tmp_path / "weights.pt")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(NasflowError, match=r"weights\.pt: expected the state dict"):
        replace(own, weights=file).build({})


# Network


def policy(point):
    """Half of all channels, and no second block."""
    space = Pruning(ARCHITECTURE, Network("it", point), 1, (0.5, 1.0)).space()
    return {**prune.uniform(space, 0.5), **{p.name: False for p in space.parameters if p.name[:5] == "block"}}


def test_a_network_is_the_same_after_a_trip_through_json_to_a_folder_that_moved(tmp_path):
    point = first(ARCHITECTURE.space()) | {"stage1.depth": 2}
    cut = policy(point)
    pruned = Network("it-pruned", point, cut, parent="it")
    weights = tmp_path / "run" / "deep" / "weights.pt"
    weights.parent.mkdir(parents=True)
    network = replace(pruned, weights=weights)
    built = pruned.build(ARCHITECTURE)
    save(built, weights)
    said = json.loads(json.dumps(network.to_dict(tmp_path / "run")))
    assert said["weights"] == "deep/weights.pt"
    (tmp_path / "run").rename(tmp_path / "moved")
    again = Network.from_dict(said, tmp_path / "moved")
    assert again == replace(network, weights=tmp_path / "moved" / "deep" / "weights.pt")
    assert equal(again.build(ARCHITECTURE), built)
    assert not equal(ARCHITECTURE.build(point), built)


def test_a_network_without_weights_stays_without():
    network = Network("it", {"a": 1})
    assert Network.from_dict(network.to_dict(Path("run")), Path("run")) == network


def test_a_policy_is_applied_to_the_points_network_before_its_weights_are_loaded():
    point = first(ARCHITECTURE.space()) | {"stage1.depth": 2}
    whole, pruned = (
        sum(p.numel() for p in Network("it", point, cut).build(ARCHITECTURE).parameters())
        for cut in ({}, policy(point))
    )
    assert pruned < whole


def test_another_process_builds_the_same_network(tmp_path):
    point = first(ARCHITECTURE.space()) | {"stage1.depth": 2}
    network = Network("it", point, policy(point))
    file = save(network.build(ARCHITECTURE), tmp_path / "weights.pt")
    said = json.dumps(replace(network, weights=file).to_dict(tmp_path))
    ended = elsewhere.call(lambda: _answer(said, tmp_path, tmp_path / "answer.pt"))
    assert ended.returncode == 0, ended.stderr.decode()
    ours = Network.from_dict(json.loads(said), tmp_path).build(ARCHITECTURE).eval()
    with torch.no_grad():
        assert torch.equal(torch.load(tmp_path / "answer.pt"), ours(torch.ones(1, *SHAPE)))


def _answer(said, folder, file):
    with torch.no_grad():
        network = Network.from_dict(json.loads(said), folder).build(ARCHITECTURE).eval()
        torch.save(network(torch.ones(1, *SHAPE)), file)


# Pruning


@pytest.fixture
def pruning(tmp_path):
    point = first(ARCHITECTURE.space()) | {"stage1.depth": 2}
    parent = Network("it", point)
    weights = save(parent.build(ARCHITECTURE), tmp_path / "weights.pt")
    return Pruning(ARCHITECTURE, replace(parent, weights=weights), 1, (0.5, 1.0))


def test_a_policy_that_keeps_everything_gives_the_trained_parent(pruning):
    whole = prune.uniform(pruning.space(), 1.0)
    assert equal(pruning.build(whole), pruning.parent.build(ARCHITECTURE))


def test_pruning_starts_from_the_trained_weights(pruning):
    kept = {
        value
        for p in pruning.build(policy(pruning.parent.point)).parameters()
        for value in p.flatten().tolist()
    }
    trained = {
        value for p in pruning.parent.build(ARCHITECTURE).parameters() for value in p.flatten().tolist()
    }
    assert len(kept & trained) > 0.9 * len(kept)


def test_pruning_may_start_from_what_an_earlier_step_left(pruning, tmp_path):
    wanted = policy(pruning.parent.point)
    half = prune.partway(wanted, 0.5)
    weights = save(pruning.build(half), tmp_path / "half.pt")
    further = replace(pruning, start=replace(pruning.parent, policy=half, weights=weights))
    assert equal(further.build(half), pruning.build(half))
    shapes = [[v.shape for v in one.build(wanted).state_dict().values()] for one in (further, pruning)]
    assert shapes[0] == shapes[1]
    assert further.space() == pruning.space()
    assert equal(further.teacher(wanted), pruning.parent.build(ARCHITECTURE))


def test_settings_of_pruning_reach_its_space(pruning):
    wide = replace(pruning, keep=(0.25, 0.5, 0.75, 1.0)).space()
    coarse = replace(pruning, round_to=8).space()
    group = next(p.name for p in pruning.space().parameters if p.name.startswith("channels."))
    assert len(wide[group].options) > len(pruning.space()[group].options)
    assert coarse.size < pruning.space().size
    inner = group.removeprefix("channels.")
    protected = replace(pruning, protect=(inner,)).space()
    assert group not in [p.name for p in protected.parameters]


def test_whoever_is_pruned_learns_from_the_whole_parent(pruning):
    assert equal(pruning.teacher(policy(pruning.parent.point)), pruning.parent.build(ARCHITECTURE))
    assert pruning.shape == SHAPE


def test_which_nodes_stay_in_floats_is_said_in_json(tmp_path):
    network = Network("a-int8", {"n": 1}, int8=True, floats=("/0/Conv", "/1/Relu"), parent="a")
    told = json.loads(json.dumps(network.to_dict(tmp_path)))
    assert Network.from_dict(told, tmp_path) == network
    del told["floats"]  # as runs of before wrote it
    assert Network.from_dict(told, tmp_path).floats == ()
