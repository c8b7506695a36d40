"""DNAS against its paper (Wu et al., 2018, arXiv:1812.00090), and all families of mixed precision on a network so
small that every policy can be tried."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from nasflow.compression import assign, haq, precision
from nasflow.compression.assign import Limit
from nasflow.compression.dnas import Relaxation
from nasflow.compression.layers import Layer, layers
from nasflow.loop import Evaluate, Strategy, run
from nasflow.space import Choice, Point
from nasflow.strategies.nsga2 import nsga2
from nasflow.study import Metrics, Objective, Study, Trial

torch.set_num_threads(1)

SHAPE = (3, 4, 4)
NETWORK = nn.Sequential(nn.Conv2d(3, 20, 1, bias=False), nn.Flatten(), nn.Linear(320, 2, bias=False))
LAYERS = layers(NETWORK, SHAPE)  # 60 and 640 weights
SPACE = precision.space(NETWORK, SHAPE, edges=None, activations=False)
LIMIT = Limit("size_bytes", precision.layer_bytes, 450)


def hurts(layer: Layer, weight: int, _: int) -> float:
    return {"0": 0.3, "2": 1.0}[layer.name] * 4.0**-weight


def cost(layer: Layer, weight: int, activation: int) -> float:
    return 100 * weight + weight * activation


# ---- the relaxation


def relaxed(seed: int = 0, activations: bool = True) -> Relaxation:
    relaxation = Relaxation(precision.space(NETWORK, SHAPE, edges=None, activations=activations))
    generator = torch.Generator().manual_seed(seed)
    for logits in relaxation.logits:
        logits.data = torch.randn(logits.shape, generator=generator)
    return relaxation


def test_the_expected_cost_is_that_of_all_networks_by_their_probability() -> None:
    relaxation = relaxed()
    options = [p.options for p in relaxation.space.parameters if isinstance(p, Choice)]
    names = [p.name for p in relaxation.space.parameters]
    mean = 0.0
    for values in itertools.product(*options):
        policy: Point = dict(zip(names, values, strict=True))
        chance = 1.0
        for name, value in policy.items():
            chance *= float(relaxation.probabilities(name)[int(value or 0) - 2].detach())
        mean += chance * precision.total(LAYERS, policy, cost)
    assert float(relaxation.expected(LAYERS, cost).detach()) == pytest.approx(mean, rel=1e-5)


def test_the_expected_cost_has_the_gradient_of_the_softmax() -> None:
    relaxation = relaxed(activations=False)
    expected = relaxation.expected(LAYERS, precision.layer_bytes)
    (found,) = torch.autograd.grad(expected, [relaxation.logits[0]])
    bytes_by_bits = torch.arange(2, 9) * 60 / 8
    p = relaxation.probabilities("weight_bits.0").detach()
    by_hand = p * (bytes_by_bits - p @ bytes_by_bits)
    assert torch.allclose(found, by_hand, atol=1e-4)


def test_cold_gates_are_one_hot_and_drawn_by_the_softmax() -> None:
    relaxation = relaxed(1)
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(7)
    for _ in range(1000):
        relaxation.draw(1e-4, generator)
        gates = relaxation.gates["weight_bits.0"].detach()
        assert float(gates.sum()) == pytest.approx(1.0)
        counts += gates.round()
    p = relaxation.probabilities("weight_bits.0").detach()
    assert float(counts.sum()) == 1000
    assert ((counts / 1000 - p).abs() < 4 * (p * (1 - p) / 1000).sqrt() + 1e-3).all()


def test_hot_gates_are_all_alike() -> None:
    relaxation = relaxed(1)
    relaxation.draw(1e6, torch.Generator().manual_seed(0))
    assert torch.allclose(relaxation.gates["weight_bits.0"], torch.full((7,), 1 / 7), atol=1e-4)


def test_the_more_certain_the_preferences_the_closer_the_expected_cost_to_that_of_the_point() -> None:
    """The limit of the temperature: the arg-max."""
    relaxation = relaxed(2)
    exact = precision.total(LAYERS, relaxation.point(), cost)
    gaps = []
    for temperature in (1.0, 0.1, 0.001):
        colder = relaxed(2)
        for logits in colder.logits:
            logits.data /= temperature
        assert colder.point() == relaxation.point()
        gaps.append(abs(float(colder.expected(LAYERS, cost).detach()) - exact))
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 1e-3 * exact


# ---- all families on two layers


def judged(trial: Trial) -> Metrics:
    return {"error_simulated": precision.total(LAYERS, trial.point, hurts)}


def brute_force() -> Point:
    best, least = None, np.inf
    for first, second in itertools.product(range(2, 9), repeat=2):
        policy = {"weight_bits.0": first, "weight_bits.2": second}
        hurt = precision.total(LAYERS, policy, hurts)
        if precision.size_bytes(LAYERS, policy) <= LIMIT.most and hurt < least:
            best, least = policy, hurt
    assert best is not None
    return {**best, "activation_bits.0": 32, "activation_bits.2": 32}


def searched(strategy: Strategy, objectives: list[Objective], trials: int) -> Point:
    study = Study(SPACE, objectives)

    def size(point: Point) -> Metrics:
        return {"size_bytes": precision.size_bytes(LAYERS, point)}

    run(study, strategy, Evaluate(judged, cheap=size), trials=trials)
    return min(study.finalists, key=lambda trial: trial.metrics["error_simulated"]).point


def test_the_best_policy_is_no_uniform_one() -> None:
    best = brute_force()
    assert (best["weight_bits.0"], best["weight_bits.2"]) == (6, 5)


def test_hawq_finds_it() -> None:
    told = {
        (f"weight_bits.{layer.name}", bits): hurts(layer, bits, 32)
        for layer in LAYERS
        for bits in range(2, 9)
    }
    assert assign.policy(SPACE, LAYERS, told, [LIMIT]) == brute_force()


def test_haq_finds_it() -> None:
    error = [Objective("error_simulated")]
    strategy = haq.haq(SPACE, error, layers=LAYERS, limit=LIMIT, warm_up=5)
    assert searched(strategy, error, 25) == brute_force()


def test_nsga2_finds_it() -> None:
    objectives = [Objective("error_simulated"), Objective("size_bytes", limit=LIMIT.most)]
    assert searched(nsga2(SPACE, objectives, population=8), objectives, 25) == brute_force()


def test_dnas_finds_it() -> None:
    relaxation = Relaxation(SPACE)
    optimizer = torch.optim.Adam(relaxation.parameters(), 0.05)
    for _ in range(100):
        loss = relaxation.expected(LAYERS, hurts) * relaxation.expected(LAYERS, LIMIT.cost).log() ** 0.9
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert relaxation.within(LAYERS, [LIMIT]) == brute_force()
