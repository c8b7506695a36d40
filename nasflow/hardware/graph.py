"""What an ONNX file computes: its operators in the order they run, with their sizes, work and bytes.

Only what takes time when the file runs is an operator. Constants and what follows from them (weights, shapes) are
not; neither are names for what is there already (Identity, Dropout). Activations that an exporter wrote as several
nodes are one operator, and so is an operator between DequantizeLinear and QuantizeLinear that runtimes compute in
8-bit integers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import onnx
from onnx import helper, shape_inference

from nasflow.errors import NasflowError

LARGE = 4096  # numbers; a larger constant is a weight, on whose values no shape depends
ALIASES = {"Identity", "Dropout"}
VIEWS = {"Flatten", "Reshape", "Squeeze", "Unsqueeze"}  # the same bytes by another shape
CONVOLUTIONS = {"Conv", "ConvTranspose", "DepthwiseConv", "GroupedConv"}
PRODUCTS = {"Gemm", "MatMul"}
POOLS = {"AveragePool", "MaxPool", "LpPool"}
# What runtimes compute in integers when its inputs were dequantised and its output is quantised.
INTEGER = {
    "Add", "AveragePool", "Clip", "Concat", "Conv", "Gemm", "GlobalAveragePool", "LeakyRelu", "MatMul", "MaxPool",
    "Mul", "Pad", "Relu", "Resize", "Sigmoid", "Slice", "Split", "Transpose", *VIEWS,
}  # fmt: skip
CLAMPS = {"Relu", "Clip"}  # may stand between an integer operator and its QuantizeLinear


class GraphError(NasflowError):
    """A file whose operators cannot be told."""


@dataclass(frozen=True)
class Operator:
    """One operator of a file. `inputs` and `outputs` name tensors that are data, not weights.

    `kind` is ONNX's name of the operator, with these exceptions: a Conv is "Conv", "DepthwiseConv" (one input channel
    for each filter) or "GroupedConv"; "Swish" is x * Sigmoid(x); "HardSwishInParts" and "HardSigmoidInParts" are
    those activations written as several nodes, which runtimes treat otherwise than the operators of that name.

    `features` are numbers that its time may depend on, as far as they mean something for the kind: batch, height,
    width, channels_in of its (first) input, height_out, width_out, channels_out, inputs (how many), broadcast (1
    where one input is smaller than the output), kernel, stride, dilation (with kernel_width and so on where it
    differs from that of the height), groups, order (of a Resize: 0 nearest, 1 linear, 3 cubic), axis, heads (matrix
    products for each sample). A sequence of vectors has a height and channels, and so has a matrix that is multiplied.
    Axes are those of ONNX: batch, channels, height, width.

    `macs` are multiply-adds of convolutions and matrix products, 0 for others. Bytes are those of whole tensors,
    each counted once; a view of what is in memory already moves none. `dtype` is that of the first input, "int8" for
    signed and unsigned bytes.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    features: Mapping[str, float]
    macs: int
    bytes_in: int
    bytes_out: int
    bytes_weights: int
    dtype: str


def operators(file: Path, batch: int = 1) -> list[Operator]:
    """The operators of a file when it is asked about `batch` samples (where its first axis is free).

    Raises GraphError where the file is no network, or a shape depends on more than the file and the batch.
    """
    graph = _in_integers(_activations(_data_nodes(_load(file, batch), file)))
    return [_operator(node, graph) for node in graph.nodes]


# ---- reading


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        bits = re.search(r"\d+", self.dtype)  # of a number; what says none, such as bool, takes a byte
        return math.ceil(self.elements * int(bits[0] if bits else 8) / 8)


