import torch
from networks import SHAPE, convolution, head, residual, trained
from torch import nn

from nasflow.compression import criteria
from nasflow.compression.groups import trace

torch.set_num_threads(1)


def _group(model: nn.Module, name: str):
    return next(group for group in trace(model, SHAPE).groups if group.name == name)


def test_norms_are_those_of_the_weights_that_make_the_channel():
    model = trained(residual)
    weight = model[0][0].weight.flatten(1).double()
    group = _group(model, "0.0")
    torch.testing.assert_close(criteria.l1(group), weight.abs().sum(1))
    torch.testing.assert_close(criteria.l2(group), weight.norm(dim=1))


def test_group_magnitude_counts_every_layer_of_the_group():
    model = nn.Sequential(convolution(3, 8), convolution(8, 8, groups=8), convolution(8, 4, 1), head(4))
    expected = (
        model[0][0].weight.square().sum((1, 2, 3))
        + model[0][1].weight.square()
        + model[1][0].weight.square().sum((1, 2, 3))
        + model[1][1].weight.square()
        + model[2][0].weight.square().sum((0, 2, 3))
    )
    torch.testing.assert_close(criteria.group_magnitude(_group(model, "0.0")), expected.double())


def test_group_magnitude_of_a_flattened_channel_takes_all_its_places():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    read = model[2].weight.unflatten(1, (4, 36)).square().sum((0, 2))
    expected = model[0].weight.square().sum((1, 2, 3)) + read
    torch.testing.assert_close(criteria.group_magnitude(_group(model, "0")), expected.double())


def test_group_magnitude_of_a_grouped_reader_takes_the_weights_of_its_slice():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, 1, groups=2), nn.Conv2d(6, 4, 1), head(4))
    reader = model[1].weight.square()  # (6, 2, 1, 1): outputs 0-2 read channels 0 and 1, 3-5 read 2 and 3
    read = torch.stack([reader[:3, 0].sum(), reader[:3, 1].sum(), reader[3:, 0].sum(), reader[3:, 1].sum()])
    expected = model[0].weight.square().sum((1, 2, 3)) + read
    torch.testing.assert_close(criteria.group_magnitude(_group(model, "0")), expected.double())


def test_group_magnitude_of_transposed_convolutions_uses_their_own_layout():
    model = nn.Sequential(
        nn.ConvTranspose2d(3, 4, 2), nn.ConvTranspose2d(4, 6, 2), nn.Conv2d(6, 4, 1), head(4)
    )
    expected = model[0].weight.square().sum((0, 2, 3)) + model[1].weight.square().sum((1, 2, 3))
    torch.testing.assert_close(criteria.group_magnitude(_group(model, "0")), expected.double())


def test_batch_norm_scale_is_the_mean_over_the_group_and_l1_where_there_is_none():
    model = trained(residual)
    scales = [model[0][1], model[1].second[1], model[2].second[1]]
    expected = torch.stack([norm.weight.abs().double() for norm in scales]).mean(0)
    torch.testing.assert_close(criteria.bn_scale(_group(model, "0.0")), expected)
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), head(8))
    torch.testing.assert_close(criteria.bn_scale(_group(plain, "0")), criteria.l1(_group(plain, "0")))


def test_random_depends_on_seed_and_group_alone():
    group = _group(residual(), "0.0")
    assert torch.equal(criteria.random(0)(group), criteria.random(0)(_group(residual(), "0.0")))
    assert not torch.equal(criteria.random(0)(group), criteria.random(1)(group))
    assert not torch.equal(criteria.random(0)(group), criteria.random(0)(_group(residual(), "1.first.0")))
