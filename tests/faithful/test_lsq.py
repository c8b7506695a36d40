"""Learned step sizes against Esser et al., 2020 (arXiv:1902.08153): the rounding, its gradients, their scale, the
start; and what steps it learns for numbers whose best step is known."""

import math

import pytest
import torch
from scipy.stats import norm
from torch import nn

from nasflow.compression import fakequant, precision
from nasflow.compression.calibrate import Grid
from nasflow.compression.lsq import LSQ, first_step, rounded

torch.set_num_threads(1)

V = torch.tensor([-3.0, -0.26, -0.24, 0.1, 0.6, 5.0])
NORMAL = torch.tensor(norm.ppf((torch.arange(20001).double() + 0.5) / 20001), dtype=torch.float32)

# Bits of the signed grid, the step of least squared error for normal numbers, that error, the paper's start.
OPTIMA = [(2, 1.048, 0.1494, 1.596), (3, 0.602, 0.0406, 0.921), (4, 0.338, 0.0119, 0.603)]


def steps_gradient(v: torch.Tensor, step: float, grid: Grid) -> torch.Tensor:
    """The gradient of the step that each single value gives."""
    steps = torch.full_like(v, step, requires_grad=True)
    rounded(v, steps, grid).sum().backward()
    return steps.grad


def test_the_gradient_of_the_step_is_the_papers():
    found = steps_gradient(V, 0.5, Grid(-4, 3))
    torch.testing.assert_close(found, torch.tensor([-4, -0.48, 0.48, -0.2, -0.2, 3]))


def test_rounding_alone_would_have_another_gradient():
    """What distinguishes the method: the gradient knows how far a value is from where it is rounded to."""
    step = torch.full_like(V, 0.5, requires_grad=True)
    ((V / 0.5).clamp(-4, 3).round() * step).sum().backward()
    assert not torch.allclose(step.grad, steps_gradient(V, 0.5, Grid(-4, 3)), atol=0.1)


def test_the_gradient_of_values_is_one_inside_the_grid_and_zero_outside():
    v = V.clone().requires_grad_()
    rounded(v, torch.tensor(0.5), Grid(-4, 3)).sum().backward()
    assert v.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_grids_are_the_papers():
    assert (Grid.signed(3).low, Grid.signed(3).high) == (-4, 3)
    assert Grid.covering(0.0, 1.0, 3)[0] == Grid(0, 7)


def test_gradient_descent_moves_the_step_by_its_scaled_gradient():
    """s -= rate * ds / sqrt(N Q_P), however the module keeps s; N the weights of one channel."""
    weights = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    start, rate = torch.linspace(0.1, 0.9, 5), 0.3
    lsq = LSQ(start, Grid.signed(3), axis=0, samples=False)
    optimizer = torch.optim.SGD(lsq.parameters(), lr=rate, momentum=0.9)
    gradients = [
        steps_gradient(row, float(step), Grid.signed(3)).sum()
        for row, step in zip(weights, start, strict=True)
    ]
    lsq(weights).sum().backward()
    optimizer.step()
    expected = start - rate * torch.stack(gradients) / math.sqrt(12 * 3)
    torch.testing.assert_close(lsq.step.detach(), expected)


def test_the_scale_counts_the_values_of_one_sample_and_leaves_the_output_alone():
    inputs = torch.rand(8, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    grid, start = Grid(0, 15), torch.tensor([0.05])
    lsq = LSQ(start, grid)
    assert torch.equal(lsq(inputs), rounded(inputs, start, grid))
    lsq(inputs).mean().backward()
    plain = torch.full((1,), 0.05, requires_grad=True)
    rounded(inputs, plain, grid).mean().backward()
    scale = lsq.share.grad * start / plain.grad  # the share's gradient is the step's, scaled, over the start
    torch.testing.assert_close(scale, torch.tensor([1 / math.sqrt(75 * 15)]))


@pytest.mark.parametrize(("bits", "best", "error", "start"), OPTIMA)
def test_normal_numbers_have_the_known_best_step_and_start(bits, best, error, start):
    grid = Grid.signed(bits)
    errors = {step: float((rounded(NORMAL, torch.tensor(step), grid) - NORMAL).square().mean()) for step in
              (0.97 * best, best, 1.03 * best)}  # fmt: skip
    assert min(errors, key=lambda step: errors[step]) == best
    assert errors[best] == pytest.approx(error, abs=1e-4)
    assert float(first_step(NORMAL.abs().mean(), grid)) == pytest.approx(start, abs=1e-3)


@pytest.mark.parametrize(("bits", "best", "error", "start"), OPTIMA)
def test_a_step_that_learns_alone_nears_the_best(bits, best, error, start):
    """The gradient is not that of the squared error, whose zero it misses a little: by 5 % at 2 bits, 0.5 % at 4."""
    lsq = LSQ(torch.tensor([start]), Grid.signed(bits), axis=None)
    values = NORMAL.unsqueeze(0)
    optimizer = torch.optim.Adam(lsq.parameters(), lr=0.02)
    for _ in range(150):
        optimizer.zero_grad()
        (lsq(values) - values).square().mean().backward()
        optimizer.step()
    assert best < float(lsq.step.detach()) < best * 1.06
    assert float((lsq(values) - values).square().mean().detach()) < error * 1.02


def test_steps_stay_above_zero():
    lsq = LSQ(torch.tensor([0.5]), Grid.signed(4))
    with torch.no_grad():
        lsq.share.fill_(-0.5)
        assert float(lsq.step) == pytest.approx(0.25)
        lsq.share.zero_()
        assert float(lsq.step) > 0
        assert lsq(NORMAL).isfinite().all()


def test_training_does_not_decay_steps_and_the_edges_have_8_bits():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4))
    policy = precision.uniform(precision.space(model, (3, 8, 8), bits=(3,)), 3)
    made = fakequant.simulate(policy, model, (3, 8, 8), torch.rand(4, 3, 8, 8), qat="lsq")
    widths = {name: how.weight_grid.high for name, how in fakequant.roundings(made).items()}
    assert widths == {"0": 127, "2": 3, "4": 127}
    steps = [parameter for name, parameter in made.named_parameters() if name.endswith("share")]
    assert len(steps) == 6
    assert all(parameter.ndim == 1 for parameter in steps)  # what training.train leaves undecayed


def test_torchs_own_kernel_agrees():
    """torch._fake_quantize_learnable_per_tensor_affine, where torch has it, as an oracle for forward and backward. It
    lets the grid end half a step beyond its last number, the paper and this at it: no value lies between."""
    kernel = getattr(torch, "_fake_quantize_learnable_per_tensor_affine", None)
    if kernel is None:
        pytest.skip("this torch has no such kernel")
    values = torch.randn(200, generator=torch.Generator().manual_seed(1))
    values = values[
        ~(((values / 0.3 > 3) & (values / 0.3 < 3.5)) | ((values / 0.3 < -4) & (values / 0.3 > -4.5)))
    ]
    theirs, ours = (torch.tensor([0.3], requires_grad=True) for _ in range(2))
    given, own = (values.clone().requires_grad_() for _ in range(2))
    a = kernel(given, theirs, torch.zeros(1), -4, 3, 1.0)
    b = rounded(own, ours, Grid(-4, 3))
    torch.testing.assert_close(a, b)
    a.square().sum().backward()
    b.square().sum().backward()
    torch.testing.assert_close(theirs.grad, ours.grad)
    torch.testing.assert_close(given.grad, own.grad)
