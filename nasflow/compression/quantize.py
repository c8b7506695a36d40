"""Networks in 8-bit integers: an ONNX file in, one whose convolutions ONNX Runtime computes in int8 out.

Static quantisation in the QDQ form: real data tell the range of every tensor once; the file then holds int8
weights, one scale per output channel, and says where tensors are rounded. What makes it fast, found by measuring
on CPUs (ratios of int8 to fp32 time in one thread, the same small networks):

- uint8 activations with int8 weights: int8 activations took 1.8 to 2.6, uint8 weights 1.5 to 2.5 times as long,
  as only the first pair has kernels of its own for the VNNI instructions.
- no float between two integer layers: each costs two conversions and often a change of layout. ONNX Runtime has
  no integer ReduceMean nor HardSigmoid, so the means over images become GlobalAveragePool (squeeze-excite: from
  1.0 to 0.57), hard sigmoids and hard swishes a saturating integer addition (from 1.15 to 0.81).

What decides whether it pays at all is the network, and it has to be measured: with channels in multiples of 16, 48
or more of them, int8 took 0.5 to 0.75 of the time from 34 us on; with 16 to 32 channels 0.9 to 1.5; with 40 channels
1.5 times as long as with 48.
"""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from nasflow.compression.calibrate import Method, Seen, check, limits
from nasflow.errors import NasflowError
from nasflow.files import replacing

BATCH = 32
AT_ONCE = 32  # tensors of a network whose values are held at once

# Operators that ONNX Runtime computes in integers on a CPU, or that only move values.
INTEGER = [
    "Add", "AveragePool", "Clip", "Concat", "Conv", "Flatten", "Gemm", "GlobalAveragePool", "LeakyRelu", "MatMul",
    "MaxPool", "Mul", "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Split", "Squeeze", "Transpose",
    "Unsqueeze",
]  # fmt: skip

# What convolutions and matrix products are called after ONNX Runtime optimised a graph.
IN_INTEGERS = {
    "QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
}  # fmt: skip
IN_FLOATS = {
    "Conv", "ConvTranspose", "FusedConv", "NhwcFusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul",
}  # fmt: skip


class QuantizeError(NasflowError):
    """A file that cannot be quantised, or data that cannot calibrate it."""


@dataclass(frozen=True)
class Scale:
    """How a tensor is rounded: to whole multiples of `steps`, one for each channel along `axis`, or a single one for
    all where that is None. `zero` is the 8-bit number that stands for zero: of weights (signed) 0."""

    steps: tuple[float, ...]
    zero: int = 0
    axis: int | None = None

    def told(self) -> list[dict[str, Any]]:
        """As ONNX Runtime's quantiser wants it."""
        weights = self.axis is not None
        kind = quantization.QuantType.QInt8 if weights else quantization.QuantType.QUInt8
        whole = np.array(self.zero, np.int8 if weights else np.uint8)
        axis = {"axis": self.axis} if weights else {}
        return [
            {"quant_type": kind, "scale": np.array(step, np.float32), "zero_point": whole, **axis}
            for step in self.steps
        ]


def int8(
    file: Path,
    calibration: NDArray[np.float32],
    out: Path,
    *,
    reduce_range: bool = False,
    keep: Collection[str] = (),
    method: Method = "minmax",
    scales: Mapping[str, Scale] = MappingProxyType({}),
) -> Path:
    """Write the quantised `file` to `out` and return that; `out` is whole or not there.

    `calibration`: some hundred preprocessed inputs (n, channels, height, width), of the kind that the network
    will get: they tell each tensor's range, by a `method` of calibrate.limits; that of weights holds all of them.
    `reduce_range` leaves one bit of the weights unused, for CPUs that add products of two in 16 bits: see
    needs_reduced_range. `keep` names nodes, as `prepared` has them, that stay in floats. `scales` are those that are
    known already, learned ones say, by tensors as `prepared` names them.

    Raises:
        QuantizeError: the data do not fit the file, a node to keep is not in it, or no layer of the result would run
            in integers.
    """
    check(method)
    feed = _Calibration(_input(onnx.load(file)), calibration)
    ready = prepared(file)
    if unknown := set(keep) - {node.name for node in ready.graph.node}:
        raise QuantizeError(f"{file}: expected nodes of this file to keep, got {', '.join(sorted(unknown))}")
    told = {} if method == "minmax" else _ranges(ready, _Calibration(_input(ready), calibration), method)
    told |= {name: scale.told() for name, scale in scales.items()}
    with _quiet(), replacing(out) as part:
        quantization.quantize_static(
            ready,
            part,
            feed,
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=INTEGER,
            nodes_to_exclude=list(keep),
            per_channel=True,
            reduce_range=reduce_range,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={"TensorQuantOverrides": told},
        )
        quantised = onnx.load(part)
        _saturate(quantised)
        _shield(quantised, keep)
        onnx.checker.check_model(quantised)
        onnx.save(quantised, part)
        if int8_share(part) == 0:
            raise QuantizeError(f"{file}: no convolution or matrix product of it would run in integers")
    return out


