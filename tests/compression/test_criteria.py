import pytest
import torch
from networks import NETWORKS, SHAPE, convolution, head, residual, trained
from torch import nn

from nasflow.compression import criteria
from nasflow.compression.groups import PruneError, trace

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


def test_fpgm_scores_lowest_what_lies_in_the_middle_of_the_others():
    model = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), head(4))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([-2.0, 0.0, 1.0, 4.0]).reshape(4, 1, 1, 1))
    (group,) = trace(model, (1, 8, 8)).groups
    assert criteria.fpgm(group).tolist() == [2 + 3 + 6, 2 + 1 + 4, 3 + 1 + 3, 6 + 4 + 3]


def test_lamp_is_one_for_the_largest_and_keeps_the_order_of_the_group():
    group = _group(trained(residual), "0.0")
    scores, squares = criteria.lamp(group), criteria.group_magnitude(group)
    assert float(scores.max()) == 1.0
    assert torch.equal(scores.argsort(), squares.argsort())
    smallest = squares.argmin()
    torch.testing.assert_close(scores[smallest], squares[smallest] / squares.sum())


def test_lamp_of_a_group_without_weights_left_is_zero():
    model = trained(residual)
    group = _group(model, "1.first.0")
    with torch.no_grad():
        for member in group.members:
            member.module.weight.zero_()
    assert criteria.lamp(group).tolist() == [0.0] * 16


def test_relative_scores_have_a_mean_of_one_and_the_same_order():
    group = _group(trained(residual), "0.0")
    scores = criteria.relative(criteria.l1)(group)
    assert float(scores.mean()) == pytest.approx(1.0)
    assert torch.equal(scores.argsort(), criteria.l1(group).argsort())


def _known(model: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()}


def test_taylor_is_weight_times_gradient_of_the_layer_that_makes_the_channel():
    model = trained(residual)
    group, batches = _group(model, "0.0"), [_known(model, seed) for seed in (0, 1)]
    products = [(model[0][0].weight * batch["0.0.weight"]).double().flatten(1) for batch in batches]
    each = torch.stack([product.abs().sum(1) for product in products]).mean(0)
    together = torch.stack([product.sum(1).abs() for product in products]).mean(0)
    torch.testing.assert_close(criteria.taylor(batches)(group), each)
    torch.testing.assert_close(criteria.taylor(batches, multivariable=True)(group), together)


def test_group_taylor_squares_what_the_whole_channel_changes_in_a_batch():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 64, 5))
    batches = [_known(model, seed) for seed in (0, 1)]

    def change(known: dict[str, torch.Tensor]) -> torch.Tensor:
        changes = {name: (p.detach() * known[name]).double() for name, p in model.named_parameters()}
        made = (
            changes["0.weight"].sum((1, 2, 3)) + changes["0.bias"] + changes["1.weight"] + changes["1.bias"]
        )
        return made + changes["3.weight"].reshape(5, 4, 64).sum((0, 2))

    expected = torch.stack([change(batch).square() for batch in batches]).mean(0)
    torch.testing.assert_close(criteria.group_taylor(batches)(_group(model, "0")), expected)


def test_hessian_is_half_the_curvature_times_the_squared_weights_of_the_group():
    model = nn.Sequential(convolution(3, 8), convolution(8, 4, 1), head(4))
    known = {name: values.abs() for name, values in _known(model, 0).items()}
    of = {name: 0.5 * (p.detach().square() * known[name]).double() for name, p in model.named_parameters()}
    expected = of["0.0.weight"].sum((1, 2, 3)) + of["0.1.weight"] + of["1.0.weight"].sum((0, 2, 3))
    torch.testing.assert_close(criteria.hessian(known)(_group(model, "0.0")), expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_criterion_scores_every_group(name):
    model = trained(NETWORKS[name])
    batches = [_known(model, seed) for seed in (0, 1)]
    kinds = [
        criteria.l1, criteria.l2, criteria.bn_scale, criteria.fpgm, criteria.group_magnitude, criteria.lamp,
        criteria.taylor(batches), criteria.group_taylor(batches), criteria.hessian(batches[0]), criteria.random(0),
    ]  # fmt: skip
    for group in trace(model, SHAPE).groups:
        scores = [criterion(group) for criterion in kinds]
        assert all(s.shape == (group.channels,) and bool(s.isfinite().all()) for s in scores)
        assert len({tuple(s.tolist()) for s in scores}) >= len(kinds) - 1  # l1 stands in for bn_scale


def test_gradients_of_another_network_are_refused():
    with pytest.raises(PruneError, match=r"0.0.weight: no gradient of it"):
        criteria.taylor([{}])(_group(residual(), "0.0"))