@dataclass(frozen=True)
class _Node:
    """A node that is left: tensors that are data, and constants by the place they have among its inputs."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    constants: Mapping[int, str]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    integer: bool = False


@dataclass(frozen=True)
class _Graph:
    nodes: Sequence[_Node]
    tensors: Mapping[str, _Tensor]
    values: Mapping[str, float]  # of constants that are one number
    outputs: Collection[str]

    def users(self) -> dict[str, list[_Node]]:
        found: dict[str, list[_Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                found.setdefault(name, []).append(node)
        return found

    def makers(self) -> dict[str, _Node]:
        return {name: node for node in self.nodes for name in node.outputs}


def _load(file: Path, batch: int) -> onnx.ModelProto:
    """The model with all sizes known and large weights as inputs, whose values nothing here depends on."""
    if batch < 1:
        raise ValueError(f"expected a batch of at least one sample, got {batch}")
    try:
        model = onnx.load(file, load_external_data=False)
    except FileNotFoundError:
        raise GraphError(f"no file {file}; expected an exported network") from None
    except Exception as error:  # protobuf's own exceptions share no other base
        raise GraphError(f"{file}: expected an ONNX file, got something else ({error})") from error
    if not model.graph.node:
        raise GraphError(f"{file}: expected an ONNX file with operators, got one without")
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    graph = model.graph
    weights = [one for one in graph.initializer if math.prod(one.dims) > LARGE]
    constants = {one.name for one in graph.initializer}
    small = [one for one in graph.initializer if math.prod(one.dims) <= LARGE]
    for one in graph.input:
        if one.name in constants:
            continue
        for axis, size in enumerate(one.type.tensor_type.shape.dim):
            if size.HasField("dim_value") and size.dim_value > 0:
                continue
            if axis:
                raise GraphError(
                    f"{file}: input {one.name!r}: expected fixed sizes but for the first axis, got"
                    f" {size.dim_param or 'an unknown one'!r} on axis {axis}; export it with fixed sizes"
                )
            size.dim_value = batch
    known = {one.name for one in graph.input}
    graph.input.extend(
        helper.make_tensor_value_info(one.name, one.data_type, one.dims)
        for one in weights
        if one.name not in known
    )
    del graph.initializer[:]
    graph.initializer.extend(small)
    graph.metadata_props.add(key="weights", value="\n".join(one.name for one in weights))
    del graph.value_info[:]  # written for any batch
    for one in graph.output:
        one.type.tensor_type.ClearField("shape")
    try:
        return shape_inference.infer_shapes(model, data_prop=True)
    except shape_inference.InferenceError as error:
        raise GraphError(f"{file}: its shapes contradict each other: {error}") from error


def _data_nodes(model: onnx.ModelProto, file: Path) -> _Graph:
    """The nodes that work on data, without those that only name it again or that nothing needs."""
    graph = model.graph
    tensors = {
        one.name: _Tensor(
            tuple(size.dim_value for size in one.type.tensor_type.shape.dim), _dtype(one.type.tensor_type)
        )
        for one in (*graph.input, *graph.value_info, *graph.output)
        if one.type.tensor_type.HasField("shape")
        and all(size.HasField("dim_value") for size in one.type.tensor_type.shape.dim)
    }
    tensors |= {one.name: _Tensor(tuple(one.dims), _dtype_name(one.data_type)) for one in graph.initializer}
    values = {one.name: _number(one) for one in graph.initializer if math.prod(one.dims) == 1}
    constants = {one.name for one in graph.initializer}
    constants |= set(next(p.value for p in graph.metadata_props if p.key == "weights").split("\n"))
    renamed: dict[str, str] = {}
    stored: dict[str, str] = {}  # a weight that is dequantised: by the name of its bytes
    nodes: list[_Node] = []
    for node in graph.node:
        given = [renamed.get(name, name) for name in node.input]
        if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
            raise GraphError(
                f"{file}: {node.op_type} {node.name!r} decides while it runs what to compute; expected a network"
                " that always computes the same, export one"
            )
        data = tuple(name for name in given if name and name not in constants)
        if not data or node.op_type in ("Shape", "Size"):
            constants |= set(node.output)
            if node.op_type == "Constant":
                values |= _constant(node)
            elif len(given) and given[0] in values and node.op_type in ("Cast", "Identity"):
                values[node.output[0]] = values[given[0]]
            elif node.op_type == "DequantizeLinear":
                stored[node.output[0]] = given[0]
            continue
        if node.op_type in ALIASES:
            renamed[node.output[0]] = given[0]
            continue
        for name in (*data, node.output[0]):
            if name not in tensors:
                raise GraphError(
                    f"{file}: the shape of {name!r} around {node.op_type} {node.name!r} cannot be told; expected"
                    " ONNX's own operators on sizes that fit and do not depend on the data"
                )
        nodes.append(
            _Node(
                node.name or node.output[0],
                node.op_type,
                data,
                tuple(name for name in node.output if name),
                {i: stored.get(name, name) for i, name in enumerate(given) if name in constants},
                {one.name: helper.get_attribute_value(one) for one in node.attribute},
            )
        )
    outputs = {renamed.get(one.name, one.name) for one in graph.output}
    return _needed(_Graph(nodes, tensors, values, outputs))


def _needed(graph: _Graph) -> _Graph:
    """Without nodes whose results nobody reads."""
    wanted, kept = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            kept.append(node)
            wanted.update(node.inputs)
    return replace(graph, nodes=kept[::-1])


def _dtype(kind: onnx.TypeProto.Tensor) -> str:
    return _dtype_name(kind.elem_type)


def _dtype_name(elem_type: int) -> str:
    name = str(onnx.TensorProto.DataType.Name(elem_type)).lower()
    return {"float": "float32", "double": "float64", "uint8": "int8"}.get(name, name)


def _number(tensor: onnx.TensorProto) -> float:
    value = onnx.numpy_helper.to_array(tensor).reshape(-1)[0]
    return float(value) if value.dtype.kind in "fiub" else math.nan


def _constant(node: onnx.NodeProto) -> dict[str, float]:
    """The value of a Constant that is one number."""
    value = helper.get_attribute_value(node.attribute[0])
    if isinstance(value, onnx.TensorProto):
        return {node.output[0]: _number(value)} if math.prod(value.dims) == 1 else {}
    return {node.output[0]: float(value)} if isinstance(value, int | float) else {}


# ---- several nodes that are one operator

GATES = {"Sigmoid": "Swish", "HardSigmoid": "HardSwishInParts", "HardSigmoidInParts": "HardSwishInParts"}


def _activations(graph: _Graph) -> _Graph:
    """Swish and the hard activations as one operator each, however they were written."""
    users, makers = graph.users(), graph.makers()

    def sole(name: str) -> _Node | None:
        """What makes a tensor that has one reader."""
        return makers.get(name) if len(users.get(name, ())) == 1 and name not in graph.outputs else None

    def shifted(name: str) -> tuple[str, list[_Node]] | None:
        """x and the nodes of Clip(x + 3, 0, 6)."""
        clip = sole(name)
        add = (
            sole(clip.inputs[0]) if clip and clip.kind == "Clip" and _bounds(clip, graph) == (0, 6) else None
        )
        if clip and add and add.kind == "Add" and _scalar(add, graph) == 3:
            return add.inputs[0], [clip, add]
        return None

    def found(node: _Node) -> tuple[str, str, list[_Node]] | None:
        """The activation that ends in a node, its input and the nodes that are its parts."""
        if node.kind == "Mul" and len(node.inputs) == 2:
            for x, gate in (node.inputs, node.inputs[::-1]):
                made = sole(gate)
                if made and made.kind in GATES and made.inputs == (x,):
                    return GATES[made.kind], x, [made]
        sixth = {"Div": 6.0, "Mul": 1 / 6}.get(node.kind)
        if (
            sixth is None
            or len(node.inputs) != 1
            or not math.isclose(_scalar(node, graph), sixth, rel_tol=1e-4)
        ):
            return None
        if (hard := shifted(node.inputs[0])) is not None:
            return "HardSigmoidInParts", *hard
        product = sole(node.inputs[0])
        if product and product.kind == "Mul" and len(product.inputs) == 2:
            for x, gate in (product.inputs, product.inputs[::-1]):
                if (hard := shifted(gate)) is not None and hard[0] == x:
                    return "HardSwishInParts", x, [product, *hard[1]]
        return None

    gone: set[str] = set()
    joined: list[_Node] = []
    for node in graph.nodes:
        activation = found(node)
        if activation is not None:
            kind, x, parts = activation
            gone |= {one.outputs[0] for one in parts}
            node = replace(node, kind=kind, inputs=(x,), constants={}, attributes={})
            makers[node.outputs[0]] = node
        joined.append(node)
    return replace(graph, nodes=[node for node in joined if node.outputs[0] not in gone])


def _scalar(node: _Node, graph: _Graph) -> float:
    """The one number among a node's inputs; not a number where there is none."""
    return next((graph.values.get(name, math.nan) for name in node.constants.values()), math.nan)


