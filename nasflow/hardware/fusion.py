"""Which operators a device runs as one: the rules, how they are found by measuring, and a graph grouped by them.

After nn-Meter (Zhang et al., 2021, https://doi.org/10.1145/3458864.3467882): what runs as one is a kernel, and a
network takes as long as its kernels together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasflow.hardware import probes
from nasflow.hardware.device import Device
from nasflow.hardware.graph import GATES, VIEWS, Operator

ALPHA = 0.5
# What pairs are tested at: sizes that nn-Meter found telling.
SIZES: Mapping[str, float] = {"height": 28.0, "width": 28.0, "channels_in": 64.0, "channels_out": 128.0}
ROWS: Mapping[str, float] = {
    "batch": 64.0,
    "channels_in": 256.0,
    "channels_out": 512.0,
}  # of a matrix product
KEEPING = 128.0  # channels of what keeps their number
# What works number by number, so that it can run along with what made the numbers.
ALONG = {
    *probes.ALONE, *probes.TOGETHER, "BatchNormalization", "Clip", "HardSigmoidInParts", "HardSwishInParts", "Swish",
}  # fmt: skip


def fused(first_ms: float, second_ms: float, both_ms: float, alpha: float = ALPHA) -> bool:
    """Whether two operators run as one: together they take noticeably less than one after the other.

    Times are those of the operators alone, and of both in one file, without what any call costs.

    >>> fused(10, 2, 10.5), fused(10, 2, 11.5)
    (True, False)
    """
    return first_ms + second_ms - both_ms > alpha * min(first_ms, second_ms)


@dataclass(frozen=True)
class FusionRules:
    """Pairs of operators, by their labels, of which the second runs together with the first that it follows.

    A result that several operators read ends a kernel, unless `shared`.
    """

    pairs: frozenset[tuple[str, str]] = frozenset()
    shared: bool = False

    def to_json(self) -> dict[str, Any]:
        return {"pairs": [list(pair) for pair in sorted(self.pairs)], "shared": self.shared}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FusionRules:
        """The opposite of `to_json`. KeyError, TypeError or ValueError where `value` is not that."""
        pairs = frozenset((str(first), str(second)) for first, second in value["pairs"])
        return cls(pairs, bool(value["shared"]))


UNFUSED = FusionRules()


@dataclass(frozen=True)
class Kernel:
    """Operators that run as one, in their order; results between them do not move."""

    operators: tuple[Operator, ...]

    @property
    def name(self) -> str:
        return self.operators[0].name

    @property
    def kind(self) -> str:
        """Labels of its operators: "Conv+Relu"."""
        return "+".join(label(one) for one in self.operators)

    @property
    def features(self) -> dict[str, float]:
        """Those of the first operator, and what the later ones add as "1.inputs": what does not follow from the
        result of the one before. Kernels of one kind with the same features are the same work."""
        found = dict(self.operators[0].features)
        before = found
        for number, one in enumerate(self.operators[1:], start=1):
            implied = following(before) | {"inputs": 1.0, "broadcast": 0.0}
            found |= {
                f"{number}.{name}": value
                for name, value in one.features.items()
                if implied.get(name) != value
            }
            before = dict(one.features)
        return found

    @property
    def macs(self) -> int:
        return sum(one.macs for one in self.operators)

    @property
    def bytes_in(self) -> int:
        """What is read besides weights: inputs of the first operator, and of the others what is not in between."""
        between = 0
        for before, one in zip(self.operators, self.operators[1:], strict=False):
            between += before.bytes_out * (before.outputs[0] in one.inputs)
        return sum(one.bytes_in for one in self.operators) - between

    @property
    def bytes_out(self) -> int:
        return self.operators[-1].bytes_out

    @property
    def bytes_weights(self) -> int:
        return sum(one.bytes_weights for one in self.operators)


def following(features: Mapping[str, float]) -> dict[str, float]:
    """The sizes of an operator that changes none, after one with these features."""
    sizes = {name: features[f"{name}_out"] for name in ("height", "width")}
    channels = features["channels_out"]
    return {
        "batch": features["batch"], **sizes, "channels_in": channels,
        **{f"{name}_out": size for name, size in sizes.items()}, "channels_out": channels,
    }  # fmt: skip


def label(operator: Operator) -> str:
    """What an operator is called in rules and kernels: "Conv", or "Conv(int8)" for numbers other than 32-bit floats."""
    return operator.kind if operator.dtype == "float32" else f"{operator.kind}({operator.dtype})"


def pairs(networks: Iterable[Sequence[Operator]]) -> list[tuple[str, str]]:
    """The labels of operators that follow one another in networks and may run as one, so have to be tested: the second
    works number by number, nothing else reads the result of the first, and a file can be written for each.
    """
    found: dict[tuple[str, str], None] = {}
    for operators in networks:
        readers = _readers(operators)
        for one in operators:
            after = [i for name in one.outputs for i in readers.get(name, [])]
            if len(after) == 1 and operators[after[0]].kind in ALONG and one.kind not in VIEWS:
                pair = label(one), label(operators[after[0]])
                gated = one.kind in GATES and pair[1].startswith("Mul")  # a gate, times another map
                if all(map(probes.known, pair)) and not gated:
                    found[pair] = None
    return sorted(found)


def detect(device: Device, asked: Sequence[tuple[str, str]]) -> FusionRules:
    """Which pairs of operators a device runs as one, by measuring both alone and together.

    Raises DeviceError, Unavailable or CannotProbe.
    """
    kernels: list[tuple[str, dict[str, float]]] = []
    for first, second in asked:
        sizes = _sizes(first, second)
        after = _after(second, following(probes.expanded(first, sizes)[0][2]))
        more = {f"1.{name}": value for name, value in after.items() if name in ("inputs", "channels_out")}
        kernels += [(first, sizes), (second, after), (f"{first}+{second}", sizes | more)]
    times = probes.kernel_ms(device, kernels).ms
    return FusionRules(
        frozenset(pair for number, pair in enumerate(asked) if fused(*times[3 * number : 3 * number + 3]))
    )


def _sizes(name: str, second: str) -> dict[str, float]:
    """What the first operator of a pair is tested at: with as many channels out as in before an operator of two
    inputs, so that the other can be the first one's own, as around a residual block."""
    if name.startswith(("Gemm", "MatMul")):
        return dict(ROWS)
    groups = {"groups": 4.0} if name.startswith("GroupedConv") else {}
    if name.startswith(("Conv", "GroupedConv")) and second.partition("(")[0] not in probes.TOGETHER:
        return {**SIZES, **groups}
    two = {"inputs": 2.0} if name.partition("(")[0] in probes.TOGETHER else {}
    return {**SIZES, "channels_in": KEEPING, "channels_out": KEEPING, **two, **groups}


