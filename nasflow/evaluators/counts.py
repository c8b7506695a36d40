"""What a network costs by arithmetic: multiply-adds, also per byte that they move, parameters, size, and memory to
use it and to train it; and how sparse it is.

All of it is known before training, in some hundredths of a second for a small network, so a limit on any of it
saves the training.
"""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nasflow.space import Point, Scalar, point_key
from nasflow.spaces import training as training_space
from nasflow.training import Recipe, seeded

with warnings.catch_warnings():  # importing fvcore scripts a loss, which torch deprecates
    warnings.simplefilter("ignore", DeprecationWarning)
    from fvcore.nn.jit_analysis import JitModelAnalysis
    from fvcore.nn.jit_handles import conv_flop_jit, einsum_flop_jit, get_shape

SEED = 0  # of the weights, whose values do not count
FLOAT = 4  # bytes
OPTIMIZER_AVERAGES: Mapping[str, int] = {"adamw": 2, "sgd": 1}  # numbers kept for each weight
ELEMENTWISE = ("batch_norm", "group_norm", "layer_norm", "hardswish", "gelu", "silu")  # torch tags the others


class Architecture(Protocol):
    """How points become networks for inputs of `shape` (channels, height, width)."""

    @property
    def shape(self) -> tuple[int, int, int]: ...
    def build(self, point: Mapping[str, Scalar]) -> nn.Module: ...