def _bounds(clip: _Node, graph: _Graph) -> tuple[float, float]:
    low = graph.values.get(clip.constants.get(1, ""), clip.attributes.get("min", -math.inf))
    return low, graph.values.get(clip.constants.get(2, ""), clip.attributes.get("max", math.inf))


def _in_integers(graph: _Graph) -> _Graph:
    """Operators between DequantizeLinear and QuantizeLinear take and give the integers themselves."""
    users, makers = graph.users(), graph.makers()

    def quantised(name: str) -> bool:
        """Whether nothing but QuantizeLinear reads a tensor, after a clamp perhaps."""
        readers = users.get(name, [])
        return (
            name not in graph.outputs
            and bool(readers)
            and all(
                one.kind == "QuantizeLinear" or (one.kind in CLAMPS and quantised(one.outputs[0]))
                for one in readers
            )
        )

    integer: set[str] = set()  # outputs of operators that are computed in integers
    for node in graph.nodes:
        sources = [makers.get(name) for name in node.inputs]
        if (
            node.kind in INTEGER
            and all(
                one is not None and (one.kind == "DequantizeLinear" or one.outputs[0] in integer)
                for one in sources
            )
            and all(quantised(name) for name in node.outputs)
        ):
            integer.update(node.outputs)

    renamed: dict[str, str] = {}
    tensors = dict(graph.tensors)
    nodes: list[_Node] = []
    for node in graph.nodes:
        inputs = tuple(renamed.get(name, name) for name in node.inputs)
        source = makers.get(node.inputs[0])
        quantises = node.kind == "QuantizeLinear" and source is not None and source.outputs[0] in integer
        dequantises = node.kind == "DequantizeLinear" and node.outputs[0] not in graph.outputs
        if quantises or (dequantises and all(one.outputs[0] in integer for one in users[node.outputs[0]])):
            renamed[node.outputs[0]] = inputs[0]
            continue
        whole = node.outputs[0] in integer
        for name in node.outputs if whole else ():
            tensors[name] = replace(tensors[name], dtype="int8")
        nodes.append(replace(node, inputs=inputs, integer=whole))
    outputs = {renamed.get(name, name) for name in graph.outputs}
    return replace(graph, nodes=nodes, tensors=tensors, outputs=outputs)


