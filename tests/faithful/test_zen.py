"""The Zen-score against its paper: Lin et al., ICCV 2021."""

import math
import statistics

import pytest
import torch
from torch import Tensor, nn

from nasflow.evaluators.zero_cost import zen

torch.set_num_threads(1)

IMAGES, LABELS = torch.zeros(2, 3, 8, 8), torch.zeros(2).long()


def chain(width: int = 16, depth: int = 3, *, normalised: bool = True) -> nn.Sequential:
    torch.manual_seed(1)
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Conv2d(width if i else 3, width, 3, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(width)] * normalised + [nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def scores(model: nn.Module, seeds: int = 4) -> list[float]:
    return [zen(model, IMAGES, LABELS, seed) for seed in range(seeds)]


def test_the_scale_of_the_weights_does_not_matter() -> None:
    """They are drawn anew; and a convolution of another scale is undone by the normalisation behind it, and given
    back by the second term: it would count in a network of its own weights."""
    scaled = chain()
    with torch.no_grad():
        for weight in scaled.parameters():
            weight.mul_(100)
    assert scores(scaled) == scores(chain())


class Scaled(nn.Conv2d):
    """A convolution whose result is a hundred times what its weights say, whatever they are."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 100


def test_normalisation_takes_nothing_away() -> None:
    """A hundredfold convolution before a normalisation adds log(100), as it does in a network without any."""
    for normalised in (True, False):
        model = chain(normalised=normalised)
        model[0] = Scaled(3, 16, 3, padding=1, bias=False)
        gained = zen(model, IMAGES, LABELS, 0) - zen(chain(normalised=normalised), IMAGES, LABELS, 0)
        assert gained == pytest.approx(math.log(100), abs=0.01), normalised


def test_with_and_without_normalisation_agree() -> None:
    """The purpose of the second term, up to the noise of the draws and means that ReLUs leave."""
    assert zen(chain(), IMAGES, LABELS, 0) == pytest.approx(
        zen(chain(normalised=False), IMAGES, LABELS, 0), abs=0.5
    )


def test_a_linear_network_by_hand() -> None:
    """One 1x1 convolution: 0.01 |sum of 3 products of normal numbers|, over 4 channels of 64 pixels."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    generator = torch.Generator().manual_seed(0)
    w, e = torch.randn(2, 200_000, 3, generator=generator)
    expected = math.log(0.01 * 4 * 64 * float((w * e).sum(1).abs().mean()))
    assert statistics.mean(scores(model, 40)) == pytest.approx(expected, abs=0.1)


def test_deeper_and_wider_networks_score_higher_beyond_the_noise() -> None:
    usual = scores(chain())
    assert min(scores(chain(depth=5))) > max(usual) + 3 * statistics.stdev(usual)
    assert min(scores(chain(width=48))) > max(usual) + 3 * statistics.stdev(usual)


def test_it_looks_at_the_map_before_it_is_pooled() -> None:
    """However the pooling is written, and whatever follows it."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.last = chain()[:9], nn.Linear(16, 10)

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.last(self.features(x).mean((2, 3)))
            return answer

    model = chain()
    model[-1] = nn.Linear(16, 500)
    assert zen(Mean(), IMAGES, LABELS, 0) == pytest.approx(zen(chain(), IMAGES, LABELS, 0), abs=0.2)
    assert zen(model, IMAGES, LABELS, 0) == pytest.approx(zen(chain(), IMAGES, LABELS, 0), abs=0.2)


class Branched(nn.Module):
    """With a second branch, normalised, that is used `times` and sees so much of the image."""

    def __init__(self, times: float, seen: float) -> None:
        super().__init__()
        self.first, self.last, self.times, self.seen = chain()[:9], chain()[9:], times, seen
        self.branch = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16))

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.last(self.first(x) + self.times * self.branch(self.seen * x))
        return answer


@pytest.mark.parametrize(("times", "seen"), [(0.0, 1.0), (1.0, 0.0)])
def test_normalisation_without_a_say_does_not_count(times: float, seen: float) -> None:
    assert statistics.mean(scores(Branched(times, seen))) == pytest.approx(
        statistics.mean(scores(chain())), abs=0.2
    )


def test_a_network_that_ignores_the_image_is_the_worst() -> None:
    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = chain()

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.layers(x * 0)
            return answer

    assert zen(Blind(), IMAGES, LABELS, 0) == -math.inf
