"""Bits for each layer, chosen by an agent that walks through the network: HAQ.

Wang et al., 2019 (Hardware-Aware Automated Quantization, arXiv:1811.08886): two decisions for a layer, the bits of its
weights and those of its inputs. Nothing holds the agent back while it walks; a policy that is over the budget in the
end loses bits from the last layer to the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from nasflow.compression.assign import Limit
from nasflow.compression.ddpg import Agent, Episodes, scaled
from nasflow.compression.layers import Layer
from nasflow.compression.precision import ACTIVATION, WEIGHT, PrecisionError, offered, total
from nasflow.space import Choice, Point, Scalar, Space
from nasflow.study import Objective, Trial

REWARD = 10.0  # for an error of 1: a tenth for each percentage point of accuracy
REPLAY = 128  # episodes remembered


def haq(
    space: Space,
    objectives: Sequence[Objective],
    *,
    layers: Sequence[Layer],
    limit: Limit,
    seed: int = 0,
    warm_up: int = 20,
    noise: float = 0.5,
    decay: float = 0.99,
) -> Episodes:
    """HAQ on a `space` of simulated bits (precision.space) of these `layers`: the least of the first objective, the
    error, with a cost of at most `limit.most`.

    The agent and its settings are the paper's. Its reward is a tenth of a percentage point of accuracy, without the
    accuracy of the original, which the moving average that is taken off it would cancel. Where the bits offered are
    not one after the other, each has an equal share of the actions all the same.

    Raises:
        PrecisionError: even the fewest bits cost more than the limit, or the space is not one of these layers' bits.
    """
    _check_limit(space, layers, limit)
    begin = partial(Bits, space, layers, limit)

    def reward(trial: Trial) -> float | None:
        return -REWARD * objectives[0].loss(trial.metrics) if trial.state == "done" else None

    def agent(features: int) -> Agent:
        return Agent(features, seed, replay=REPLAY * len(_decisions(space, layers)))

    return Episodes(space, begin, reward, agent, seed, warm_up=warm_up, noise=noise, decay=decay)


def level(action: float, least: int, most: int) -> int:
    """The whole number from `least` to `most` that an action in [0, 1] means; each has an equal share of the actions.

    Half way between two it is the even one: other rounding would leave the range at its ends, and 2 to 8 bits not.

    >>> level(0.0, 2, 8), level(0.5, 2, 8), level(1.0, 2, 8)
    (2, 5, 8)
    """
    return min(most, max(least, round(least - 0.5 + action * (most - least + 1))))


def within(policy: Mapping[str, Scalar], space: Space, layers: Sequence[Layer], limit: Limit) -> Point:
    """`policy` with as many bits taken away as it takes to keep the limit: one step down at a time, of a layer's
    inputs and then of its weights, from the last layer to the first, and again.

    Raises:
        PrecisionError: even the fewest bits cost more than the limit.
    """
    space.check(policy)
    _check_limit(space, layers, limit)
    fitted = {entry: int(bits) for entry, bits in policy.items() if isinstance(bits, int)}
    while True:
        for layer in reversed(layers):
            for entry in (ACTIVATION + layer.name, WEIGHT + layer.name):
                if total(layers, fitted, limit.cost) <= limit.most:
                    return dict(fitted)
                lower = [bits for bits in offered(space, entry) if bits < fitted[entry]]
                fitted[entry] = max(lower, default=fitted[entry])


class Bits:
    """A walk over the layers, the bits of weights and then of inputs, where there is a choice.

    Seen at each decision (10 numbers): whether the layer is depthwise, its inputs, outputs, stride, kernel and number
    of weights, the size of its input, its number, the bits of the decision before as a share of the most there are,
    and whether this decision is about weights. Over all decisions each is scaled to [0, 1].
    """

    def __init__(self, space: Space, layers: Sequence[Layer], limit: Limit) -> None:
        self._space, self._layers, self._limit = space, layers, limit
        self._decisions = _decisions(space, layers)
        self._static = scaled(
            [_known(layers[number], number, entry.startswith(WEIGHT)) for number, entry in self._decisions]
        )
        self._most = max(max(offered(space, entry)) for _, entry in self._decisions)
        self._taken: list[int] = []

    def features(self) -> list[float] | None:
        if len(self._taken) == len(self._decisions):
            return None
        known = self._static[len(self._taken)].tolist()
        before = self._taken[-1] / self._most if self._taken else 1.0
        return [*known[:-1], before, known[-1]]

    def take(self, action: float) -> float:
        _, entry = self._decisions[len(self._taken)]
        options = offered(self._space, entry)
        self._taken.append(options[level(action, 0, len(options) - 1)])
        return action

    def point(self) -> Point:
        fixed: Point = {p.name: p.options[0] for p in self._space.parameters if isinstance(p, Choice)}
        chosen = {entry: bits for (_, entry), bits in zip(self._decisions, self._taken, strict=True)}
        return within({**fixed, **chosen}, self._space, self._layers, self._limit)


def _known(layer: Layer, number: int, of_weights: bool) -> list[float]:
    return [
        float(layer.kind == "depthwise"),
        layer.inputs,
        layer.outputs,
        layer.stride,
        layer.kernel[1],
        layer.weights,
        layer.given[0] * layer.given[1],
        number,
        float(of_weights),
    ]


def _decisions(space: Space, layers: Sequence[Layer]) -> list[tuple[int, str]]:
    """The number of the layer and the entry of each decision, in their order."""
    found = [
        (number, start + layer.name)
        for number, layer in enumerate(layers)
        for start in (WEIGHT, ACTIVATION)
        if len(offered(space, start + layer.name)) > 1
    ]
    if not found:
        raise PrecisionError("expected a space in which some layer's bits can be chosen, all have one option")
    return found


def _check_limit(space: Space, layers: Sequence[Layer], limit: Limit) -> None:
    fewest = {
        start + layer.name: offered(space, start + layer.name)[0]
        for layer in layers
        for start in (WEIGHT, ACTIVATION)
    }
    least = total(layers, fewest, limit.cost)
    if least > limit.most:
        raise PrecisionError(
            f"{limit.name} of at most {limit.most:.6g}: the least possible is {least:.6g}, with the fewest bits "
            "everywhere"
        )
