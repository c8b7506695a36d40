"""What every way of compressing a network promises, as tests."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nasflow.space import Choice, Point, Real, Space
from nasflow.testing.small_networks import HARDER, NETWORKS, SHAPE, trained

SAMPLES = 2

Make = Callable[[], nn.Module]


@dataclass(frozen=True)
class CompressionUnderTest:
    """A way to compress: `space(model, shape)` offers policies and `apply(policy, model, shape)` makes a network of
    one, which is a new one. `whole` is the policy that changes nothing; `parameters(policy, model, shape)` counts
    without making the network. Where the way is random, it is so by a seed of its own.

    Tried on each of `networks`, functions that make networks for inputs of nasflow.testing.small_networks.SHAPE.
    """

    space: Callable[[nn.Module, Sequence[int]], Space]
    apply: Callable[[Point, nn.Module, Sequence[int]], nn.Module]
    whole: Callable[[Space], Point]
    parameters: Callable[[Point, nn.Module, Sequence[int]], float]
    networks: Mapping[str, Make] = field(default_factory=lambda: {**NETWORKS, **HARDER})

    def policies(self, model: nn.Module) -> list[Point]:
        """Some that change something: the one that changes most, if options are in order, and random ones."""
        space, rng = self.space(model, SHAPE), np.random.default_rng(0)
        whole = self.whole(space)
        tried = [_farthest(space, whole), *(space.sample(rng) for _ in range(SAMPLES))]
        return [policy for policy in tried if space.key(policy) != space.key(whole)]


class CompressionContract:
    """Subclass it and override the fixtures `under_test` and `make`, a function that makes one of its networks."""

    @pytest.fixture
    def under_test(self) -> CompressionUnderTest:
        raise NotImplementedError("override this fixture: return a CompressionUnderTest")

    @pytest.fixture
    def make(self) -> Make:
        raise NotImplementedError("override this fixture: return one of the networks")

    def test_changing_nothing_is_the_identity_bit_for_bit(
        self, under_test: CompressionUnderTest, make: Make
    ) -> None:
        model = trained(make)
        same = under_test.apply(under_test.whole(under_test.space(model, SHAPE)), model, SHAPE)
        before, after = model.state_dict(), same.state_dict()
        assert list(before) == list(after)
        assert all(torch.equal(value, after[name]) for name, value in before.items())
        assert torch.equal(_answers(same), _answers(model))

    def test_the_original_and_global_random_state_stay_untouched(
        self, under_test: CompressionUnderTest, make: Make
    ) -> None:
        model = trained(make).train()
        next(model.parameters()).requires_grad_(False)
        before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
        for policy in under_test.policies(model):
            said = dict(policy)
            under_test.apply(policy, model, SHAPE)
            assert policy == said, "it changed the policy"
        assert torch.equal(torch.get_rng_state(), state)
        assert all(module.training for module in model.modules())
        assert [p.requires_grad for p in model.parameters()].count(False) == 1
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert before.keys() == model.state_dict().keys()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    def test_policies_of_the_space_run_and_change_something(
        self, under_test: CompressionUnderTest, make: Make
    ) -> None:
        model = trained(make)
        answers, changed = _answers(model), 0
        for policy in under_test.policies(model):
            made = _answers(under_test.apply(policy, model, SHAPE))
            assert made.shape == answers.shape
            assert bool(made.isfinite().all())
            changed += not torch.equal(made, answers)
        assert changed

    def test_the_same_policy_makes_the_same_network(
        self, under_test: CompressionUnderTest, make: Make
    ) -> None:
        model = trained(make)
        policy = under_test.policies(model)[0]
        one, other = (under_test.apply(policy, model, SHAPE).state_dict() for _ in range(2))
        assert list(one) == list(other)
        assert all(torch.equal(value, other[name]) for name, value in one.items())

    def test_counted_parameters_are_the_real_ones(self, under_test: CompressionUnderTest, make: Make) -> None:
        model = trained(make)
        for policy in under_test.policies(model):
            real = sum(p.numel() for p in under_test.apply(policy, model, SHAPE).parameters())
            assert under_test.parameters(policy, model, SHAPE) == real

    def test_what_is_made_can_be_trained(self, under_test: CompressionUnderTest, make: Make) -> None:
        model = trained(make)
        made = under_test.apply(under_test.policies(model)[0], model, SHAPE).train()
        made(_images()).logsumexp(1).sum().backward()
        told = [parameter.grad for parameter in made.parameters() if parameter.grad is not None]
        assert told and all(bool(gradient.isfinite().all()) for gradient in told)
        assert math.fsum(float(gradient.abs().sum()) for gradient in told) > 0


def _farthest(space: Space, whole: Point) -> Point:
    """Of each choice the option that is least like that of the whole network."""
    far: Point = {}
    for p in space.parameters:
        if isinstance(p, Real):
            far[p.name] = p.low if whole[p.name] != p.low else p.high
        elif isinstance(p, Choice):
            far[p.name] = p.options[-1] if whole[p.name] != p.options[-1] else p.options[0]
    return far


def _images() -> Tensor:
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))


def _answers(model: nn.Module) -> Tensor:
    with torch.no_grad():
        answers: Tensor = copy.deepcopy(model).eval()(_images())
    return answers
