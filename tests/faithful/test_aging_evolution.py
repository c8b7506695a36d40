"""Aging evolution against its paper (Real et al., 2019) and the toy that its authors published: 100 bits, of which as
many as possible should be 1, seen through noise."""

import statistics
from unittest import mock

import numpy as np
import pytest

from nasflow.space import Choice, Space
from nasflow.strategies.evolution import aging_evolution
from nasflow.study import Objective, Trial

ONE = (Objective("loss"),)
BITS = Space(tuple(Choice(f"bit{i}", (0, 1)) for i in range(100)))


def ones(point):
    return sum(int(value) for value in point.values())


def evolved(space, metrics, *, cycles, batch=1, **settings):
    """A search's strategy and its trials."""
    strategy, trials = aging_evolution(space, ONE, **settings), []
    while len(trials) < cycles:
        told = [
            Trial(len(trials) + i, proposal.point, state="done", metrics=metrics(proposal.point))
            for i, proposal in enumerate(strategy.ask(batch))
        ]
        strategy.tell(told)
        trials += told
    return strategy, trials


@pytest.mark.parametrize("batch", [1, 7])
def test_the_population_is_always_the_last_evaluated_in_their_order(batch):
    rng = np.random.default_rng(0)
    for cycles in (5, 10, 11, 33, 60):
        strategy, trials = evolved(
            BITS, lambda point: {"loss": rng.random()}, cycles=cycles, batch=batch, population=10, sample=3
        )
        assert [member.point for member in strategy.members] == [trial.point for trial in trials[-10:]]


def test_every_model_lives_as_many_cycles_as_the_population_is_large():
    strategy, lives = aging_evolution(BITS, ONE, population=6, sample=2), {}
    for number in range(40):
        (proposal,) = strategy.ask(1)
        strategy.tell([Trial(number, proposal.point, state="done", metrics={"loss": float(-number % 7)})])
        for member in strategy.members:
            name = BITS.key(member.point)
            lives[name] = lives.get(name, 0) + 1
    assert sorted(lives.values()) == [1, 2, 3, 4, 5] + [6] * 35


def test_a_child_is_the_best_of_its_sample_with_one_parameter_changed():
    strategy, trials = evolved(BITS, lambda point: {"loss": -ones(point)}, cycles=30, population=20, sample=5)
    mutated, drawn = [], []
    rng = mock.Mock(wraps=np.random.default_rng(3))
    rng.integers.side_effect = lambda *args, **kw: (
        drawn.append(np.random.default_rng(4).integers(*args, **kw)) or drawn[-1]
    )
    with mock.patch.object(Space, "mutate", lambda self, point, rng: mutated.append(point) or dict(point)):
        strategy._draw(rng)
    assert len(drawn) == 1 and len(drawn[0]) == 5
    sample = [strategy.members[i].point for i in drawn[0]]
    assert ones(mutated[0]) == max(ones(point) for point in sample)
    lineage = {tuple(trial.point.values()) for trial in trials}
    for trial in trials[20:]:
        assert any(
            sum(a != b for a, b in zip(trial.point.values(), other, strict=True)) == 1 for other in lineage
        )


def test_a_sample_is_drawn_with_replacement():
    strategy, _ = evolved(BITS, lambda point: {"loss": 0.0}, cycles=4, population=2, sample=50)
    rng, drawn = np.random.default_rng(0), []
    spy = mock.Mock(wraps=rng)
    spy.integers.side_effect = lambda *args, **kw: drawn.append(rng.integers(*args, **kw)) or drawn[-1]
    with mock.patch.object(Space, "mutate", lambda self, point, rng: dict(point)):
        strategy._draw(spy)
    assert len(drawn[0]) == 50 > len(strategy.members)


def best_of_onemax(seed, *, bits, noise, aging=True):
    """Share of ones of the model with the best noisy fitness of the whole history, as many cycles as ten times the
    bits and populations as large as the bits."""
    space, rng = Space(tuple(Choice(f"bit{i}", (0, 1)) for i in range(bits))), np.random.default_rng(seed)

    def metrics(point):
        return {"loss": -float(np.clip(ones(point) / bits + rng.normal(0.0, noise), 0.0, 1.0))}

    settings = {"seed": seed, "population": bits, "sample": max(2, bits // 10), "aging": aging}
    _, trials = evolved(space, metrics, cycles=10 * bits, **settings)
    return ones(min(trials, key=lambda trial: trial.metrics["loss"]).point) / bits


def test_it_finds_most_of_the_ones_through_little_noise():
    assert statistics.median(best_of_onemax(seed, bits=100, noise=0.01) for seed in range(3)) >= 0.84


def test_aging_forgets_lucky_measurements_where_removing_the_worst_keeps_them():
    aging, worst = (
        statistics.median(best_of_onemax(seed, bits=100, noise=0.05, aging=aging) for seed in range(5))
        for aging in (True, False)
    )
    assert 0.69 <= aging <= 0.78 and 0.62 <= worst <= 0.72
    assert aging > worst + 0.03
