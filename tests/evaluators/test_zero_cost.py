"""What zero-cost scores promise, whatever their formula; formulas are in tests/faithful."""

import copy
import math
import pickle
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nasflow.data import Data, DataSettings, load
from nasflow.errors import NasflowError
from nasflow.evaluators import counts, zero_cost
from nasflow.evaluators.zero_cost import SCORES, ZeroCost, batch, score
from nasflow.loop import Evaluate, run
from nasflow.space import Point, Scalar
from nasflow.spaces import mobile, training
from nasflow.strategies.listed import Listed
from nasflow.study import Objective, Study

torch.set_num_threads(1)

SHAPE = (1, 8, 8)
EVERY = sorted(SCORES)


@pytest.fixture(scope="module")
def digits() -> Data:
    return load(DataSettings(name="digits"))


class Mobile:
    """The mobile space for digits."""

    shape = SHAPE

    def build(self, point: Mapping[str, Scalar]) -> nn.Module:
        return mobile.build(point, SHAPE, 10)


def points(count: int, seed: int = 0) -> list[Point]:
    space, rng = mobile.space(SHAPE, 10), np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(count)]


def network() -> nn.Module:
    """With all that a score might disturb: normalisation, dropout, frozen weights, shared ones, parts in both modes."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 3),
        nn.Hardswish(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 32),
        nn.SiLU(),
        nn.Linear(32, 32),
        nn.ReLU6(),
        nn.Linear(32, 10),
    )
    model[10].weight = model[8].weight
    model[3].requires_grad_(False)
    model[5].eval()
    return model


def images(count: int = 12) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, *SHAPE, generator=generator), torch.arange(count) % 10


@pytest.mark.parametrize("name", EVERY)
class TestEveryScore:
    def test_leaves_the_model_and_all_else_as_it_was(self, name: str) -> None:
        model, (x, y) = network(), images()
        model(x).sum().backward()  # gradients that belong to somebody else
        before, gradients = copy.deepcopy(model), [copy.deepcopy(p.grad) for p in model.parameters()]
        x_before, y_before, state = x.clone(), y.clone(), torch.get_rng_state()
        score(name, model, x, y, 3)
        for (key, value), old in zip(model.state_dict().items(), before.state_dict().values(), strict=True):
            assert torch.equal(value, old), key
        for parameter, old_one, gradient in zip(
            model.parameters(), before.parameters(), gradients, strict=True
        ):
            assert parameter.requires_grad == old_one.requires_grad
            assert (parameter.grad is None) == (gradient is None)
            assert parameter.grad is None or torch.equal(parameter.grad, gradient)
            assert parameter.dtype == torch.float32
        for module, old_module in zip(model.modules(), before.modules(), strict=True):
            assert type(module) is type(old_module) and module.training == old_module.training
            assert not module._forward_hooks and not module._forward_pre_hooks
        assert torch.equal(x, x_before) and torch.equal(y, y_before) and not x.requires_grad
        assert torch.equal(torch.get_rng_state(), state)

    def test_is_a_function_of_its_arguments(self, name: str) -> None:
        (x, y), first = images(), score(name, network(), *images(), 5)
        torch.manual_seed(99)
        with torch.no_grad():  # whatever the caller is in the middle of
            assert score(name, network(), x, y, 5) == first
        assert math.isfinite(first)

    def test_tells_networks_apart(self, name: str) -> None:
        x, y = images()
        made = []
        for point in points(4):
            torch.manual_seed(0)
            made.append(score(name, Mobile().build(point), x, y))
        assert len(set(made)) == 4
        assert all(math.isfinite(value) for value in made)

    def test_has_no_good_word_for_a_network_of_nan(self, name: str) -> None:
        model = network()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(math.nan)
        if name in ("flops", "params", "zen"):
            pytest.skip("it does not look at the weights")
        assert score(name, model, *images()) == -math.inf

    def test_wants_more_than_nothing(self, name: str) -> None:
        x, y = images()
        with pytest.raises(NasflowError, match="12 images and 11 labels"):
            score(name, network(), x, y[:11])
        with pytest.raises(NasflowError, match="got 0 images"):
            score(name, network(), x[:0], y[:0])


def test_an_unknown_score_is_named_with_those_there_are() -> None:
    with pytest.raises(NasflowError, match="did you mean 'naswot'"):
        score("nasvot", network(), *images())


def test_a_network_that_a_score_cannot_judge_is_refused_in_words() -> None:
    with pytest.raises(NasflowError, match=r"activations that are modules .*torch.nn.ReLU\(\)"):
        score("naswot", nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), *images())
    with pytest.raises(NasflowError, match="2D convolutions"):
        score("zen", nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), *images())
    for name in ("snip", "synflow", "fisher"):
        with pytest.raises(NasflowError, match="convolutions or linear layers"):
            score(name, nn.Sequential(nn.Flatten(), nn.ReLU()), *images())


def test_params_and_flops_are_those_of_the_counts() -> None:
    x, y = images()
    assert score("params", network(), x, y) == counts.params(network())
    assert score("flops", network(), x, y) == counts.flops(network(), SHAPE)


class TestZeroCost:
    def test_is_the_same_for_a_point_and_a_seed_whenever_it_is_asked(self, digits: Data) -> None:
        a, b = points(2)
        first = ZeroCost(Mobile(), digits, EVERY, batch=16, seed=1)
        torch.manual_seed(7)
        second = pickle.loads(pickle.dumps(ZeroCost(Mobile(), digits, EVERY, batch=16, seed=1)))
        assert first(a) == second(a) != second(b) == first(b)
        assert set(first(a)) == set(EVERY)
        assert ZeroCost(Mobile(), digits, EVERY, batch=16, seed=2)(a)["naswot"] != first(a)["naswot"]

    def test_computes_once(self, digits: Data) -> None:
        class Counting(Mobile):
            built = 0

            def build(self, point: Mapping[str, Scalar]) -> nn.Module:
                assert not any(name.startswith("train.") for name in point)
                self.built += 1
                return super().build(point)

        architecture = Counting()
        of = ZeroCost(architecture, digits, batch=8)
        point = {**points(1)[0], **training.space().sample(np.random.default_rng(0))}
        of(point)["naswot"] = 0.0  # what it gives is the caller's own
        assert of(dict(reversed(point.items())))["naswot"] != 0.0
        assert architecture.built == 1

    def test_a_broken_network_is_the_worst_and_its_score_is_not_recorded(self, digits: Data) -> None:
        class Deaf(Mobile):
            def build(self, point: Mapping[str, Scalar]) -> nn.Module:
                model = super().build(point)
                with torch.no_grad():
                    for parameter in model.parameters():
                        parameter.zero_()
                return model

        cheap = ZeroCost(Deaf(), digits, ("naswot", "params", "synflow"), batch=8)
        (point,) = points(1)
        assert cheap(point) == {"naswot": -math.inf, "params": cheap(point)["params"], "synflow": -math.inf}
        study = Study(mobile.space(SHAPE, 10), [Objective("error")])
        run(study, Listed([point]), Evaluate(lambda trial: {"error": 0.5}, cheap), trials=1)
        assert study.trials[0].metrics == {"params": cheap(point)["params"], "error": 0.5}

    def test_scores_and_batch_are_checked_at_once(self, digits: Data) -> None:
        with pytest.raises(NasflowError, match="unknown zero-cost score 'naswott'"):
            ZeroCost(Mobile(), digits, ("naswott",))
        with pytest.raises(NasflowError, match="batch of at least 2, got 1"):
            ZeroCost(Mobile(), digits, batch=1)

    def test_the_images_differ_from_each_other(self, digits: Data) -> None:
        doubled = replace(
            digits,
            train=replace(
                digits.train, x=np.repeat(digits.train.x[:20], 3, 0), y=np.repeat(digits.train.y[:20], 3)
            ),
        )
        x, y = batch(doubled, 15)
        expected, labels = batch(digits, 15)
        assert torch.equal(x, expected) and torch.equal(y, labels)
        assert len(batch(doubled, 100)[0]) == 20
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        assert np.array_equal(x.numpy(), digits.preprocess(digits.train.x[:15]))

    def test_is_quick(self, digits: Data) -> None:
        """All scores of a network of the mobile space, with the paper's batch of 128."""
        of = ZeroCost(Mobile(), digits, EVERY)
        start = time.perf_counter()
        of(points(1)[0])
        assert time.perf_counter() - start < 10


def test_the_documentation_of_every_score_says_what_it_is() -> None:
    for name in EVERY:
        assert (zero_cost.SCORES[name].__doc__ or "").strip(), name
