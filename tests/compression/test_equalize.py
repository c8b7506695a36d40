import copy

import pytest
import torch
from networks import NETWORKS, SHAPE, Computes, chain, convolution, head, mobile, residual, trained
from torch import nn

from nasflow.compression import equalize, precision
from nasflow.compression.equalize import EqualizeError, correct_bias, equalise, fold, recalibrate
from nasflow.compression.fakequant import simulate

torch.set_num_threads(1)

IMAGES = torch.randn(48, *SHAPE, generator=torch.Generator().manual_seed(0))


def answer(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IMAGES)


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def unbalanced(make) -> nn.Module:
    """A network whose channels differ a hundredfold in size, which its normalisations hide."""
    model = trained(make)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight *= torch.logspace(-1, 1, len(module.weight))
                module.bias *= torch.logspace(-1, 1, len(module.weight))
    return model


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_folded_networks_answer_as_before(make):
    model = trained(make)
    before = copy.deepcopy(model.state_dict())
    folded = fold(model, SHAPE)
    assert norms(folded) == 0
    torch.testing.assert_close(answer(folded), answer(model), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_layer_with_another_reader_keeps_its_normalisation():
    def compute(net: Computes, x: torch.Tensor) -> torch.Tensor:
        x = net.conv(x)
        return net.head(net.norm(x) + x)

    model = trained(lambda: Computes(compute, conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), head=head(8)))
    folded = fold(model, SHAPE)
    assert norms(folded) == 1
    assert torch.equal(answer(folded), answer(model))


def test_rounded_networks_are_not_folded():
    with pytest.raises(EqualizeError, match="before its layers are rounded"):
        fold(simulate({"weight_bits.0.0": 8}, trained(chain), SHAPE, IMAGES), SHAPE)


def test_recalibrated_normalisations_have_the_statistics_of_the_images():
    model = trained(chain)
    weights = copy.deepcopy(model[0][0].weight)
    recalibrate(model, IMAGES)
    made = model[0][0](IMAGES)
    torch.testing.assert_close(model[0][1].running_mean, made.mean((0, 2, 3)).detach())
    torch.testing.assert_close(model[0][1].running_var, made.var((0, 2, 3)).detach())
    assert model[0][1].momentum == 0.1
    assert not any(module.training for module in model.modules())
    assert torch.equal(weights, model[0][0].weight)
    with pytest.raises(EqualizeError, match="images"):
        recalibrate(model, IMAGES[:0])


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_equalised_networks_answer_as_before(make):
    model = trained(make)
    torch.testing.assert_close(answer(equalise(model, SHAPE)), answer(model), rtol=1e-3, atol=1e-3)


def test_both_sides_of_a_pair_become_equally_large():
    made = equalise(unbalanced(chain), SHAPE)
    first = made[0][0].weight.flatten(1).abs().amax(1)
    second = made[1][0].weight.transpose(0, 1).flatten(1).abs().amax(1)
    torch.testing.assert_close(first, second, rtol=0.01, atol=0)


def test_depthwise_layers_are_balanced_on_both_sides():
    model = nn.Sequential(convolution(3, 16), convolution(16, 16, groups=16), convolution(16, 8, 1), head(8))
    made = equalise(unbalanced(lambda: model), SHAPE)
    before, depthwise, after = (made[at][0].weight for at in range(3))
    each = depthwise.flatten(1).abs().amax(1)
    torch.testing.assert_close(before.flatten(1).abs().amax(1), each, rtol=0.01, atol=0)
    torch.testing.assert_close(after.transpose(0, 1).flatten(1).abs().amax(1), each, rtol=0.01, atol=0)


def test_bounded_activations_stand_in_the_way_unless_given_up():
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU6(), nn.Conv2d(8, 8, 1), nn.Flatten()]
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        model[0].weight *= torch.logspace(-1, 1, 8).view(-1, 1, 1, 1)
    kept = equalise(model, SHAPE)
    assert torch.equal(kept[0].weight, model[0].weight)
    given_up = equalise(model, SHAPE, relu6=True)
    assert isinstance(given_up[1], nn.ReLU)
    torch.testing.assert_close(
        given_up[0].weight.flatten(1).abs().amax(1),
        given_up[2].weight.transpose(0, 1).flatten(1).abs().amax(1),
    )


def test_equalising_saves_networks_whose_channels_differ_in_size():
    model = unbalanced(chain)
    with torch.no_grad():
        for at in (1, 2):  # the next layer weighs them against it, so that all matter alike
            model[at][0].weight /= torch.logspace(-1, 1, model[at][0].in_channels).view(1, -1, 1, 1)
    policy = precision.uniform(precision.space(model, SHAPE, bits=(5,), edges=8), 5)
    exact = answer(model)
    errors = [
        float((answer(simulate(policy, form, SHAPE, IMAGES)) - exact).square().mean())
        for form in (fold(model, SHAPE), equalise(model, SHAPE))
    ]
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("make", [chain, residual, mobile])
def test_corrected_biases_bring_back_the_mean_output_of_every_layer(make):
    model = fold(trained(make), SHAPE)
    policy = precision.uniform(precision.space(model, SHAPE, bits=(3,), edges=3), 3)
    rounded = simulate(policy, model, SHAPE, IMAGES)
    wanted, before = equalize._means(model, IMAGES), equalize._means(rounded, IMAGES)
    error = (answer(rounded) - answer(model)).square().mean()
    correct_bias(rounded, model, IMAGES)
    after = equalize._means(rounded, IMAGES)
    assert max(float((before[name] - wanted[name]).abs().max()) for name in wanted) > 0.05
    for name, means in wanted.items():
        torch.testing.assert_close(after[name], means, rtol=1e-3, atol=1e-4)
    assert (answer(rounded) - answer(model)).square().mean() < error


def test_a_layer_without_bias_gets_one():
    model = trained(chain)
    rounded = simulate({"weight_bits.1.0": 2}, model, SHAPE, IMAGES)
    assert rounded[1][0].bias is None
    correct_bias(rounded, model, IMAGES)
    assert rounded[1][0].bias.abs().sum() > 0
    with pytest.raises(EqualizeError, match="two forms of one network"):
        correct_bias(rounded, trained(residual), IMAGES)
    with pytest.raises(EqualizeError, match="images"):
        correct_bias(rounded, model, IMAGES[:0])
