"""What the arithmetic of layers promises: the numbers that a freshly counted network has."""

import copy

import networks
import numpy as np
import pytest
import torch
from torch import nn

from nasflow.compression import prune
from nasflow.compression.groups import PruneError
from nasflow.compression.layers import Layer, channels, kept, layers, macs, parameters
from nasflow.evaluators import counts

torch.set_num_threads(1)

NETWORKS = pytest.mark.parametrize("make", networks.NETWORKS.values(), ids=networks.NETWORKS)


@NETWORKS
def test_counts_of_every_policy_are_those_of_the_network_pruned_by_it(make):
    model = networks.trained(make)
    found = layers(model, networks.SHAPE)
    space = prune.space(model, networks.SHAPE, round_to=4, keep=(1.0, 0.75, 0.5, 0.25))
    rng = np.random.default_rng(0)
    assert parameters(found) == counts.params(model)
    for _ in range(6):
        policy = {
            name: True if name.startswith("block.") else value for name, value in space.sample(rng).items()
        }
        pruned = prune.apply(policy, model, networks.SHAPE)
        left = kept(found, policy)
        assert parameters(found, left) == counts.params(pruned)
        assert macs(found, left) == macs(layers(pruned, networks.SHAPE))
        if make is not networks.normalised:  # whose attention multiplies results by each other
            assert macs(found, left) == counts.flops(pruned, networks.SHAPE)


def test_layers_come_in_the_order_in_which_they_run_with_what_they_are():
    found = {layer.name: layer for layer in layers(networks.mobile(), networks.SHAPE)}
    assert list(found)[:4] == ["0.0", "1.0.layers.0.0", "1.0.layers.1.0", "1.0.layers.2.down"]
    stem, expand, depthwise = (found[name] for name in list(found)[:3])
    assert (stem.kind, stem.inputs, stem.outputs, stem.kernel) == ("conv", 3, 16, (3, 3))
    assert (stem.reads, stem.makes) == (None, "0.0")
    assert (expand.reads, expand.makes) == ("0.0", "1.0.layers.0.0")
    assert (depthwise.kind, depthwise.slices, depthwise.reads) == ("depthwise", 32, "1.0.layers.0.0")
    assert depthwise.makes == depthwise.reads
    assert found["3.2"].kind == "linear" and found["3.2"].makes is None
    halved = depthwise.pruned({"1.0.layers.0.0": 16})
    assert (halved.inputs, halved.outputs, halved.slices, halved.macs) == (16, 16, 16, depthwise.macs // 2)
    strided = found["1.1.layers.1.0"]
    assert (strided.stride, strided.given, (strided.height, strided.width)) == (2, (8, 8), (4, 4))


def test_a_layer_that_runs_twice_is_one_layer_that_works_twice():
    model = networks.Computes(
        lambda net, x: net.head(net.again(net.again(net.stem(x)))),
        stem=nn.Conv2d(3, 8, 1),
        again=nn.Conv2d(8, 8, 3, padding=1),
        head=networks.head(8),
    )
    found = layers(model, networks.SHAPE)
    assert [layer.name for layer in found] == ["stem", "again", "head.2"]
    assert macs(found) == counts.flops(model, networks.SHAPE)
    assert parameters(found) == counts.params(model)


def test_numbers_that_no_layer_holds_count_too():
    model = networks.Computes(
        lambda net, x: net.head(net.conv(net.norm(x)) * net.scale),
        norm=nn.BatchNorm2d(3),
        conv=nn.Conv2d(3, 8, 1),
        head=networks.head(8),
    )
    model.scale = nn.Parameter(torch.ones(8, 1, 1))
    model.unused = nn.Parameter(torch.ones(5))
    assert parameters(layers(model, networks.SHAPE)) == counts.params(model)


def test_one_dimension_is_a_row():
    model = nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 8, 5, stride=2), nn.Flatten(), nn.Linear(8 * 30, 5))
    first, last = layers(model, networks.SHAPE)
    assert (first.kernel, first.height, first.width, first.given) == ((1, 5), 1, 30, (1, 64))
    assert first.macs + last.macs == counts.flops(model, networks.SHAPE)


def test_the_network_is_left_as_it_was():
    model = networks.mobile().train()
    before = copy.deepcopy(model.state_dict())
    layers(model, networks.SHAPE)
    assert model.training and all(m.training for m in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_groups_and_their_channels():
    model = networks.concatenated()
    found = layers(model, networks.SHAPE)
    assert channels(found) == {"stem.0": 16, "left.0": 8, "right.0": 24, "join.0": 32}
    join = next(layer for layer in found if layer.name == "join.0")
    assert join.reads == "right.0"  # makes most of its inputs
    assert join.pruned({"right.0": 12, "left.0": 4}).inputs == 16 + 4 + 12


def test_a_policy_for_another_network_is_refused():
    found = layers(networks.chain(), networks.SHAPE)
    assert kept(found, {"channels.0.0": 0.5, "block.1": True}) == {"0.0": 8}
    with pytest.raises(PruneError, match=r"channels\.zero: no group of channels of that name"):
        kept(found, {"channels.zero": 0.5})


def test_a_network_without_layers_is_refused():
    with pytest.raises(PruneError, match="none ran"):
        layers(nn.Sequential(nn.ReLU()), networks.SHAPE)


def test_a_layer_of_no_group_stays_as_it_is():
    last = layers(networks.chain(), networks.SHAPE)[-1]
    assert last.pruned({"0.0": 8}) is last
    assert isinstance(last, Layer) and last.pruned({"2.0": 8}).inputs == 8