def prepared(file: Path) -> onnx.ModelProto:
    """The network of `file` as it is quantised: constants folded, means over images pooled, every node named. Equal
    networks have equal names, whatever their weights."""
    with _quiet(), tempfile.TemporaryDirectory(prefix="nasflow-int8-") as folder:
        simpler = Path(folder) / "prepared.onnx"
        quant_pre_process(str(file), simpler, skip_symbolic_shape=True)
        ready: onnx.ModelProto = onnx.load(simpler)
    pool_means(ready)
    for number, node in enumerate(ready.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return ready


def int8_share(file: Path) -> float:
    """Share of the convolutions and matrix products in `file` that ONNX Runtime computes in integers here, read
    off the graph that it optimised; 0 where there are none."""
    kinds = [node.op_type for node in _optimised(file)]
    integers, floats = (sum(kind in these for kind in kinds) for these in (IN_INTEGERS, IN_FLOATS))
    return integers / (integers + floats) if integers else 0.0


def in_integers(file: Path) -> frozenset[str]:
    """The convolutions and matrix products in `file`, by their nodes' names, that ONNX Runtime computes in integers
    here, read off the graph that it optimised."""
    return frozenset(
        re.sub(r"_token_\d+$", "", node.name) for node in _optimised(file) if node.op_type in IN_INTEGERS
    )


def _optimised(file: Path) -> list[onnx.NodeProto]:
    with tempfile.TemporaryDirectory(prefix="nasflow-int8-") as folder:
        optimised = Path(folder) / "optimised.onnx"
        _session(file, optimised)
        return list(onnx.load(optimised).graph.node)


def needs_reduced_range(flags: Collection[str]) -> bool:
    """Whether int8() should leave one bit unused for a CPU with these feature flags, as Linux lists them.

    Before VNNI, x86 CPUs add two products of eight bits in sixteen, which overflows with full-range weights.

    >>> needs_reduced_range(["avx2", "fma"]), needs_reduced_range(["avx2", "avx_vnni"]), needs_reduced_range(["asimd"])
    (True, False, False)
    """
    return "avx2" in flags and not {"avx512_vnni", "avx_vnni"} & set(flags)


def unavailable(precision: str) -> str:
    """Why ONNX Runtime cannot compute convolutions in this precision, "fp32", "bf16" or "int8", on this machine's
    processor; nothing where it can. It is tried, not looked up.

    >>> unavailable("fp32")
    ''
    """
    kinds = {"fp32": onnx.TensorProto.FLOAT, "bf16": onnx.TensorProto.BFLOAT16, "int8": onnx.TensorProto.INT8}
    if precision not in kinds:
        raise QuantizeError(f"expected one of the precisions {', '.join(kinds)}, got {precision!r}")
    with tempfile.TemporaryDirectory(prefix="nasflow-precision-") as folder:
        file = Path(folder) / "one.onnx"
        onnx.save(_one_convolution(kinds[precision]), file)
        try:
            if precision != "int8" or int8_share(file) > 0:
                _session(file)
                return ""
        except Exception as error:  # ONNX Runtime's exceptions share no other base
            return f"ONNX Runtime has no {precision} convolution for this processor: {str(error).splitlines()[0]}"
    return f"ONNX Runtime computes {precision} convolutions in floats on this processor"


class _Calibration(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Hands the calibration data to ONNX Runtime batch by batch."""

    def __init__(self, wanted: onnx.ValueInfoProto, x: NDArray[np.float32]) -> None:
        sizes = [size.dim_value or None for size in wanted.type.tensor_type.shape.dim]
        batch = sizes[0] or BATCH
        whole = len(x) if sizes[0] is None else len(x) // batch * batch
        fits = len(sizes) == x.ndim and all(
            n in (None, got) for n, got in zip(sizes[1:], x.shape[1:], strict=True)
        )
        if not (fits and whole and x.dtype == np.float32):
            shape = tuple("any" if n is None else n for n in sizes)
            raise QuantizeError(f"expected calibration data float32 {shape}, got {x.dtype} {x.shape}")
        if not np.isfinite(x).all():
            raise QuantizeError("expected finite calibration data, got NaN or infinity in them")
        self._batches = iter([{wanted.name: x[at : at + batch]} for at in range(0, whole, batch)])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Nothing of what the quantiser logs: it says how to prepare files, which is done here."""
    logger = logging.getLogger()
    handler = logging.NullHandler()
    logger.addHandler(handler)  # else its first message would set up logging for the whole process
    disabled = logger.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
        logger.removeHandler(handler)


# ---- rewriting graphs


def pool_means(model: onnx.ModelProto) -> None:
    """Write means over whole images, (n, c, h, w) -> (n, c, 1, 1) or (n, c), as GlobalAveragePool, in place.

    The same numbers; of the two operators ONNX Runtime has fast kernels for this one, in integers and floats.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    ranks = {
        value.name: len(value.type.tensor_type.shape.dim)
        for value in [*graph.input, *graph.value_info, *graph.output]
    }
    for node in [node for node in graph.node if node.op_type == "ReduceMean"]:
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        axes = given.get("axes", [])  # an input since version 18
        if len(node.input) > 1 and node.input[1] in constants:
            axes = numpy_helper.to_array(constants[node.input[1]]).tolist()
        if ranks.get(node.input[0]) != 4 or sorted(axis % 4 for axis in axes) != [2, 3]:
            continue
        at, image, result = list(graph.node).index(node), node.input[0], node.output[0]
        keeps = given.get("keepdims", 1)
        pooled = result if keeps else f"{result}_pooled"
        graph.node.remove(node)
        graph.node.insert(at, helper.make_node("GlobalAveragePool", [image], [pooled], name=f"{result}_pool"))
        if not keeps:
            flat = helper.make_node("Flatten", [pooled], [result], name=f"{result}_flat", axis=1)
            graph.node.insert(at + 1, flat)
    _drop_unused(graph)


def _saturate(model: onnx.ModelProto) -> None:
    """Write hard sigmoids between rounded tensors as additions of rounded tensors, in place.

    max(0, min(1, a x + b)): the tensor that holds x, read with a scale `a` times as large, holds a x; rounding
    the sum to a range of 0 to 1 does the rest. There is an integer kernel for additions.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    constants = {tensor.name: tensor for tensor in graph.initializer}

    def constant(name: str, value: float, kind: type[np.generic] = np.float32) -> str:
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, kind), name))
        return name

    for node in [node for node in graph.node if node.op_type == "HardSigmoid"]:
        source, sinks = makers.get(node.input[0]), readers.get(node.output[0], [])
        if source is None or [source.op_type, *(sink.op_type for sink in sinks)] != [
            "DequantizeLinear",
            "QuantizeLinear",
        ]:
            continue
        given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        x, scale, middle = source.input
        slope = float(numpy_helper.to_array(constants[scale])) * given.get("alpha", 0.2)
        result = node.output[0]
        new = f"{result}_saturated"
        zero = constant(f"{new}_zero", 0, np.uint8)
        full = constant(f"{new}_full", 255, np.uint8)
        offset = constant(f"{new}_offset", given.get("beta", 0.5) / 255)
        terms = [f"{new}_slope", f"{new}_constant"]
        read = [x, constant(f"{new}_scale", slope), middle]
        at = list(graph.node).index(node)
        graph.node.remove(node)
        for step in (
            helper.make_node("Add", terms, [result], name=f"{new}_add"),
            helper.make_node(
                "DequantizeLinear", [full, offset, zero], terms[1:], name=f"{new}_read_constant"
            ),
            helper.make_node("DequantizeLinear", read, terms[:1], name=f"{new}_read"),
        ):
            graph.node.insert(at, step)
        unit = constant(f"{new}_unit", 1 / 255)
        for rounding in (sinks[0], *readers[sinks[0].output[0]]):
            rounding.input[1], rounding.input[2] = unit, zero
        if readers[source.output[0]] == [node]:  # a node that nobody reads would still be computed
            graph.node.remove(source)
    _drop_unused(graph)


