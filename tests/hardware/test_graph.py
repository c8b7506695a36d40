import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from nasflow.compression.quantize import int8
from nasflow.evaluators.counts import flops
from nasflow.export import _dynamo, to_onnx
from nasflow.hardware.graph import GraphError, operators
from nasflow.spaces import mobile

SHAPE = (3, 16, 16)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 5, padding=2, groups=8),
        nn.Conv2d(8, 16, 1, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("graph") / "network.onnx"
    to_onnx(network(), SHAPE, path)
    return path


def written(
    tmp_path: Path, body: str, given: str = "float[n,4,6,6] x", made: str = "float[n,4,6,6] y"
) -> Path:
    """A file of these nodes in ONNX's own text form."""
    text = f'<ir_version: 8, opset_import: ["" : 17]> graph ({given}) => ({made}) {{ {body} }}'
    path = tmp_path / "written.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def kinds(path: Path) -> list[str]:
    return [one.kind for one in operators(path)]


def test_operators_come_in_the_order_they_run_with_their_sizes(file):
    found = operators(file)
    assert [one.kind for one in found] == [
        "Conv", "Relu", "DepthwiseConv", "GroupedConv", "GlobalAveragePool", "Flatten", "Gemm"
    ]  # fmt: skip
    stem = found[0]
    assert stem.inputs == ("input",) and found[1].inputs == stem.outputs, "weights are no inputs"
    assert stem.features == {
        "batch": 1, "channels_in": 3, "height": 16, "width": 16, "channels_out": 8, "height_out": 8, "width_out": 8,
        "inputs": 1, "groups": 1, "kernel": 3, "stride": 2, "dilation": 1,
    }  # fmt: skip
    assert all(isinstance(value, float) for one in found for value in one.features.values())
    assert found[2].features["groups"] == 8 and found[3].features["groups"] == 2


def test_work_and_bytes_are_those_counted_by_hand(file):
    stem, relu, depthwise, grouped, pool, view, last = operators(file)
    assert stem.macs == 8 * 8 * 8 * 3 * 9
    assert (stem.bytes_in, stem.bytes_out) == (4 * 3 * 16 * 16, 4 * 8 * 8 * 8)
    assert stem.bytes_weights == 4 * (8 * 3 * 9 + 8)
    assert depthwise.macs == 8 * 8 * 8 * 25 and grouped.macs == 8 * 8 * 16 * 4
    assert last.macs == 160 and relu.macs == pool.macs == 0
    assert view.bytes_in == view.bytes_out == 0, "a view moves nothing"


def test_work_is_that_of_the_counter_of_networks(tmp_path):
    space = mobile.space((3, 32, 32), 10)
    torch.manual_seed(0)
    for seed in range(2):
        model = mobile.build(space.sample(np.random.default_rng(seed)), (3, 32, 32), 10)
        path = tmp_path / f"{seed}.onnx"
        to_onnx(model, (3, 32, 32), path)
        assert sum(one.macs for one in operators(path)) == flops(model, (3, 32, 32))


def test_a_batch_multiplies_work_and_data_and_not_weights(file):
    for one, eight in zip(operators(file), operators(file, batch=8), strict=True):
        assert (eight.macs, eight.bytes_in, eight.bytes_out) == (
            8 * one.macs,
            8 * one.bytes_in,
            8 * one.bytes_out,
        )
        assert eight.bytes_weights == one.bytes_weights


def test_both_exporters_give_the_same_operators(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Upsample((8, 8)), nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Hardswish(), nn.ReLU6()
    ).eval()
    traced, read = tmp_path / "traced.onnx", tmp_path / "read.onnx"
    to_onnx(model, SHAPE, traced)
    _dynamo(model, torch.zeros(2, *SHAPE), read)
    assert kinds(traced) == kinds(read) == ["Resize", "Conv", "Swish", "HardSwish", "Clip"]
    assert [one.macs for one in operators(traced)] == [one.macs for one in operators(read)]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("s = Sigmoid(x) y = Mul(x, s)", ["Swish"]),
        ("s = Sigmoid(x) y = Mul(s, x)", ["Swish"]),
        ("s = HardSigmoid(x) y = Mul(s, x)", ["HardSwishInParts"]),
        (
            "three = Constant<value_float=3.0>() low = Constant<value_float=0.0>() six = Constant<value_float=6.0>()"
            " a = Add(x, three) c = Clip(a, low, six) y = Div(c, six)",
            ["HardSigmoidInParts"],
        ),
        (
            "three = Constant<value_float=3.0>() low = Constant<value_float=0.0>() six = Constant<value_float=6.0>()"
            " a = Add(x, three) c = Clip(a, low, six) m = Mul(x, c) y = Div(m, six)",
            ["HardSwishInParts"],
        ),
        (
            "three = Constant<value_float=3.0>() low = Constant<value_float=0.0>() six = Constant<value_float=6.0>()"
            " a = Add(x, three) c = Clip(a, low, six) d = Div(c, six) y = Mul(d, x)",
            ["HardSwishInParts"],
        ),
        # what looks alike and is something else
        ("r = Relu(x) s = Sigmoid(x) y = Mul(r, s)", ["Relu", "Sigmoid", "Mul"]),
        ("s = Sigmoid(x) m = Mul(x, s) y = Add(m, s)", ["Sigmoid", "Mul", "Add"]),
    ],
)
def test_an_activation_is_one_operator_however_it_was_written(body, expected, tmp_path):
    assert kinds(written(tmp_path, body)) == expected


