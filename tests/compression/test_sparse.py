import pytest
import torch
from networks import NETWORKS, SHAPE, chain, mobile, residual, trained
from test_gradients import noise
from torch import nn

from nasflow.compression import criteria
from nasflow.compression.groups import PruneError, trace
from nasflow.compression.sparse import BatchNormScales, GroupNorms, group_norms
from nasflow.training import Recipe, train

torch.set_num_threads(1)


def test_scales_of_batch_normalisation_are_pulled_with_the_same_force_to_zero():
    model = trained(residual)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        norms[0].weight[:4] *= -1
    penalty = BatchNormScales(0.01)
    value = penalty(model)
    assert float(value.detach()) == pytest.approx(
        0.01 * sum(float(n.weight.detach().abs().sum()) for n in norms)
    )
    value.backward()
    for norm in norms:
        torch.testing.assert_close(norm.weight.grad, 0.01 * norm.weight.detach().sign())
        assert norm.bias.grad is None
    assert model[0][0].weight.grad is None


def test_the_least_important_channel_is_pulled_most_and_the_most_important_least():
    penalty = group_norms(residual(), SHAPE, alpha=3.0)
    factors = penalty.factors(torch.tensor([4.0, 1.0, 2.5]))
    torch.testing.assert_close(factors, torch.tensor([1.0, 8.0, 2.0**1.5]))
    assert penalty.factors(torch.ones(3)).tolist() == [1.0] * 3


def test_all_weights_of_a_channel_are_pulled_alike_over_its_whole_group():
    model = trained(chain)
    group = trace(model, SHAPE).groups[1]
    penalty = GroupNorms((group,), strength=0.5)
    penalty(model).backward()
    factors = penalty.factors(criteria.group_magnitude(group).sqrt()).float()
    maker, norm, reader = model[1][0].weight, model[1][1].weight, model[2][0].weight
    pull = factors.reshape(-1, 1, 1, 1)
    torch.testing.assert_close(maker.grad, pull * maker.detach())
    torch.testing.assert_close(norm.grad, factors * norm.detach())
    torch.testing.assert_close(reader.grad, pull.reshape(1, -1, 1, 1) * reader.detach())
    assert model[0][0].weight.grad is None


@pytest.mark.parametrize("name", NETWORKS)
def test_the_penalty_on_groups_fits_every_network(name):
    model = trained(NETWORKS[name])
    penalty = group_norms(model, SHAPE)
    value = penalty(model)
    assert float(value.detach()) > 0
    value.backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_channels_that_do_not_matter_vanish_in_training():
    def share(penalty: GroupNorms | BatchNormScales | None) -> float:
        """How much of a channel's mean importance the least important ones have left."""
        model = trained(chain)
        recipe = Recipe(epochs=4, batch_size=10, optimizer="sgd", weight_decay=0.0, learning_rate=0.05)
        train(model, noise(), recipe, seed=0, penalty=penalty)
        scores = criteria.bn_scale if isinstance(penalty, BatchNormScales) else criteria.group_magnitude
        left = scores(trace(model, SHAPE).groups[1]).sort().values
        return float(left[:6].mean() / left.mean())

    assert share(group_norms(trained(chain), SHAPE, strength=0.05)) < 0.5 * share(None)
    plain = trained(chain)
    train(plain, noise(), Recipe(epochs=4, batch_size=10, optimizer="sgd", learning_rate=0.05), seed=0)
    sparse = trained(chain)
    train(sparse, noise(), Recipe(epochs=4, batch_size=10, optimizer="sgd", learning_rate=0.05), seed=0,
          penalty=BatchNormScales(0.05))  # fmt: skip
    a, b = (float(net[1][1].weight.detach().abs().mean()) for net in (sparse, plain))
    assert a < 0.9 * b


def test_penalties_name_themselves_the_same_way_everywhere():
    assert repr(BatchNormScales(0.01)) == "BatchNormScales(strength=0.01)"
    assert (
        repr(group_norms(mobile(), SHAPE))
        == repr(group_norms(mobile(), SHAPE))
        == ("GroupNorms(strength=0.0001, alpha=4.0)")
    )


def test_what_cannot_be_penalised_is_told():
    with pytest.raises(PruneError, match="batch normalisations, whose scales"):
        BatchNormScales()(nn.Conv2d(3, 8, 3))
    with pytest.raises(PruneError, match="groups of channels that can leave together"):
        group_norms(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), SHAPE)
    with pytest.raises(PruneError, match="to be 0 or more, got -1"):
        BatchNormScales(-1)