# ---- sizes


def _operator(node: _Node, graph: _Graph) -> Operator:
    given = [graph.tensors[name] for name in dict.fromkeys(node.inputs)]
    made = [graph.tensors[name] for name in node.outputs if name in graph.tensors]
    weights = [graph.tensors[name] for name in node.constants.values() if name in graph.tensors]
    kind, features = node.kind, _common(node, given, made[0])
    weight = graph.tensors.get(node.constants.get(1, ""))
    if node.kind in ("Conv", "ConvTranspose"):
        if weight is None:
            raise GraphError(f"{node.kind} {node.name!r}: expected weights that are constants, got data")
        groups = int(node.attributes.get("group", 1))
        features |= {"groups": float(groups)} | _window(node, weight.shape[2:])
        if node.kind == "Conv" and groups > 1:
            kind = "DepthwiseConv" if weight.shape[1] == 1 else "GroupedConv"
    elif node.kind in POOLS:
        features |= _window(node, node.attributes["kernel_shape"])
    elif node.kind == "Resize":
        mode = node.attributes.get("mode", b"nearest")
        features["order"] = {b"nearest": 0.0, b"linear": 1.0, b"cubic": 3.0}[mode]
    if "axis" in node.attributes:
        axis = int(node.attributes["axis"])
        features["axis"] = float(axis if axis >= 0 else axis + len(made[0].shape))
    moved = 0 if node.kind in VIEWS else 1
    return Operator(
        name=node.name,
        kind=kind,
        inputs=node.inputs,
        outputs=node.outputs,
        features=features,
        macs=_macs(node, given, made[0], weight),
        bytes_in=moved * sum(one.bytes for one in given),
        bytes_out=moved * sum(one.bytes for one in made),
        bytes_weights=moved * sum(one.bytes for one in weights),
        dtype="int8" if node.integer else given[0].dtype,
    )


