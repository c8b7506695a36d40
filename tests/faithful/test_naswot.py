"""NASWOT against its paper: Mellor et al., "Neural Architecture Search without Training", ICML 2021."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from nasflow.evaluators.zero_cost import naswot
from nasflow.evaluators.zero_cost.naswot import agreement, codes, log_determinant

torch.set_num_threads(1)

LABELS = torch.zeros(6, dtype=torch.int64)


def images(count: int = 6) -> Tensor:
    return torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def network(width: int = 8) -> nn.Sequential:
    """Without biases and normalisation."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(2, width, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(4 * width, 3, bias=False),
    )


def test_k_is_the_number_of_units_less_the_hamming_distance() -> None:
    layers = codes(network(), images())
    code = torch.cat(layers, 1)
    k = agreement(layers)
    assert code.shape == (6, 8 * 16 + 8 * 4)
    for i, j in itertools.product(range(6), repeat=2):
        assert k[i, j] == code.shape[1] - int((code[i] != code[j]).sum())


def test_codes_are_the_signs_of_what_enters_the_activations() -> None:
    model = network()
    first, second = codes(model, images())
    entering = model[0](images())
    assert torch.equal(first, entering.flatten(1) > 0)
    assert torch.equal(second, model[2](entering.relu()).flatten(1) > 0)


def test_two_inputs() -> None:
    """[[D, a], [a, D]] has the determinant D^2 - a^2; D = 10 and a = 7 as a network sees them, too."""
    assert log_determinant(torch.tensor([[10.0, 7.0], [7.0, 10.0]]).double()) == pytest.approx(math.log(51))
    assert math.log(51) == pytest.approx(3.9318, abs=5e-5)

    class Ten(nn.Module):
        """Ten units, of which the last three tell the two inputs apart."""

        def __init__(self) -> None:
            super().__init__()
            self.activation = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.activation(x)
            return answer

    first = torch.tensor([1.0, -1, 1, -1, 1, 2, 3, 1, 1, 1])
    second = torch.tensor([2.0, -2, 3, -3, 1, 3, 1, -1, -1, -1])
    assert naswot(Ten(), torch.stack([first, second]), LABELS[:2], 0) == pytest.approx(math.log(51))


@pytest.mark.parametrize(("count", "units", "agreeing"), [(2, 10, 7), (5, 10, 7), (12, 100, 31)])
def test_inputs_that_all_agree_equally(count: int, units: float, agreeing: float) -> None:
    k = torch.full((count, count), agreeing, dtype=torch.float64).fill_diagonal_(units)
    expected = (count - 1) * math.log(units - agreeing) + math.log(units + (count - 1) * agreeing)
    assert log_determinant(k) == pytest.approx(expected)


def test_equal_images_are_the_worst() -> None:
    x = images()
    x[4] = x[1]
    assert naswot(network(), x, LABELS, 0) == -math.inf
    assert math.isfinite(naswot(network(), images(), LABELS, 0))


def test_a_network_with_fewer_units_than_tell_the_images_apart_is_the_worst() -> None:
    """Rounding would make some large negative number of the singular matrix."""
    tiny = nn.Sequential(nn.Flatten(), nn.Linear(32, 3), nn.ReLU(), nn.Linear(3, 3))
    assert naswot(tiny, images(), LABELS, 0) == -math.inf


def test_the_order_of_the_images_does_not_matter() -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    expected = naswot(network(), images(), LABELS, 0)
    assert naswot(network(), images()[order], LABELS, 0) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale", [0.01, 3.0, 1000.0])
def test_the_scale_of_the_weights_does_not_matter(scale: float) -> None:
    scaled = network()
    with torch.no_grad():
        for weight in scaled.parameters():
            weight.mul_(scale)
    assert naswot(scaled, images(), LABELS, 0) == naswot(network(), images(), LABELS, 0)


class Branched(nn.Module):
    """A network with a second branch, whose answer is used `times`; or which only sees so much of the image."""

    def __init__(self, times: float, seen: float = 1.0) -> None:
        super().__init__()
        self.live, self.times, self.seen = network(), times, seen
        torch.manual_seed(2)
        self.branch = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        branch = self.branch(x * self.seen)
        answer: Tensor = self.live(x)
        return answer + branch * self.times if self.times is not None else answer


@pytest.mark.parametrize(("times", "seen"), [(None, 1.0), (0.0, 1.0), (1.0, 0.0)])
def test_branches_without_a_say_do_not_count(times: float, seen: float) -> None:
    """Not used at all, multiplied by zero as the operation `none` does, or fed with nothing."""
    alone = naswot(network(), images(), LABELS, 0)
    assert naswot(Branched(times, seen), images(), LABELS, 0) == alone
    assert naswot(Branched(1.0), images(), LABELS, 0) > alone


def test_a_network_whose_activations_have_no_say_is_the_worst() -> None:
    model = Branched(0.0)
    model.live = nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
    assert naswot(model, images(), LABELS, 0) == -math.inf


def test_activations_in_place_are_seen_before_they_overwrite() -> None:
    model = network()
    for activation in (model[1], model[3]):
        activation.inplace = True
    assert naswot(model, images(), LABELS, 0) == naswot(network(), images(), LABELS, 0)


def test_a_last_normalisation_hides_nothing() -> None:
    """The gradient of the plain sum of what leaves a batch normalisation is zero."""
    model = nn.Sequential(*network(), nn.BatchNorm1d(3))
    assert naswot(model, images(), LABELS, 0) == naswot(network(), images(), LABELS, 0)


def test_normalisation_uses_the_statistics_of_the_batch() -> None:
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3)).eval()
    assert naswot(model, images(), LABELS, 0) == pytest.approx(naswot(model, images() * 3 + 5, LABELS, 0))
