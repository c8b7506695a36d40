import copy

import pytest
import torch
from networks import NETWORKS, SHAPE, Computes, Residual, convolution, head, residual, trained
from torch import nn

from nasflow.compression.groups import PruneError, output, remove, trace

torch.set_num_threads(1)


def _layers(model: nn.Module) -> dict[str, set[tuple[str, str]]]:
    groups = trace(model, SHAPE).groups
    weighty = (nn.Conv2d, nn.Linear)
    return {g.name: {(m.layer, m.side) for m in g.members if isinstance(m.module, weighty)} for g in groups}


def test_groups_of_a_chain_are_its_layers_with_their_readers():
    model = nn.Sequential(convolution(3, 16), convolution(16, 24), head(24))
    assert _layers(model) == {
        "0.0": {("0.0", "out"), ("1.0", "in")},
        "1.0": {("1.0", "out"), ("2.2", "in")},
    }


def test_depthwise_layers_hand_channels_through():
    model = nn.Sequential(convolution(3, 16), convolution(16, 16, groups=16), convolution(16, 8, 1), head(8))
    assert _layers(model)["0.0"] == {("0.0", "out"), ("1.0", "out"), ("2.0", "in")}


def test_a_flattened_channel_is_many_inputs_of_a_linear_layer():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    (group,) = trace(model, SHAPE).groups
    reader = group.members[-1]
    assert reader.layer == "2"
    assert reader.index.tolist() == list(range(144))
    assert reader.root.tolist() == [i // 36 for i in range(144)]


def test_concatenated_channels_are_found_behind_those_before_them():
    def compute(net: Computes, x: torch.Tensor) -> torch.Tensor:
        return net.head(net.join(torch.cat([net.a(x), net.b(x)], 1)))

    model = Computes(
        compute, a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(3, 6, 1), join=nn.Conv2d(10, 8, 1), head=head(8)
    )
    groups = {group.name: group for group in trace(model, SHAPE).groups}
    assert groups["a"].members[-1].index.tolist() == [0, 1, 2, 3]
    assert groups["b"].members[-1].index.tolist() == [4, 5, 6, 7, 8, 9]
    assert groups["b"].members[-1].root.tolist() == [0, 1, 2, 3, 4, 5]


def test_outputs_of_the_network_are_in_no_group():
    bare = nn.Sequential(nn.Conv2d(3, 8, 8), nn.Flatten())
    assert trace(bare, SHAPE).groups == ()
    assert trace(nn.Sequential(nn.Conv2d(3, 8, 8), nn.Flatten(), nn.Softmax(1)), SHAPE).groups == ()


def test_channels_of_the_input_are_in_no_group_but_counted_where_it_is_concatenated():
    def compute(net: Computes, x: torch.Tensor) -> torch.Tensor:
        return net.head(net.join(torch.cat([x, net.a(x)], 1) * torch.cat([net.b(x), net.c(x)], 1)))

    layers = {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(3, 3, 1), "c": nn.Conv2d(3, 4, 1)}
    model = Computes(compute, **layers, join=nn.Conv2d(7, 8, 1), head=head(8))
    groups = {group.name: group for group in trace(model, SHAPE).groups}
    assert groups.keys() == {"a", "join"}
    assert set(groups["a"].layers) == {"a", "c"}
    (reader,) = (member for member in groups["a"].members if member.side == "in")
    assert reader.index.tolist() == [3, 4, 5, 6]


def test_grouped_layers_lose_as_many_channels_from_each_slice():
    model = NETWORKS["grouped"]()
    assert {group.name: group.step for group in trace(model, SHAPE).groups} == {"0.0": 4, "1.0": 4, "2.0": 1}


@pytest.mark.parametrize("name", NETWORKS)
def test_tracing_leaves_the_network_as_it_was(name):
    model = NETWORKS[name]().train()
    next(model.parameters()).requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    trace(model, SHAPE)
    assert all(module.training for module in model.modules())
    assert [p.requires_grad for p in model.parameters()].count(False) == 1
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_removing_computes_what_is_left_when_nothing_reads_a_channel():
    model = trained(residual)
    group = trace(model, SHAPE).groups[0]
    gone = torch.tensor([1, 4, 7])
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        for member in group.inside(by_hand).members:
            if member.side == "in":
                member.module.weight[:, gone] = 0
    remove(trace(model, SHAPE), SHAPE, {group.name: gone})
    assert model[0][0].out_channels == model[1].second[0].out_channels == 13
    torch.testing.assert_close(output(model, SHAPE), output(by_hand, SHAPE))


def test_removing_refuses_what_would_change_the_meaning_of_other_channels():
    def shuffled(net: Computes, x: torch.Tensor) -> torch.Tensor:
        x = net.first(x)
        mixed = x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return net.head(net.second(mixed))

    model = Computes(shuffled, first=nn.Conv2d(3, 8, 1), second=nn.Conv2d(8, 8, 1), head=head(8))
    with pytest.raises(PruneError, match="first cannot be pruned"):
        remove(trace(model, SHAPE), SHAPE, {"first": torch.arange(4)})


def test_a_network_that_does_not_run_on_the_shape_is_an_error_that_says_so():
    with pytest.raises(PruneError, match=r"cannot run the network on an input of shape \(1, 8, 8\)"):
        trace(residual(), (1, 8, 8))
    with pytest.raises(PruneError, match="one tensor, got tuple"):
        trace(Computes(lambda net, x: (net.a(x), x), a=nn.Conv2d(3, 8, 1)), SHAPE)


def test_tied_layers_are_one_group():
    model = nn.Sequential(convolution(3, 8), Residual(8, 8), head(8))
    group = trace(model, SHAPE).groups[0]
    assert set(group.layers) >= {"0.0", "0.1", "1.second.0", "1.second.1"}
