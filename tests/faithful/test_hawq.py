"""HAWQ-V2 and V3 against what is known of them: Dong et al., 2020 (arXiv:1911.03852), Yao et al., 2021
(arXiv:2011.10680). The integer program has its checks in test_precision.py."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from nasflow.compression import precision, sensitivity
from nasflow.compression.fakequant import simulate

torch.set_num_threads(1)

SIZE = 12


def quadratic(a: Tensor) -> tuple[Tensor, Tensor]:
    """f = x'Ax / 2, whose Hessian is A, and its x."""
    x = torch.randn(
        len(a), generator=torch.Generator().manual_seed(5), dtype=torch.float64, requires_grad=True
    )
    return 0.5 * x @ a @ x, x


def symmetric(seed: int) -> Tensor:
    a = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return a + a.T


def test_one_probe_is_exact_for_a_diagonal_hessian() -> None:
    diagonal = torch.randn(SIZE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    f, x = quadratic(torch.diag(diagonal))
    found = sensitivity.hutchinson(f, [x], probes=3, seed=7)
    assert torch.allclose(found, diagonal.sum().expand(3, 1), rtol=1e-12)


def test_probes_are_unbiased_with_the_known_variance() -> None:
    """Of random signs: 2 (|H|^2 - sum of H_ii^2)."""
    a = symmetric(1)
    f, x = quadratic(a)
    found = sensitivity.hutchinson(f, [x], probes=1500)[:, 0]
    variance = float(2 * (a.square().sum() - a.diagonal().square().sum()))
    assert abs(float(found.mean() - a.trace())) < 4 * (variance / len(found)) ** 0.5
    assert float(found.var()) == pytest.approx(variance, rel=0.15)


def test_blocks_of_several_variables_are_told_apart() -> None:
    a = symmetric(2)
    a[:5, 5:] = a[5:, :5] = 0.0
    a[:5, :5] = torch.diag(a.diagonal()[:5])
    x, y = (torch.ones(n, dtype=torch.float64, requires_grad=True) for n in (5, SIZE - 5))
    z = torch.cat([x, y])
    found = sensitivity.hutchinson(0.5 * z @ a @ z, [x, y], probes=800)
    assert torch.allclose(found[:, 0], a.diagonal()[:5].sum().expand(800))
    error = float(found[:, 1].std()) / 800**0.5
    assert abs(float(found[:, 1].mean() - a.diagonal()[5:].sum())) < 4 * error


def toy() -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 2), nn.Flatten(), nn.Linear(4, 3)
    )
    x = torch.randn(20, 2, 4, 4)
    model(x)  # statistics of batch normalisation
    return model, x, torch.randint(3, (20,))


def test_omega_is_the_average_trace_times_the_squared_error() -> None:
    model, x, y = toy()
    space = precision.space(model, (2, 4, 4), bits=(2, 4), edges=None)
    simulated = partial(simulate, model=model, shape=(2, 4, 4), calibration=x)
    omega = sensitivity.hawq(model, space, simulated, x, y, probes=4, seed=3)
    entries = ["weight_bits.0", "weight_bits.3", "weight_bits.5"]
    entries += [entry.replace("weight", "activation") for entry in entries]
    found = sensitivity.traces(model, sorted(entries), x, y, probes=4, seed=3)
    for layer, count in (("0", 72), ("3", 64), ("5", 12)):
        weight = model.get_parameter(f"{layer}.weight").detach()
        for bits in (2, 4):
            top = weight.flatten(1).abs().amax(1).view(-1, *[1] * (weight.dim() - 1))
            step = top / (2 ** (bits - 1) - 1)
            squared = float(((weight / step).round() * step - weight).double().square().sum())
            trace = found[f"weight_bits.{layer}"]
            assert trace.count == count
            assert omega[f"weight_bits.{layer}", bits] == pytest.approx(
                max(0.0, trace.mean) / count * squared, rel=1e-5
            )


def test_normalisations_are_frozen() -> None:
    """In training mode a batch normalisation depends on the batch, and so would the curvature."""
    model, x, y = toy()
    alone = sensitivity.traces(model.train(), ["weight_bits.0"], x, y, probes=3)
    assert sensitivity.traces(model.eval(), ["weight_bits.0"], x, y, probes=3) == alone
    pairs = [
        sensitivity.traces(model, ["weight_bits.0"], x[part], y[part], probes=3)["weight_bits.0"].mean
        for part in (slice(0, 10), slice(10, 20))
    ]
    assert alone["weight_bits.0"].mean == pytest.approx(sum(pairs) / 2, rel=1e-4)


def hard_sigmoid(x: Tensor) -> Tensor:
    return nn.functional.hardsigmoid(x)


def its_definition(x: Tensor) -> Tensor:
    return (x + 3).clamp(0, 6) / 6


def attention(x: Tensor) -> Tensor:
    return nn.functional.scaled_dot_product_attention(x, x, x)


def products(x: Tensor) -> Tensor:
    shares: Tensor = (x @ x.transpose(-1, -2) / x.shape[-1] ** 0.5).softmax(-1)
    return shares @ x


@pytest.mark.parametrize(("fast", "plain"), [(hard_sigmoid, its_definition), (attention, products)])
def test_what_torch_differentiates_once_has_curvature_too(
    fast: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor]
) -> None:
    class Net(nn.Module):
        def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.between, self.first, self.last = between, nn.Linear(4, 6), nn.Linear(18, 3)

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.last(self.between(3 * self.first(x)).flatten(1))
            return made

    x, y = torch.randn(30, 3, 4, generator=torch.Generator().manual_seed(1)), torch.arange(30) % 3
    told, expected = (
        sensitivity.traces(Net(between), ["weight_bits.first"], x, y, probes=5)["weight_bits.first"].mean
        for between in (fast, plain)
    )
    assert told == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("scale", [1e-9, 3e-5, 0.1, 1 / 3, 0.5, 1 - 2**-40, 1.0, 7.3, 1e12])
def test_dyadic_numbers_are_within_a_two_billionth(scale: float) -> None:
    number, shift = precision.dyadic(scale)
    assert 2**30 <= number < 2**31
    assert abs(number / 2.0**shift - scale) <= scale * 2**-31


def test_a_scale_that_is_none_is_refused() -> None:
    with pytest.raises(precision.PrecisionError, match="above 0"):
        precision.dyadic(0.0)
