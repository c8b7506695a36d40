"""Bits for each layer, found by gradients: every layer computes in all of them at once, weighted by preferences that
are trained with the weights.

Wu et al., 2018 (Mixed Precision Quantization of ConvNets via Differentiable Neural Architecture Search,
arXiv:1812.00090). Here all bits of a layer share its weights, as do those of its inputs: the sum of the rounded
weights convolves the sum of the rounded inputs, so that a step costs one network and its roundings, not one network
for each pair of bits. The paper draws policies from the preferences; here the most probable one within a budget is
found exactly.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from nasflow.augment import augment
from nasflow.compression import assign
from nasflow.compression.assign import Limit
from nasflow.compression.fakequant import INPUT
from nasflow.compression.layers import Layer
from nasflow.compression.precision import ACTIVATION, FLOAT, WEIGHT, Cost, PrecisionError, offered
from nasflow.compression.sensitivity import Simulate
from nasflow.data import Data
from nasflow.files import replacing
from nasflow.space import Choice, Point, Space
from nasflow.training import UNREADABLE, Diverged, TrainingError, seeded

MOMENTUM = 0.9


class Relaxation(nn.Module):
    """Preferences among the options of a `space` of bits: logits for each entry that has several, equal at first."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space
        self.entries = [p.name for p in space.parameters if isinstance(p, Choice) and len(p.options) > 1]
        self.logits = nn.ParameterList([torch.zeros(len(offered(space, entry))) for entry in self.entries])
        self.gates = {entry: self.probabilities(entry).detach() for entry in self.entries}

    def probabilities(self, entry: str) -> Tensor:
        """Of the options that the space offers for an entry, fewest bits first; 1 where there is but one."""
        if entry not in self.entries:
            return torch.ones(len(offered(self.space, entry)))
        probabilities: Tensor = self.logits[self.entries.index(entry)].softmax(0)
        return probabilities

    def draw(self, temperature: float, generator: torch.Generator) -> None:
        """Draw the `gates` of each entry anew: Gumbel-softmax (Jang et al., 2017, arXiv:1611.01144), shares of
        its options that sum to 1, the closer to one alone, drawn by its probability, the lower the temperature."""
        for entry, logits in zip(self.entries, self.logits, strict=True):
            uniform = torch.rand(len(logits), generator=generator).clamp_min(1e-20)
            gumbel = -(-uniform.log()).clamp_min(1e-20).log()
            self.gates[entry] = ((logits + gumbel) / temperature).softmax(0)

    def expected(self, layers: Sequence[Layer], cost: Cost) -> Tensor:
        """The expected cost of a network drawn by the probabilities: over layers, the sum over all pairs of bits of
        the probability of both times their cost. With gradients."""
        total = torch.zeros(())
        for layer in layers:
            weight, inputs = WEIGHT + layer.name, ACTIVATION + layer.name
            table = [
                [cost(layer, w, a) for a in offered(self.space, inputs)] for w in offered(self.space, weight)
            ]
            total = total + self.probabilities(weight) @ torch.tensor(
                table, dtype=torch.float32
            ) @ self.probabilities(inputs)
        return total

    def point(self) -> Point:
        """The most probable option of each entry."""
        return {
            p.name: offered(self.space, p.name)[int(self.probabilities(p.name).argmax())]
            for p in self.space.parameters
        }

    def within(
        self, layers: Sequence[Layer], limits: Sequence[Limit], *, ties: Sequence[Sequence[str]] = ()
    ) -> Point:
        """The most probable policy of all that keep the limits; see assign.policy."""
        unlikely = {
            (entry, bits): -float(logarithm)
            for entry in self.entries
            for bits, logarithm in zip(
                offered(self.space, entry), self.probabilities(entry).detach().double().log(), strict=True
            )
        }
        return assign.policy(self.space, layers, unlikely, limits, ties=ties)


@dataclass(frozen=True)
class Epoch:
    """What an epoch of the search came to. `loss` is the mean cross-entropy of the images that preferences learned
    from, `expected` the expected cost after it, `entropy` the mean uncertainty of the preferences as a share of the
    greatest there is."""

    number: int
    temperature: float
    loss: float
    expected: float
    entropy: float


