"""How many bits each layer computes in: policies of two kinds, which never mix.

*Simulated*: `weight_bits.<layer>` and `activation_bits.<layer>`, 2 to 8 or 32 (left alone). No processor here runs
such networks faster; what they cost is arithmetic (bit operations, bytes) or a table of a chip that would.
*Executable*: `precision.<layer>`, "fp32" or "int8": what ONNX Runtime really runs, so that its cost is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from nasflow.compression.layers import Layer, layers
from nasflow.errors import NasflowError
from nasflow.space import Choice, Point, Scalar, Space
from nasflow.study import Metrics

WEIGHT, ACTIVATION, PRECISION = "weight_bits.", "activation_bits.", "precision."
FLOAT = 32  # bits: a layer that is left alone, and every bias
BITS = (2, 3, 4, 5, 6, 7, 8)
EXECUTABLE = ("fp32", "int8")

Kind = Literal["simulated", "executable"]

Cost = Callable[[Layer, int, int], float]
"""What a layer costs with its weights in the first, its inputs in the second number of bits."""


class PrecisionError(NasflowError):
    """A policy of bits or precisions that does not fit a network, or that mixes the two kinds."""


def space(
    model: nn.Module,
    shape: Sequence[int],
    *,
    bits: Sequence[int] = BITS,
    activations: bool = True,
    edges: int | None = 8,
) -> Space:
    """Simulated bits for the weights and the inputs of every layer of `model`, for inputs of `shape`.

    The first and the last layer, on which all others depend, stay at `edges` bits: they have one option. With None
    they are chosen as the others are; without `activations`, inputs are left alone.

    >>> net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 10))
    >>> offered = space(net, (1, 8, 8), bits=(4, 8), activations=False)
    >>> [choice.options for choice in offered.parameters]
    [(8,), (32,), (4, 8), (32,), (8,), (32,)]
    """
    _check_bits(bits, edges)
    options = tuple(sorted(set(bits)))
    found = layers(model, shape)
    parameters = []
    for layer in found:
        fixed = edges is not None and layer in (found[0], found[-1])
        offered = (edges,) if fixed else options
        parameters.append(Choice(WEIGHT + layer.name, offered, ordered=True))
        parameters.append(Choice(ACTIVATION + layer.name, offered if activations else (FLOAT,), ordered=True))
    return Space(tuple(parameters))


def runnable(model: nn.Module, shape: Sequence[int], *, precisions: Sequence[str] = EXECUTABLE) -> Space:
    """Executable precisions for every layer of `model`: what is measured, not simulated.

    bf16 is none of them: ONNX Runtime has no convolution or matrix product in it for CPUs (1.31). Where a runtime
    does, name it in `precisions`.
    """
    return Space(tuple(Choice(PRECISION + layer.name, tuple(precisions)) for layer in layers(model, shape)))


def kind(policy: Mapping[str, Scalar]) -> Kind:
    """Which kind of policy this is.

    >>> kind({"weight_bits.conv": 4, "activation_bits.conv": 8}), kind({"precision.conv": "int8"})
    ('simulated', 'executable')
    """
    simulated = [name for name in policy if name.startswith((WEIGHT, ACTIVATION))]
    executable = [name for name in policy if name.startswith(PRECISION)]
    strange = [name for name in policy if name not in {*simulated, *executable}]
    if strange or bool(simulated) == bool(executable):
        raise PrecisionError(
            "expected a policy of simulated bits (weight_bits.<layer>, activation_bits.<layer>) or of executable "
            f"precisions (precision.<layer>), got {', '.join(strange) or 'both' if policy else 'nothing'}"
        )
    return "simulated" if simulated else "executable"


def uniform(space: Space, bits: int) -> Point:
    """The policy with about the same bits everywhere that offers a choice: what a search has to beat."""
    policy: Point = {}
    for choice in space.parameters:
        assert isinstance(choice, Choice)
        policy[choice.name] = min(choice.options, key=lambda option: abs(int(option or 0) - bits))
    return policy


def offered(space: Space, entry: str) -> tuple[int, ...]:
    """The bits that a space offers for an entry of a policy, fewest first."""
    choice = next((parameter for parameter in space.parameters if parameter.name == entry), None)
    if not isinstance(choice, Choice):
        raise PrecisionError(f"{entry}: the space offers no bits for it; make it with precision.space")
    return tuple(sorted(int(bits) for bits in choice.options if isinstance(bits, int)))


# ---- what simulated bits cost


def layer_bitops(layer: Layer, weight: int, activation: int) -> float:
    """Bit operations: multiply-adds times the bits of both factors."""
    return float(layer.macs) * weight * activation


def layer_bytes(layer: Layer, weight: int, activation: int) -> float:
    """Bytes of the weights in so many bits and of the bias in 32; scales and normalisations are not counted."""
    return (layer.weights * weight + layer.bias * layer.outputs * FLOAT) / 8


def bitops(layers: Sequence[Layer], policy: Mapping[str, Scalar]) -> float:
    """Bit operations of the network under a simulated policy: the sum over layers of multiply-adds times the bits
    of weights times the bits of inputs."""
    return total(layers, policy, layer_bitops)


def size_bytes(layers: Sequence[Layer], policy: Mapping[str, Scalar]) -> float:
    """Bytes of all layers under a simulated policy, as if packed without gaps."""
    return total(layers, policy, layer_bytes)


def total(layers: Sequence[Layer], policy: Mapping[str, Scalar], cost: Cost) -> float:
    """The sum over layers of what each costs under a simulated policy."""
    return sum(cost(layer, *bits_of(layer.name, policy)) for layer in layers)


def bits_of(layer: str, policy: Mapping[str, Scalar]) -> tuple[int, int]:
    """Bits of a layer's weights and inputs; what the policy does not name is left alone, in 32."""
    return _bits(WEIGHT + layer, policy), _bits(ACTIVATION + layer, policy)


@dataclass(frozen=True)
class Costs:
    """The cheap part of an evaluation of simulated policies: `bitops` and `size_kb_simulated`."""

    layers: tuple[Layer, ...]

    def __call__(self, point: Point) -> Metrics:
        return {
            "bitops": bitops(self.layers, point),
            "size_kb_simulated": size_bytes(self.layers, point) / 1024,
        }


def dyadic(scale: float) -> tuple[int, int]:
    """A whole number below 2**31 and a shift, number / 2**shift being `scale` up to 2**-31 of it: how a processor
    without floats multiplies by a scale (HAWQ-V3; Yao et al., 2021, arXiv:2011.10680).

    >>> dyadic(0.75)
    (1610612736, 31)
    """
    if not (math.isfinite(scale) and scale > 0):
        raise PrecisionError(f"expected a scale above 0, got {scale}")
    mantissa, exponent = math.frexp(scale)
    number, shift = round(mantissa * 2**31), 31 - exponent
    return (number, shift) if number < 2**31 else (number // 2, shift - 1)


def _bits(entry: str, policy: Mapping[str, Scalar]) -> int:
    bits = policy.get(entry, FLOAT)
    if isinstance(bits, bool) or not isinstance(bits, int) or not (bits in range(2, 9) or bits == FLOAT):
        raise PrecisionError(f"{entry}: expected 2 to 8 bits, or 32 to leave it alone, got {bits!r}")
    return bits


def _check_bits(bits: Sequence[int], edges: int | None) -> None:
    if not bits:
        raise PrecisionError("expected at least one number of bits to choose from, got none")
    for number in (*bits, *(() if edges is None else (edges,))):
        _bits("bits", {"bits": number})
