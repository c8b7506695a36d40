import copy

import pytest
import torch
from networks import SHAPE, Computes, Residual, convolution, head, trained
from torch import nn
from torch.nn import functional

from nasflow.compression import prune
from nasflow.compression.groups import Group, output

torch.set_num_threads(1)

GONE = torch.tensor([1, 2, 5, 6])  # as many of each half, which layers in slices ask for


def _silenced(model: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    """Scales of zero beside shifts that are not."""
    with torch.no_grad():
        norm.weight[GONE] = 0
        norm.bias[GONE] = torch.tensor([0.5, -0.3, 1.0, 0.8])
    return model


def _first(group: Group) -> torch.Tensor:
    return torch.ones(group.channels).index_fill(0, GONE, 0.0)


def _pruned(model: nn.Module, name: str = "0.0") -> nn.Module:
    return prune.apply({f"channels.{name}": 0.5}, model, SHAPE, criterion=_first)


def test_a_constant_goes_to_the_bias_of_the_layer_that_read_it():
    reader = nn.Conv2d(8, 8, 3)
    model = trained(lambda: nn.Sequential(convolution(3, 8), reader, nn.ReLU(), head(8)))
    _silenced(model, model[0][1])
    before = copy.deepcopy(reader.bias)
    pruned = _pruned(model)
    torch.testing.assert_close(output(pruned, SHAPE), output(model, SHAPE))
    assert torch.equal(reader.bias, before), "the original changed"
    constants = functional.relu(model[0][1].bias[GONE])
    left = (reader.weight[:, GONE].sum((2, 3)) * constants).sum(1)
    torch.testing.assert_close(pruned[1].bias, before + left)


def test_where_there_is_no_bias_the_mean_of_the_normalisation_behind_takes_it():
    model = trained(lambda: nn.Sequential(convolution(3, 8), convolution(8, 8, 1), head(8)))
    _silenced(model, model[0][1])
    pruned = _pruned(model)
    assert pruned[1][0].bias is None
    torch.testing.assert_close(output(pruned, SHAPE), output(model, SHAPE))


def test_without_folding_the_answers_would_change():
    model = trained(lambda: nn.Sequential(convolution(3, 8), convolution(8, 8, 1), head(8)))
    _silenced(model, model[0][1])
    pruned = prune.apply({"channels.0.0": 0.5}, model, SHAPE, criterion=_first, compensate=lambda *_: None)
    assert float((output(pruned, SHAPE) - output(model, SHAPE)).abs().max()) > 1e-2


def test_linear_layers_behind_flattened_channels_get_it_too():
    model = trained(lambda: nn.Sequential(convolution(3, 8), nn.Flatten(), nn.Linear(512, 5)))
    _silenced(model, model[0][1])
    torch.testing.assert_close(output(_pruned(model), SHAPE), output(model, SHAPE))


def test_every_reader_gets_its_part():
    def compute(net: Computes, x: torch.Tensor) -> torch.Tensor:
        x = net.stem(x)
        return net.head(torch.cat([net.left(x), net.right(x)], 1).relu())

    layers = {"left": nn.Conv2d(8, 8, 1), "right": nn.Conv2d(8, 8, 1, groups=2)}
    model = trained(lambda: Computes(compute, stem=convolution(3, 8), **layers, head=head(16)))
    _silenced(model, model.stem[1])
    torch.testing.assert_close(output(_pruned(model, "stem.0"), SHAPE), output(model, SHAPE))


def test_a_channel_that_a_sum_keeps_alive_is_no_constant():
    model = trained(lambda: nn.Sequential(convolution(3, 8), Residual(8, 8), head(8)))
    _silenced(model, model[0][1])
    pruned = _pruned(model)
    kept = [i for i in range(8) if i not in GONE.tolist()]
    torch.testing.assert_close(pruned[2][2].bias, model[2][2].bias)
    assert pruned[1].first[0].in_channels == len(kept)


def test_constants_that_padding_breaks_at_the_borders_are_met_on_average():
    """Through a padded layer of each channel alone, then to a layer that sees the borders differ."""
    model = trained(
        lambda: nn.Sequential(convolution(3, 8), convolution(8, 8, groups=8), nn.Conv2d(8, 8, 1), head(8))
    )
    _silenced(model, model[0][1])
    torch.testing.assert_close(output(_pruned(model), SHAPE), output(model, SHAPE))  # a mean is taken anyway


def test_a_layer_that_runs_twice_is_left_alone():
    def compute(net: Computes, x: torch.Tensor) -> torch.Tensor:
        x = net.stem(x)
        return net.head(net.twice(x) + net.twice(x.flip(2)))

    model = trained(lambda: Computes(compute, stem=convolution(3, 8), twice=nn.Conv2d(8, 8, 1), head=head(8)))
    _silenced(model, model.stem[1])
    assert torch.equal(_pruned(model, "stem.0").twice.bias, model.twice.bias)


@pytest.mark.parametrize("shift", [0.0, -1.0])
def test_channels_that_are_nothing_leave_nothing(shift):
    model = trained(lambda: nn.Sequential(convolution(3, 8), nn.Conv2d(8, 8, 1), head(8)))
    _silenced(model, model[0][1])
    with torch.no_grad():
        model[0][1].bias[GONE] = shift  # a rectifier follows
    pruned = _pruned(model)
    assert torch.equal(pruned[1].bias, model[1].bias)
    torch.testing.assert_close(output(pruned, SHAPE), output(model, SHAPE))