def _after(name: str, sizes: Mapping[str, float]) -> dict[str, float]:
    """What the second is tested at, after a result of these sizes."""
    two = {"inputs": 2.0} if name.partition("(")[0] in probes.TOGETHER else {}
    given = {key: sizes[key] for key in ("batch", "channels_in", "height", "width")}
    return {**given, "channels_out": sizes["channels_in"], **two}


def _readers(operators: Sequence[Operator]) -> dict[str, list[int]]:
    """The operators that read each tensor, by their numbers."""
    readers: dict[str, list[int]] = {}
    for number, one in enumerate(operators):
        for name in dict.fromkeys(one.inputs):
            readers.setdefault(name, []).append(number)
    return readers


def kernels(operators: Sequence[Operator], rules: FusionRules) -> list[Kernel]:
    """The operators grouped as the rules say, depth first: an operator takes in the one that reads its result,
    and so on. A kernel stands where its first operator does."""
    readers = _readers(operators)
    taken: set[int] = set()
    found: list[Kernel] = []
    for number, one in enumerate(operators):
        if number in taken:
            continue
        group = [one]
        while True:
            after = [i for name in group[-1].outputs for i in readers.get(name, [])]
            if len(after) > 1 and not rules.shared:
                break
            fitting = [
                i for i in after if i not in taken and (label(group[-1]), label(operators[i])) in rules.pairs
            ]
            if not fitting:
                break
            taken.add(fitting[0])
            group.append(operators[fitting[0]])
        found.append(Kernel(tuple(group)))
    return found