def test_names_constants_and_what_nobody_reads_are_no_operators(tmp_path):
    body = """
        a = Identity(x) shape = Shape(a) zeros = ConstantOfShape(shape) unread = Relu(x)
        b = Dropout(a) y = Relu(b)
    """
    assert kinds(written(tmp_path, body)) == ["Relu"]


def test_a_factor_for_each_channel_and_a_join_of_maps_are_told(tmp_path):
    mean, times, join = operators(
        written(tmp_path, "m = GlobalAveragePool(x) t = Mul(x, m) y = Concat<axis=1>(t, x)",
                made="float[n,8,6,6] y")
    )  # fmt: skip
    assert times.features["broadcast"] == 1 and times.bytes_in == 4 * (4 * 36 + 4)
    assert join.features["broadcast"] == 0 and join.features["inputs"] == 2 and join.features["axis"] == 1
    assert mean.features["height_out"] == 1


def test_a_product_of_two_results_counts_its_work(tmp_path):
    one = operators(
        written(
            tmp_path,
            "t = Transpose<perm=[0,1,3,2]>(x) y = MatMul(x, t)",
            "float[n,4,6,5] x",
            "float[n,4,6,6] y",
        )
    )[-1]
    assert one.kind == "MatMul" and one.macs == 4 * 6 * 6 * 5
    assert len(one.inputs) == 2 and one.bytes_weights == 0


def test_a_quantised_file_is_told_in_its_integers(file, tmp_path):
    data = np.random.default_rng(0).normal(size=(8, *SHAPE)).astype(np.float32)
    found = operators(int8(file, data, tmp_path / "int8.onnx"))
    assert [one.kind for one in found] == [
        "QuantizeLinear", "Conv", "DepthwiseConv", "GroupedConv", "GlobalAveragePool", "Flatten", "Gemm",
        "DequantizeLinear",
    ]  # fmt: skip
    inner, whole = found[1:-1], operators(file)
    assert {one.dtype for one in inner} == {"int8"} and found[0].dtype == "float32"
    assert inner[0].macs == whole[0].macs
    assert inner[0].bytes_in == whole[0].bytes_in / 4 and inner[0].bytes_out == whole[0].bytes_out / 4
    assert inner[0].bytes_weights < whole[0].bytes_weights
    for before, after in itertools.pairwise(found):
        assert after.inputs == before.outputs[:1]


def test_what_a_runtime_computes_in_floats_stays_in_floats(tmp_path):
    body = """
        scale = Constant<value_float=0.1>() zero = Constant<value = uint8 {0}>()
        q = QuantizeLinear(x, scale, zero) d = DequantizeLinear(q, scale, zero)
        e = Exp(d)
        f = QuantizeLinear(e, scale, zero) y = DequantizeLinear(f, scale, zero)
    """
    found = operators(written(tmp_path, body))
    assert [one.kind for one in found] == [
        "QuantizeLinear", "DequantizeLinear", "Exp", "QuantizeLinear", "DequantizeLinear"
    ]  # fmt: skip
    assert found[2].dtype == "float32" and found[1].dtype == "int8"


@pytest.mark.parametrize(
    ("body", "given", "said"),
    [
        (
            "y = Relu(x)",
            "float[n,4,h,6] x",
            r"input 'x': expected fixed sizes but for the first axis, got 'h'",
        ),
        ("y = NonZero(x)", "float[n,4,6,6] x", r"the shape of 'y' around NonZero .* cannot be told"),
        (
            "y = MatMul(x, x)",
            "float[n,4,6,5] x",
            r"MatMul .* expected ONNX's own operators on sizes that fit",
        ),
    ],
)
def test_what_cannot_be_told_is_said(body, given, said, tmp_path):
    made = "int64[a,b] y" if "NonZero" in body else "float[n,4,6,6] y"
    with pytest.raises(GraphError, match=said):
        operators(written(tmp_path, body, given, made))


def test_what_is_no_network_is_said(tmp_path):
    with pytest.raises(GraphError, match="no file"):
        operators(tmp_path / "missing.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(GraphError, match="expected an ONNX file"):
        operators(tmp_path / "broken.onnx")
    with pytest.raises(ValueError, match="at least one sample"):
        operators(tmp_path / "broken.onnx", batch=0)