def _shield(model: onnx.ModelProto, keep: Collection[str]) -> None:
    """Read rounded tensors for the nodes to keep with one scale per channel, all of them equal, in place.

    The same numbers, but ONNX Runtime does not see through it. Else it rounds the weights of a convolution or matrix
    product between two rounded tensors by itself, with one scale for all of them, and computes it in integers, whatever
    the file says (WeightBiasQuantization in its optimiser, 1.31, which leaves scales per channel alone).
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    sizes = {
        value.name: [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    for node in [node for node in graph.node if node.name in keep]:
        source = makers.get(node.input[0]) if node.input else None
        if source is None or source.op_type != "DequantizeLinear" or source.input[0] in constants:
            continue
        channels = next(iter(sizes.get(source.output[0], [])[1:2]), 0)
        if not channels or constants[source.input[1]].dims:
            continue
        read = f"{node.name}_input"
        given = [source.input[0]]
        for number, name in enumerate(source.input[1:]):
            value = numpy_helper.to_array(constants[name])
            given.append(f"{read}_{number}")
            graph.initializer.append(numpy_helper.from_array(np.full(channels, value), given[-1]))
        reader = helper.make_node("DequantizeLinear", given, [read], name=f"{read}_read", axis=1)
        graph.node.insert(list(graph.node).index(node), reader)
        node.input[0] = read
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for node in [node for node in graph.node if node.op_type == "DequantizeLinear"]:
        if node.output[0] not in used:
            graph.node.remove(node)
    _drop_unused(graph)


def _drop_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _session(file: Path | bytes, optimised: Path | None = None) -> onnxruntime.InferenceSession:
    """Opens a file, or what is in one, on the processor, in one thread; what it was optimised to is written too."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    whole = file if isinstance(file, bytes) else str(file)
    return onnxruntime.InferenceSession(whole, options, providers=["CPUExecutionProvider"])