def _common(node: _Node, given: Sequence[_Tensor], made: _Tensor) -> dict[str, float]:
    batch, channels_in, height, width = _image(given[0].shape)
    _, channels_out, height_out, width_out = _image(made.shape)
    heads = 1
    if node.kind in PRODUCTS:  # a matrix for each sample and head; its last axis is that of the channels
        channels_in, channels_out, width, width_out = given[0].shape[-1], made.shape[-1], 1, 1
        batch, *between, height = made.shape[:-1] if len(made.shape) > 2 else (*made.shape[:-1], 1)
        heads, height_out = math.prod(between), height
    told = {
        "batch": batch, "channels_in": channels_in, "height": height, "width": width,
        "channels_out": channels_out, "height_out": height_out, "width_out": width_out, "inputs": len(given),
    }  # fmt: skip
    if heads > 1:
        told["heads"] = heads
    if len(given) > 1 and node.kind not in PRODUCTS:
        told["broadcast"] = int(any(one.elements < made.elements for one in given) and node.kind != "Concat")
    return {name: float(value) for name, value in told.items()}


def _image(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Batch, channels, height and width; a sequence of vectors has a height and channels."""
    if len(shape) == 3:
        return shape[0], shape[2], shape[1], 1
    batch, channels, height, *width = (*shape, 1, 1, 1)[: max(4, len(shape))]
    return batch, channels, height, math.prod(width)


def _window(node: _Node, kernel: Sequence[int]) -> dict[str, float]:
    """Kernel, stride and dilation; those along the width only where they differ from those along the height."""
    told: dict[str, float] = {}
    ones = [1] * len(kernel)
    for name, sizes in (
        ("kernel", kernel),
        ("stride", node.attributes.get("strides", ones)),
        ("dilation", node.attributes.get("dilations", ones)),
    ):
        told[name] = float(sizes[0])
        if len(sizes) > 1 and sizes[1] != sizes[0]:
            told[f"{name}_width"] = float(sizes[1])
    return told


def _macs(node: _Node, given: Sequence[_Tensor], made: _Tensor, weight: _Tensor | None) -> int:
    if node.kind == "Conv" and weight is not None:
        return made.elements * math.prod(weight.shape[1:])
    if node.kind == "ConvTranspose" and weight is not None:
        return given[0].elements * math.prod(weight.shape[1:])
    if node.kind in PRODUCTS:
        if 0 in node.constants or node.attributes.get(
            "transA"
        ):  # the data are on the right, or lie on their side
            return made.elements * (*given[0].shape, 1)[-3]
        return made.elements * given[0].shape[-1]
    return 0