def dnas(
    model: nn.Module,
    space: Space,
    simulate: Simulate,
    layers: Sequence[Layer],
    data: Data,
    *,
    cost: Cost,
    epochs: int = 8,
    seed: int = 0,
    gamma: float = 0.9,
    temperatures: tuple[float, float] = (5.0, 0.5),
    rate: float = 0.01,
    preference_rate: float = 0.05,
    share: float = 0.2,
    batch: int = 64,
    checkpoint: Path | None = None,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Relaxation:
    """Learn preferences among the bits of `space` for the trained `model`, which is left as it is.

    Each epoch first trains the weights (SGD at a constant `rate`) and then the preferences (Adam), on a `share` of
    the training images that the weights do not see: for the loss, cross-entropy x log(expected cost) ** gamma, of
    networks drawn with a temperature that falls geometrically. The paper's factor before the logarithm, which Adam
    would not mind, is such that the price is 1 at the start. `cost` may have any unit in which the
    whole network costs more than 1.

    A `checkpoint` that is there is gone on from; `on_epoch` hears of new epochs only. Torch's global generator is
    left alone.
    """
    relaxation = Relaxation(space)
    _check(relaxation, layers, cost, epochs, share, temperatures)
    network = supernetwork(model, relaxation, simulate)
    weights = list(network.parameters())
    optimizers = (
        torch.optim.SGD(weights, rate, MOMENTUM),
        torch.optim.Adam(relaxation.parameters(), preference_rate, betas=(0.5, 0.999)),
    )
    state = _State(network, relaxation, optimizers)
    identity = {
        "epochs": epochs, "seed": seed, "gamma": gamma, "temperatures": list(temperatures), "rate": rate,
        "preference_rate": preference_rate, "share": share, "batch": batch, "data": data.sha256,
        "entries": {entry: list(offered(space, entry)) for entry in relaxation.entries},
    }  # fmt: skip
    done = state.load(checkpoint, identity) if checkpoint is not None and checkpoint.exists() else 0
    start = math.log(float(Relaxation(space).expected(layers, cost).detach()))
    order = np.random.default_rng(seed).permutation(len(data.train))
    cut = len(order) - max(1, round(share * len(order)))
    for number in range(done + 1, epochs + 1):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        first, last = temperatures
        temperature = first * (last / first) ** ((number - 1) / max(1, epochs - 1))
        losses = []
        with seeded(seed * 1_000_003 + number):
            network.train()
            for images, labels in _batches(data, order[:cut], batch, generator):
                with torch.no_grad():
                    relaxation.draw(temperature, generator)
                _step(functional.cross_entropy(network(images), labels), optimizers[0], number)
            network.requires_grad_(False)
            for images, labels in _batches(data, order[cut:], batch, generator):
                relaxation.draw(temperature, generator)
                loss = functional.cross_entropy(network(images), labels)
                price = (relaxation.expected(layers, cost).log() / start) ** gamma
                _step(loss * price, optimizers[1], number)
                losses.append(float(loss.detach()))
            for weight in weights:
                weight.requires_grad_(True)
        if checkpoint is not None:
            state.save(checkpoint, identity, number)
        expected = float(relaxation.expected(layers, cost).detach())
        on_epoch(Epoch(number, temperature, float(np.mean(losses)), expected, _entropy(relaxation)))
    return relaxation


def supernetwork(model: nn.Module, relaxation: Relaxation, simulate: Simulate) -> nn.Module:
    """A copy of `model` whose layers use, for each entry of the policy with several options, the sum of what rounding
    to each gives, weighted by the gates that the relaxation drew last."""
    network = copy.deepcopy(model)
    roundings: dict[str, list[nn.Module]] = {entry: [] for entry in relaxation.entries}
    options = {entry: offered(relaxation.space, entry) for entry in relaxation.entries}
    for bits in sorted({bits for among in options.values() for bits in among}):
        entries = [entry for entry, among in options.items() if bits in among]
        rounded = simulate(dict.fromkeys(entries, bits)) if bits != FLOAT else None
        for entry in entries:
            roundings[entry].append(nn.Identity() if rounded is None else _rounding(rounded, entry))
    fixed = {p.name: offered(relaxation.space, p.name)[0] for p in relaxation.space.parameters}
    fixed = {entry: bits for entry, bits in fixed.items() if entry not in options and bits != FLOAT}
    if fixed:
        rounded = simulate(dict(fixed))
        for entry in fixed:
            _attach(network, entry, _rounding(rounded, entry))
    for entry, among in roundings.items():
        _attach(network, entry, _Mixture(among, relaxation, entry))
    return network


class _Mixture(nn.Module):
    """The sum of what its roundings give, weighted by the gates of one entry."""

    def __init__(self, roundings: Sequence[nn.Module], relaxation: Relaxation, entry: str) -> None:
        super().__init__()
        self.roundings = nn.ModuleList(roundings)
        # Not a part of the network, whose weights are trained apart from the preferences.
        self._gates: Callable[[], Tensor] = lambda: relaxation.gates[entry]

    def forward(self, values: Tensor) -> Tensor:
        gates = self._gates()
        rounded = [gates[i] * rounding(values) for i, rounding in enumerate(self.roundings)]
        return torch.stack(rounded).sum(0)


def _rounding(rounded: nn.Module, entry: str) -> nn.Module:
    """The rounding of an entry in a simulated network."""
    if entry.startswith(ACTIVATION):
        return rounded.get_submodule(f"{entry.removeprefix(ACTIVATION)}.{INPUT}")
    return rounded.get_submodule(f"{entry.removeprefix(WEIGHT)}.parametrizations.weight.0")


def _attach(network: nn.Module, entry: str, rounding: nn.Module) -> None:
    if entry.startswith(WEIGHT):
        layer = network.get_submodule(entry.removeprefix(WEIGHT))
        parametrize.register_parametrization(layer, "weight", rounding)
        return
    layer = network.get_submodule(entry.removeprefix(ACTIVATION))
    layer.add_module(INPUT, rounding)
    layer.register_forward_pre_hook(lambda layer, given: (layer.get_submodule(INPUT)(given[0]), *given[1:]))


# ---- training


@dataclass(frozen=True)
class _State:
    """All that a search changes."""

    network: nn.Module
    relaxation: Relaxation
    optimizers: tuple[torch.optim.Optimizer, ...]

    def save(self, path: Path, identity: Mapping[str, Any], epoch: int) -> None:
        state = {
            "identity": dict(identity),
            "epoch": epoch,
            "network": self.network.state_dict(),
            "preferences": self.relaxation.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        with replacing(path) as part:
            torch.save(state, part)

    def load(self, path: Path, identity: Mapping[str, Any]) -> int:
        """Go back to where it was saved; the number of epochs that were done then."""
        try:
            state = torch.load(path, weights_only=True)
            differing = [name for name, value in identity.items() if state["identity"].get(name) != value]
            if differing:
                raise TrainingError(
                    f"{path} is the checkpoint of another search: it differs in {', '.join(differing)}. Delete it to "
                    "search from the start"
                )
            self.network.load_state_dict(state["network"])
            self.relaxation.load_state_dict(state["preferences"])
            for optimizer, was in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(was)
            return int(state["epoch"])
        except UNREADABLE as problem:
            raise TrainingError(
                f"{path}: expected the checkpoint of a search, got something else ({type(problem).__name__}). Delete "
                "it to search from the start"
            ) from problem


def _batches(
    data: Data, places: np.ndarray[Any, np.dtype[np.int64]], batch: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    shuffled = places[torch.randperm(len(places), generator=generator).numpy()]
    for picked in np.array_split(shuffled, max(1, round(len(shuffled) / batch))):
        images = torch.from_numpy(data.preprocess(data.train.x[picked]))
        yield augment(data.augment, images, generator), torch.from_numpy(data.train.y[picked])


def _step(loss: Tensor, optimizer: torch.optim.Optimizer, epoch: int) -> None:
    if not math.isfinite(float(loss.detach())):
        raise Diverged(f"the search of bits diverged in epoch {epoch}; lower rates may help")
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _entropy(relaxation: Relaxation) -> float:
    """The mean over entries of their preferences' entropy, as a share of that of equal ones."""
    shares = []
    for logits in relaxation.logits:
        logarithms = logits.detach().log_softmax(0)
        shares.append(-float((logarithms.exp() * logarithms).sum()) / math.log(len(logits)))
    return float(np.mean(shares))


def _check(
    relaxation: Relaxation,
    layers: Sequence[Layer],
    cost: Cost,
    epochs: int,
    share: float,
    temperatures: Sequence[float],
) -> None:
    if not relaxation.entries:
        raise PrecisionError("expected a space in which some layer's bits can be chosen, all have one option")
    if epochs < 1 or not 0 < share < 1 or not all(temperature > 0 for temperature in temperatures):
        raise PrecisionError(
            "expected at least 1 epoch, a share between 0 and 1 and temperatures above 0, "
            f"got {epochs}, {share} and {tuple(temperatures)}"
        )
    fewest = {
        layer.name: (
            offered(relaxation.space, WEIGHT + layer.name)[0],
            offered(relaxation.space, ACTIVATION + layer.name)[0],
        )
        for layer in layers
    }
    least = sum(cost(layer, *fewest[layer.name]) for layer in layers)
    if least <= 1:
        raise PrecisionError(
            f"expected a network that costs more than 1, got {least:.6g}; use a smaller unit"
        )