@dataclass(frozen=True)
class Counts:
    """The cheap part of an evaluation: `flops`, `compute_intensity`, `params`, `size_kb`, `peak_memory_kb`,
    `training_memory_mb` and `sparsity` of a point's network. `batch` is what it is trained with where the point does
    not say; what is known is not counted again. `original` makes the network that a point's network was compressed
    from; without it, every network is its own original.
    """

    architecture: Architecture
    batch: int = Recipe.batch_size
    original: Callable[[Point], nn.Module] | None = None
    _known: dict[str, dict[str, float]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __call__(self, point: Point) -> dict[str, float]:
        key = point_key(point)
        if key not in self._known:
            recipe = training_space.recipe(point, Recipe(batch_size=self.batch))
            with seeded(SEED):
                model = self.architecture.build(training_space.without(point))
                original = self.original(training_space.without(point)) if self.original else model
            self._known[key] = self._count(model, original, recipe)
        return dict(self._known[key])

    def of(self, model: nn.Module, original: nn.Module | None = None) -> dict[str, float]:
        """The same of a network that is there already."""
        return self._count(model, original or model, Recipe(batch_size=self.batch))

    def _count(self, model: nn.Module, original: nn.Module, recipe: Recipe) -> dict[str, float]:
        shape = self.architecture.shape
        work = arithmetic(model, shape)
        return {
            "flops": work.macs,
            "compute_intensity": work.intensity,
            "params": params(model),
            "size_kb": size_kb(model),
            "peak_memory_kb": peak_memory_kb(model, shape),
            "training_memory_mb": training_memory_mb(
                model, shape, recipe.batch_size, averages=OPTIMIZER_AVERAGES[recipe.optimizer]
            ),
            "sparsity": sparsity(model, original),
        }


@dataclass(frozen=True)
class Arithmetic:
    """Multiply-adds of convolutions, linear layers and matrix products, and bytes that these read and write."""

    macs: float
    bytes: float

    @property
    def intensity(self) -> float:
        """Multiply-adds per byte; 0 for a network without any."""
        return self.macs / self.bytes if self.macs else 0.0


def flops(model: nn.Module, shape: Sequence[int]) -> float:
    """Multiply-adds of convolutions, linear layers and matrix products for one input of `shape`.

    Counted by fvcore, without normalisation, pooling and interpolation, and with attention, which it leaves out:
    so MobileNet-V1 at 224x224 has 568.740352 million, as published (arXiv:1704.04861 rounds to 569).
    """
    return arithmetic(model, shape).macs


def compute_intensity(model: nn.Module, shape: Sequence[int]) -> float:
    """Multiply-adds per byte for one input of `shape`: those of `flops` over the bytes that the same operations move
    as 32-bit floats, each on its own: everything that it reads (inputs, weights and biases) and what it writes.

    The arithmetic intensity of the roofline model (Williams, Waterman and Patterson, 2009), which counts a
    multiply-add as two operations. What is low is held up by memory: depthwise convolutions, and linear layers with
    one input at a time. Caches and fused operations move less than this.
    """
    return arithmetic(model, shape).intensity


def arithmetic(model: nn.Module, shape: Sequence[int]) -> Arithmetic:
    """What `flops` and `compute_intensity` count, in one go."""
    with _evaluating(model) as network, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # tracing warns of every size that becomes a constant, which is meant here
        analysis = JitModelAnalysis(network, torch.zeros(1, *shape))
        analysis.set_op_handle(**{name: _work(macs) for name, macs in MULTIPLY_ADDS.items()})
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        counted = analysis.by_operator()
        return Arithmetic(float(counted["macs"]), float(counted["bytes"]))


def params(model: nn.Module) -> float:
    """Numbers that training sets; shared ones count once."""
    return float(sum(parameter.numel() for parameter in model.parameters()))


def sparsity(model: nn.Module, original: nn.Module) -> float:
    """Share, 0 to 1, of the weights of `original` that `model`, made from it, has no more or has as zeros.

    Weights are the parameters of two dimensions and more; biases and normalisations, which are often zero at first,
    are none. A network with more weights than its original is not sparse.
    """
    whole = sum(weight.numel() for weight in _weights(original))
    left = sum(int(weight.count_nonzero()) for weight in _weights(model))
    return max(0.0, 1.0 - left / whole) if whole else 0.0


def size_kb(model: nn.Module) -> float:
    """Kilobytes (of 1024 bytes) of the weights as 32-bit floats, normalisation statistics included."""
    return _weight_bytes(model) / 1024


def peak_memory_kb(model: nn.Module, shape: Sequence[int], batch: int = 1) -> float:
    """Kilobytes that weights and intermediate results need at once, at worst, while `batch` inputs are answered.

    The model of a runtime: a result lives until it was used for the last time; normalisation, activations and other
    elementwise operations write over an input that nothing else needs. Scratch memory of single operations is
    not in it. For 32-bit floats; eight-bit integers need about a quarter.
    """
    weights = _storages(model.state_dict(keep_vars=True).values())
    x = torch.zeros(batch, *shape)
    with _evaluating(model) as network, torch.no_grad(), _Recorder(weights) as recorder:
        answer = network(x)
    given = {name: storage.nbytes() for name, storage in _storages([x]).items()}
    live = most_live(recorder.operations, given, _storages(tree_leaves(answer)).keys())
    return (_weight_bytes(model) + live) / 1024


def training_memory_mb(model: nn.Module, shape: Sequence[int], batch: int, averages: int = 2) -> float:
    """Megabytes (of 2**20 bytes) that a training step with `batch` images needs, on top of the process itself.

    Weights, their gradients and the optimizer's `averages` for each, what is kept for the backward pass, and the
    largest result twice, for the gradients on their way. Real memory also has scratch space and gaps: a factor
    of 1.5 is usual.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(value: Tensor) -> Tensor:
        kept.update(_storages([value]))
        return value

    network = copy.deepcopy(model).train()
    weights = _storages(network.state_dict(keep_vars=True).values())
    # Two images are enough, as what is kept grows with their number; one cannot be normalised.
    with seeded(SEED), torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        network(torch.zeros(2, *shape))
    sizes = [storage.nbytes() * batch / 2 for name, storage in kept.items() if name not in weights]
    return (_weight_bytes(model) * (2 + averages) + sum(sizes) + 2 * max(sizes, default=0)) / 2**20


# ---- multiply-adds by operation


def _product(inputs: list[Any], outputs: list[Any]) -> int:
    """Of a matrix product: as many for each number that comes out as the left side has columns."""
    return _numel(outputs[0]) * int(get_shape(inputs[0])[-1])


def _added_product(inputs: list[Any], outputs: list[Any]) -> int:
    return _product(inputs[1:], outputs)


def _attention(inputs: list[Any], outputs: list[Any]) -> int:
    """Queries times keys, then weights times values: (..., length, width) each."""
    queries, keys, values = (get_shape(value) for value in inputs[:3])
    *batch, length, width = queries
    rows = int(torch.Size(batch).numel()) * length
    macs: int = rows * keys[-2] * (width + values[-1])
    return macs


def _work(multiply_adds: Callable[..., Any]) -> Callable[[list[Any], list[Any]], Counter[str]]:
    """What fvcore is to count of an operation with that many multiply-adds, a number or by kind."""

    def count(inputs: list[Any], outputs: list[Any]) -> Counter[str]:
        told = multiply_adds(inputs, outputs)
        macs = sum(told.values()) if isinstance(told, Mapping) else told
        moved = FLOAT * sum(_numel(value) for value in _tensors([*inputs, *outputs]))
        return Counter({"macs": macs, "bytes": moved})

    return count


def _tensors(values: Iterable[Any]) -> Iterator[Any]:
    """The tensors among the values of a traced operation, those in lists included, as often as they are given."""
    for value in values:
        if value.node().kind() == "prim::ListConstruct":
            yield from _tensors(value.node().inputs())
        elif value.isCompleteTensor():
            yield value


def _numel(value: Any) -> int:
    return int(torch.Size(get_shape(value)).numel())


MULTIPLY_ADDS: dict[str, Any] = {
    "aten::_convolution": conv_flop_jit,
    "aten::linear": _product,
    "aten::matmul": _product,
    "aten::mm": _product,
    "aten::mv": _product,
    "aten::bmm": _product,
    "aten::addmm": _added_product,
    "aten::baddbmm": _added_product,
    "aten::einsum": einsum_flop_jit,
    "aten::scaled_dot_product_attention": _attention,
}


# ---- memory


@dataclass(frozen=True)
class Operation:
    """One step of a network's execution: names and bytes of the results that it reads and of those it makes."""

    reads: Mapping[int, int]
    makes: Mapping[int, int]
    elementwise: bool


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every operation that runs, results named by their storages, which it keeps from being used again."""

    def __init__(self, weights: Mapping[int, torch.UntypedStorage]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self._held = dict(weights)
        self._weights = frozenset(weights)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        read, made = _storages(tree_leaves((args, kwargs))), _storages(tree_leaves(result))
        self._held |= read | made
        name = func.overloadpacket.__name__
        self.operations.append(
            Operation(
                {key: storage.nbytes() for key, storage in read.items() if key not in self._weights},
                {key: s.nbytes() for key, s in made.items() if key not in read},
                torch.Tag.pointwise in func.tags or any(part in name for part in ELEMENTWISE),
            )
        )
        return result


def most_live(operations: Sequence[Operation], given: Mapping[int, int], wanted: Container[int]) -> int:
    """Bytes of results that are live at once, at worst. The results `given` are there from the beginning, those
    `wanted` stay to the end; any other lives from the operation that makes it to the last that reads it.

    >>> steps = [Operation({1: 8}, {2: 16}, False), Operation({2: 16}, {3: 16}, True)]
    >>> most_live(steps, {1: 8}, {3})
    24
    """
    needed = {name: step for step, operation in enumerate(operations) for name in operation.reads}
    needed |= {
        name: len(operations) for operation in operations for name in operation.makes if name in wanted
    }
    live, most = dict(given), sum(given.values())
    for step, operation in enumerate(operations):
        made = {name: size for name, size in operation.makes.items() if name in needed}
        over = {name for name in operation.reads if needed[name] == step and name in live}
        if operation.elementwise and made:
            # One result takes the place of an input that ends here, so that input is gone before it is there.
            size = next(iter(made.values()))
            replaced = next((name for name in over if live[name] == size), None)
            if replaced is not None:
                del live[replaced]
        live |= made
        most = max(most, sum(live.values()))
        for name in over & live.keys():
            del live[name]
    return most


def _weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in model.parameters() if parameter.ndim > 1]


def _storages(values: Iterable[object]) -> dict[int, torch.UntypedStorage]:
    """Storages of the tensors among `values`, by a name that is theirs for as long as they are held."""
    storages = [value.untyped_storage() for value in values if isinstance(value, Tensor)]
    return {id(storage): storage for storage in storages}


def _weight_bytes(model: nn.Module) -> int:
    """Bytes of parameters and normalisation statistics as 32-bit floats; step counters are not stored in files."""
    values = [*model.parameters(), *model.buffers()]
    return sum(FLOAT * value.numel() for value in values if value.is_floating_point())


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """`model` in evaluation mode; afterwards every part is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes.items():
            module.training = mode
