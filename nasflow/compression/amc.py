"""How many channels each layer can spare, found by an agent that is only ever allowed policies within a budget.

He et al., 2018 (AMC, arXiv:1802.03494). The agent (ddpg.py) goes through the network; for each group of channels it
says which share of them to remove, knowing 11 numbers about the layer that makes them first. Whatever it says, enough
is removed that the budget can still be met by the layers after it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from nasflow.compression.ddpg import Agent, Episodes, scaled
from nasflow.compression.groups import PruneError
from nasflow.compression.layers import Kept, Layer, channels, kept
from nasflow.compression.prune import BLOCK, CHANNELS
from nasflow.names import nearest
from nasflow.space import Choice, Point, Space
from nasflow.study import Objective, Trial

Price = Callable[[Layer], float]
"""What one layer costs, in whatever unit; pruned layers are layers."""

PRICES: Mapping[str, Price] = {
    "flops": lambda layer: layer.macs,
    "params": lambda layer: layer.parameters + layer.beside,
}


def amc(
    space: Space,
    objectives: Sequence[Objective],
    *,
    seed: int = 0,
    layers: Sequence[Layer] | None = None,
    target: float = 0.5,
    metric: Literal["flops", "params", "latency"] = "flops",
    cost: Price | None = None,
    reward: Literal["error", "error_flops", "error_params"] = "error",
    conv_cap: float = 0.8,
    linear_cap: float = 0.98,
    fill: bool = True,
    warm_up: int = 100,
    noise: float = 0.5,
    decay: float = 0.95,
) -> Episodes:
    """AMC over the channels of a space that prune.space made; blocks all stay.

    `layers` are those of the network, by layers.layers. At most `target` of the whole network's `metric` is left, or of
    its `cost`, a function of a layer: "latency" needs that, the milliseconds, say by a table of prices.py. A target of
    1 leaves the agent free.
    Rewarded is -error; -error log(multiply-adds) or -error log(parameters) where it is free to trade. Of a group that
    a convolution makes first at most `conv_cap` is removed, of one that a linear layer makes `linear_cap`.

    Beyond the paper, no policy is evaluated twice, and with `fill` none is that leaves a rounding step of the budget
    unused: the paper's agent has to learn that by itself. What the search minimises first takes the place of the
    error where that is not among the objectives.

        found = layers.layers(model, shape)
        space = prune.space(model, shape, round_to=1, keep=[k / 10 for k in range(2, 11)])
        objectives = (Objective("error"),)
        strategy = amc(space, objectives, layers=found, target=0.5, warm_up=50)
        study = Study(space, objectives)
        loop.run(study, strategy, loop.Evaluate(Pruned(apply, data)), trials=200)  # evaluators/pruned.py
        policy = study.front[0].point

    Raises:
        PruneError: the space, the layers and the target do not go together.
    """
    if layers is None:
        raise PruneError(
            "amc goes through a network layer by layer and was not told its layers: give `layers`, from "
            "nasflow.compression.layers.layers(model, shape)"
        )
    if metric == "latency" and cost is None:
        raise PruneError("amc with metric latency needs `cost`, a function that tells a layer's milliseconds")
    if not 0 < target <= 1:
        raise PruneError(f"amc: expected a target above 0 and at most 1, got {target}")
    price = cost or PRICES[metric]
    caps = {"conv": conv_cap, "depthwise": conv_cap, "linear": linear_cap}
    plan = Plan(space, layers, price, target, caps, fill)
    wanted = [objective for objective in objectives if objective.optimise]
    wrong = next((objective for objective in wanted if objective.metric == "error"), wanted[0])

    def worth(trial: Trial) -> float | None:
        if wrong.metric not in trial.metrics:
            return None
        loss = wrong.loss(trial.metrics)
        if reward == "error":
            return -loss
        left = (plan.flops if reward == "error_flops" else plan.parameters)(kept(layers, trial.point))
        return -loss * math.log(left)

    make = functools.partial(Agent, seed=seed)
    return Episodes(
        space, lambda: ChannelWalk(plan), worth, make, seed, warm_up=warm_up, noise=noise, decay=decay
    )


@dataclass(frozen=True)
class Decision:
    """What can be left of a group: shares with their numbers of channels, all of them first. `layer` is the place of
    the one that makes it first."""

    group: str
    layer: int
    options: tuple[tuple[float, int], ...]


class Cost:
    """What layers cost together, when so many channels are left. Prices are asked for once."""

    def __init__(self, layers: Sequence[Layer], price: Price) -> None:
        self._price = price
        self._layers = [(layer, tuple({share.group for share in layer.shares})) for layer in layers]
        self._known: list[dict[tuple[int | None, ...], float]] = [{} for _ in layers]

    def __call__(self, kept: Kept) -> float:
        return math.fsum(self.each(kept))

    def each(self, kept: Kept) -> Iterator[float]:
        """The cost of each layer."""
        for (layer, groups), known in zip(self._layers, self._known, strict=True):
            key = tuple(kept.get(group) for group in groups)
            if key not in known:
                known[key] = self._price(layer.pruned(kept))
            yield known[key]


class Plan:
    """All that the walks of one search share: the decisions in their order, and the budget."""

    def __init__(
        self,
        space: Space,
        layers: Sequence[Layer],
        price: Price,
        target: float,
        caps: Mapping[str, float],
        fill: bool,
    ) -> None:
        self.decisions = _decisions(space, layers, caps)
        self.caps = [caps[layers[decision.layer].kind] for decision in self.decisions]
        self.cost, self.flops, self.parameters = (
            Cost(layers, of) for of in (price, PRICES["flops"], PRICES["params"])
        )
        self.whole = self.flops({})
        self.fill = fill and target < 1
        self.budget = target * self.cost({}) if target < 1 else math.inf
        self.static = scaled(
            [
                (at, layer.outputs, layer.inputs, *layer.given, layer.stride, max(layer.kernel), layer.macs)
                for at, layer in ((decision.layer, layers[decision.layer]) for decision in self.decisions)
            ]
        )
        self.blocks: Point = {p.name: True for p in space.parameters if p.name.startswith(BLOCK)}
        least = self.cost(self.least(0))
        if least > self.budget:
            raise PruneError(
                f"amc: a target of {target:g} cannot be met: with as little of every group as the space and the caps "
                f"allow, {least / self.cost({}):.3g} is left; offer smaller shares or raise the target"
            )

    def least(self, first: int) -> dict[str, int]:
        """The fewest channels of all groups decided from `first` on."""
        return {decision.group: decision.options[-1][1] for decision in self.decisions[first:]}


class ChannelWalk:
    """A walk through a network that decides on one group of channels after the other."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._last = plan, 0.0
        self._shares: Point = {}
        self._kept: dict[str, int] = {}

    def features(self) -> tuple[float, ...] | None:
        """Of the group's first layer: its place, outputs, inputs, height, width, stride, kernel and multiply-adds,
        scaled by those of all decisions; of the whole network's multiply-adds the shares that are gone already and
        that are in layers after it; the last action."""
        plan, at = self._plan, len(self._shares)
        if at == len(plan.decisions):
            return None
        costs = list(plan.flops.each(self._kept))
        reduced = 1 - math.fsum(costs) / plan.whole
        rest = math.fsum(costs[plan.decisions[at].layer + 1 :]) / plan.whole
        return (*map(float, plan.static[at]), reduced, rest, self._last)

    def take(self, action: float) -> float:
        """Remove about the share `action` of the group: no more than its cap, no less than the budget asks for."""
        at = len(self._shares)
        decision = self._plan.decisions[at]
        wanted = min(action, self._plan.caps[at])
        share, count = min(self._allowed(at), key=lambda option: abs(1 - option[0] - wanted))
        self._shares[CHANNELS + decision.group] = share
        self._kept[decision.group] = count
        self._last = 1 - share
        return self._last

    def point(self) -> Point:
        return {**self._plan.blocks, **self._shares}

    def _allowed(self, at: int) -> Sequence[tuple[float, int]]:
        """The options with which the budget can still be met, and with `fill` still be used up."""
        plan, options = self._plan, self._plan.decisions[at].options
        if plan.budget == math.inf:
            return options
        group, later = plan.decisions[at].group, plan.least(at + 1)

        def fits(count: int, rest: Kept) -> bool:
            return plan.cost({**self._kept, **rest, group: count}) <= plan.budget

        meeting = [option for option in options if fits(option[1], later)] or [options[-1]]
        if not plan.fill:
            return meeting
        # Fewer channels than the most with which everything after could stay whole serve nothing.
        enough = next((option for option in options if fits(option[1], {})), options[-1])
        return [option for option in meeting if option[1] >= enough[1]] or meeting


def _decisions(space: Space, layers: Sequence[Layer], caps: Mapping[str, float]) -> tuple[Decision, ...]:
    whole = channels(layers)
    places = {layer.name: at for at, layer in enumerate(layers)}
    found = []
    for choice in space.parameters:
        if choice.name.startswith(BLOCK):
            continue
        group = choice.name.removeprefix(CHANNELS)
        if group == choice.name or not isinstance(choice, Choice):
            raise PruneError(
                f"amc decides on channels only and cannot choose {choice.name}; search that with another strategy"
            )
        if group not in whole or group not in places:
            raise PruneError(
                f"{choice.name}: the layers given to amc make no such group; {nearest(group, whole)}"
            )
        cap = caps[layers[places[group]].kind]
        shares = sorted((float(option or 0) for option in choice.options), reverse=True)
        within = [share for share in shares if share == shares[0] or 1 - share <= cap + 1e-9]
        options = tuple((share, max(1, round(share * whole[group]))) for share in within)
        found.append(Decision(group, places[group], options))
    if not found:
        raise PruneError("amc: the space offers no channels to remove")
    return tuple(sorted(found, key=lambda decision: decision.layer))
