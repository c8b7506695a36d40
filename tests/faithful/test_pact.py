"""Learned clipping against Choi et al., 2018 (PACT, arXiv:1805.06085)."""

import pytest
import torch
from torch import nn

from nasflow.compression import fakequant
from nasflow.compression.calibrate import Grid
from nasflow.compression.pact import PACT, Decay

torch.set_num_threads(1)

X = torch.tensor([-1.0, 0.0, 0.4, 0.9, 1.9, 2.0, 2.5, 7.0])


def test_it_is_the_papers_clipping_rounded_to_equal_steps_up_to_alpha():
    alpha, levels = 2.0, 15
    clipped = 0.5 * (X.abs() - (X - alpha).abs() + alpha)
    expected = (clipped * levels / alpha).round() * alpha / levels
    torch.testing.assert_close(PACT(alpha, Grid(0, levels))(X), expected)


def test_the_gradient_of_alpha_counts_what_is_at_or_above_it():
    pact = PACT(2.0, Grid(0, 15))
    x = X.clone().requires_grad_()
    pact(x).sum().backward()
    assert pact.alpha.grad.tolist() == [3]  # 2, 2.5 and 7
    assert x.grad.tolist() == [0, 0, 1, 1, 1, 0, 0, 0]


def test_it_does_not_know_of_the_rounding_error():
    """What tells it from learned steps: values below alpha say nothing about it."""
    pact = PACT(2.0, Grid(0, 15))
    pact(X[:5]).sum().backward()
    assert pact.alpha.grad.tolist() == [0]


def test_inputs_of_either_sign_are_clipped_at_both_ends():
    pact = PACT(2.0, Grid(-2, 1))
    x = torch.tensor([-9.0, -3.9, 0.3, 9.0], requires_grad=True)
    assert pact(x).tolist() == [-4, -4, 0, 2]
    pact(x).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]
    assert pact.alpha.grad.tolist() == [-2 + 1]


def test_decay_pulls_every_alpha_down_in_proportion():
    model = nn.Sequential(PACT(2.0, Grid(0, 15)), nn.Linear(3, 3), PACT(5.0, Grid(0, 15)))
    Decay(0.1)(model).backward()
    assert [model[0].alpha.grad.item(), model[2].alpha.grad.item()] == pytest.approx([0.2, 0.5])
    assert model[1].weight.grad is None
    assert float(Decay()(nn.Linear(2, 2)).detach()) == 0
    assert repr(Decay(0.1)) == "Decay(strength=0.1)"


def test_alpha_starts_where_calibration_ends_and_follows_the_loss():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    images = torch.rand(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    made = fakequant.simulate({"activation_bits.2": 4}, model, (3, 4, 4), images, qat="pact")
    top = float(model[:2](images).max().detach())
    alpha = made[2].input_rounding.alpha
    assert float(alpha.detach()) == pytest.approx(top, rel=1e-5)
    with torch.no_grad():
        alpha /= 2
    optimizer = torch.optim.SGD([alpha], lr=0.001)
    (made(images) - model(images).detach()).square().sum().backward()
    optimizer.step()
    assert float(alpha.detach()) != top / 2
