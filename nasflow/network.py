"""Networks said in data: which point of which space, what was pruned from it, in which precision.

So that a record, another process or a later version can build them again without unpickling code.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from nasflow import names
from nasflow.compression import joint, prune
from nasflow.compression.constants import fold
from nasflow.compression.criteria import Criterion
from nasflow.compression.reconstruct import Reconstruction
from nasflow.errors import NasflowError
from nasflow.space import Choice, Point, Scalar, Space
from nasflow.spaces import training as training_space

Make = Callable[[], nn.Module]

BATCHES, CURVATURE = "batches", "curvature"  # what criteria that ask training images take first


@dataclass(frozen=True)
class Part:
    """One factor of a product of spaces: its name in experiment files and its settings."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Architecture:
    """How points become networks for one task: the product of `parts` for inputs of `shape`
    (channels, height, width) and this many classes. Small and picklable: workers get it whole.

    A user's own `model` is a space of its own with a single point. `make` is the function behind it where no other
    process could import that by its name, from a notebook say. A known `point` is a space of its own too, one of
    the parts' points or beyond their options: a network made larger.
    """

    parts: tuple[Part, ...]
    shape: tuple[int, int, int]
    classes: int
    model: Part | None = None
    weights: Path | None = None
    make: Make | None = None
    point: Point | None = None

    def space(self) -> Space:
        """The product of the spaces of all parts, or the known point alone."""
        if self.point is not None:
            return Space(tuple(Choice(name, (value,)) for name, value in self.point.items()))
        whole = Space(())
        for part in self.parts:
            module = names.resolve("space", part.name)
            given = (self.shape, self.classes) if hasattr(module, "build") else ()
            whole = whole * names.call("space", part.name, module.space, *given, **part.arguments)
        return whole

    def build(self, point: Mapping[str, Scalar]) -> nn.Module:
        """The network that `point` means, with fresh weights, or the user's own weights where there are any."""
        network = self._own() if self.model is not None else self._of_space(point)
        return joint.apply(point, network, self.shape)

    def _of_space(self, point: Mapping[str, Scalar]) -> nn.Module:
        said = joint.without(training_space.without(point))
        for part in self.parts:
            module = names.resolve("space", part.name)
            if hasattr(module, "build"):
                network: nn.Module = module.build(said, self.shape, self.classes)
                return network
        raise NasflowError(f"none of {[part.name for part in self.parts]} builds networks; mobile does")

    def _own(self) -> nn.Module:
        assert self.model is not None
        make = self.make or names.resolve("model", self.model.name)
        expected = f"model {self.model.name!r}: expected a function that returns a torch.nn.Module, such as"
        expected = f"{expected} my_file.py:function"
        if not callable(make) or isinstance(make, nn.Module):
            raise NasflowError(f"{expected}, got a {type(make).__name__}")
        network = names.call("model", self.model.name, make, **self.model.arguments)
        if not isinstance(network, nn.Module):
            raise NasflowError(f"{expected}, got a {type(network).__name__} from it")
        if self.weights is not None:
            load_weights(network, self.weights)
        return network


@dataclass(frozen=True)
class Network:
    """One network of a run: `policy` says what was pruned from the point's, `int8` that its file is quantised but for
    the nodes in `floats`.

    `parent` names the network that it was compressed from, `weights` its trained ones.
    """

    name: str
    point: Point
    policy: Point = field(default_factory=dict)
    int8: bool = False
    floats: tuple[str, ...] = ()
    parent: str | None = None
    weights: Path | None = None

    def to_dict(self, folder: Path) -> dict[str, Any]:
        """As JSON, with the weights as seen from `folder`, which may then be moved."""
        weights = str(self.weights.relative_to(folder)) if self.weights else None
        return {**asdict(self), "floats": list(self.floats), "weights": weights}

    @classmethod
    def from_dict(cls, said: Mapping[str, Any], folder: Path) -> Network:
        weights = folder / said["weights"] if said["weights"] else None
        return cls(**{**said, "floats": tuple(said.get("floats", ())), "weights": weights})

    def build(self, architecture: Architecture) -> nn.Module:
        """The network with its weights loaded if it has any."""
        network = architecture.build(self.point)
        if self.policy:
            network = prune.apply(self.policy, network, architecture.shape)
        if self.weights is not None:
            load_weights(network, self.weights)
        return network


def load_weights(network: nn.Module, file: Path) -> None:
    """Put the state dict in `file` into `network`; an error says what does not fit. Nothing is unpickled."""
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except FileNotFoundError as error:
        raise NasflowError(f"no weights at {file}") from error
    except Exception as error:
        raise NasflowError(f"{file}: expected the state dict of this network: {error}") from error


def asks(criterion: str) -> str:
    """What the function behind a criterion's name takes first: a group, or what it has to be told before."""
    return next(iter(inspect.signature(names.resolve("criterion", criterion)).parameters), "")


@dataclass(frozen=True)
class Pruning:
    """How pruning policies become networks: `parent` with its trained weights, less what the policy removes, by the
    criterion of that name. `known` is the file of what training images told of the weights, for one that asks them;
    `moments` that of what they told of the layers' inputs, where what is left is to make up for what went. With `start`
    that network is pruned: the parent with other weights, or what earlier steps left of it; policies speak of the
    whole parent all the same.
    """

    architecture: Architecture
    parent: Network
    round_to: int
    keep: tuple[float, ...]
    protect: tuple[str, ...] = ()
    criterion: str = "l1"
    known: Path | None = None
    moments: Path | None = None
    only: tuple[str, ...] = ()
    start: Network | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the inputs: (channels, height, width)."""
        return self.architecture.shape

    def space(self) -> Space:
        """Every channel group's share to keep, and every block that can go."""
        return prune.space(
            self.parent.build(self.architecture),
            self.architecture.shape,
            round_to=self.round_to,
            keep=self.keep,
            protect=self.protect,
            only=self.only,
        )

    def build(self, policy: Mapping[str, Scalar]) -> nn.Module:
        begin = self.begin
        return prune.apply(
            policy,
            begin.build(self.architecture),
            self.architecture.shape,
            criterion=self._criterion(),
            compensate=self._compensate(),
            of=self.parent.build(self.architecture) if begin.policy else None,
        )

    @property
    def begin(self) -> Network:
        """The network that is pruned."""
        return self.start or self.parent

    def _compensate(self) -> prune.Compensate:
        if self.moments is None:
            return fold
        return Reconstruction(**torch.load(self.moments, weights_only=True))

    def _criterion(self) -> Criterion:
        made: Any = names.resolve("criterion", self.criterion)
        asked = asks(self.criterion)
        if asked == "seed":
            made = made(0)
        elif asked in (BATCHES, CURVATURE):
            assert self.known is not None  # whoever names such a criterion has asked the images
            made = made(torch.load(self.known, weights_only=True))
        return cast(Criterion, made)

    def teacher(self, policy: Mapping[str, Scalar]) -> nn.Module:
        """Whom every pruned network learns from: the parent as it is."""
        return self.parent.build(self.architecture)