def _ranges(ready: onnx.ModelProto, feed: _Calibration, method: Method) -> dict[str, list[dict[str, Any]]]:
    """The range of every tensor that the network computes from the calibration data, by our own methods."""
    batches = list(iter(feed.get_next, None))
    names = [_input(ready).name, *(name for node in ready.graph.node for name in node.output if name)]
    open_ = onnx.ModelProto()
    open_.CopyFrom(ready)
    known = {value.name for value in open_.graph.output}
    open_.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names[1:] if name not in known)
    session = _session(open_.SerializeToString())
    seen = {name: Seen(len(batches)) for name in names}
    for batch in batches:
        for values in batch.values():
            seen[names[0]].add(torch.from_numpy(values))
        for at in range(1, len(names), AT_ONCE):
            some = names[at : at + AT_ONCE]
            for name, values in zip(some, session.run(some, batch), strict=True):
                if values.dtype == np.float32 and values.size:
                    seen[name].add(torch.from_numpy(values))
    found = {name: limits(one, method, 8) for name, one in seen.items() if one.low <= one.high}
    return {
        name: [{"rmin": np.float32(low), "rmax": np.float32(high)}] for name, (low, high) in found.items()
    }


def _one_convolution(kind: int) -> onnx.ModelProto:
    """A file with a convolution of tensors of this kind; int8 in the QDQ form."""
    weight = helper.make_tensor(
        "w", kind, [16, 16, 1, 1], [1.0 if kind != onnx.TensorProto.INT8 else 1] * 256
    )
    nodes, tensors, ends = [helper.make_node("Conv", ["x", "w"], ["y"])], [weight], kind
    if kind == onnx.TensorProto.INT8:
        ends = onnx.TensorProto.FLOAT
        tensors += [
            helper.make_tensor("s", ends, [], [0.1]),
            helper.make_tensor("z", onnx.TensorProto.UINT8, [], [0]),
            helper.make_tensor("zw", onnx.TensorProto.INT8, [], [0]),
        ]
        nodes = [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
            helper.make_node("DequantizeLinear", ["w", "s", "zw"], ["wd"]),
            helper.make_node("Conv", ["xd", "wd"], ["yd"]),
            helper.make_node("QuantizeLinear", ["yd", "s", "z"], ["yq"]),
            helper.make_node("DequantizeLinear", ["yq", "s", "z"], ["y"]),
        ]
    x, y = (helper.make_tensor_value_info(name, ends, [1, 16, 4, 4]) for name in "xy")
    graph = helper.make_graph(nodes, "one", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def _input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs: list[onnx.ValueInfoProto] = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        raise QuantizeError(f"expected a file with one input, got {[value.name for value in inputs]}")
    return inputs[0]
