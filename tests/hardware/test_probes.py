import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from nasflow.export import to_onnx
from nasflow.hardware.fusion import kernels
from nasflow.hardware.graph import operators
from nasflow.hardware.probes import CannotProbe, around, block, kernel_ms, nothing, probe
from nasflow.spaces import mobile
from nasflow.testing.devices import FUSING, Simulated


def kernel_of(content, tmp_path):
    path = tmp_path / "probe.onnx"
    path.write_bytes(content)
    return kernels(operators(path), FUSING)


def test_a_probe_is_the_kernel_that_was_asked_for(tmp_path):
    torch.manual_seed(0)
    space = mobile.space((3, 32, 32), 10)
    point = {**space.sample(np.random.default_rng(0)), "resolution": 0.75, "stage2.squeeze": True}
    to_onnx(mobile.build(space.canonical(point), (3, 32, 32), 10), (3, 32, 32), tmp_path / "network.onnx")
    for kernel in kernels(operators(tmp_path / "network.onnx"), FUSING):
        [again] = kernel_of(probe(kernel.kind, kernel.features), tmp_path)
        assert (again.kind, again.features) == (kernel.kind, kernel.features)
        assert (again.macs, again.bytes_in, again.bytes_out) == (
            kernel.macs,
            kernel.bytes_in,
            kernel.bytes_out,
        )


@pytest.mark.parametrize(
    ("kind", "features"),
    [
        ("Conv", {"stride": 2.0, "height": 15.0, "dilation": 2.0, "channels_out": 8.0}),
        ("Conv+Add+Relu", {"1.inputs": 2.0}),
        ("ConvTranspose", {"stride": 2.0, "channels_out": 8.0}),
        ("DepthwiseConv+HardSwishInParts", {"kernel": 5.0}),
        ("GroupedConv", {"groups": 4.0}),
        ("Gemm+Relu", {"batch": 2.0}),
        ("MatMul", {"inputs": 2.0, "heads": 2.0, "height": 4.0}),
        ("MaxPool", {"kernel": 2.0, "stride": 2.0}),
        ("Concat", {"inputs": 3.0, "channels_out": 192.0, "axis": 1.0}),
        ("Mul", {"inputs": 2.0, "broadcast": 1.0}),
        ("LayerNormalization", {"axis": 3.0}),
        ("Softmax", {"axis": 1.0}),
        ("ReduceMean", {}),
        ("Conv(int8)", {}),
        ("Gemm(int8)", {}),
        ("Conv(float16)", {}),
    ],
)
def test_a_probe_runs_and_takes_its_time_when_it_is_called(kind, features, tmp_path):
    content = probe(kind, features)
    assert len(content) < 5000 and content == probe(kind, features)
    [one] = kernel_of(content, tmp_path) if "+" not in kind else [None]
    assert one is None or one.kind == kind
    if "float16" not in kind:
        options = onnxruntime.SessionOptions()
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        options.log_severity_level = 4
        onnxruntime.InferenceSession(content, options)
        assert onnx.load(tmp_path / "optimised.onnx").graph.node, "nothing was computed beforehand"


def test_a_block_holds_the_kernel_and_around_it_is_the_same_without(tmp_path):
    features = {"channels_in": 24.0, "channels_out": 32.0, "height": 8.0}
    inner, outer = (kernel_of(write("Conv+Relu", features), tmp_path) for write in (block, around))
    assert [one.kind for one in inner] == ["Conv", "Conv+Relu", "Conv"]
    assert [one.kind for one in outer] == ["Conv", "Conv"]
    assert inner[1].features["channels_in"] == 24 and inner[0].features == outer[0].features
    assert [one.kind for one in kernel_of(block("Relu", features), tmp_path)] == [
        "Conv",
        "MaxPool",
        "Relu",
        "Conv",
    ]
    assert kernel_of(nothing(), tmp_path) == []


def test_a_kernels_time_is_that_of_a_file_with_it_less_that_of_one_without():
    device = Simulated()
    times, call_ms, _ = kernel_ms(device, [("Conv", {}), ("Gemm", {}), ("Conv+Relu", {})])
    assert call_ms == pytest.approx(device.call_ms)
    conv_ms = 28 * 28 * 64 * 64 * 9 / 10e6 + (2 * 28 * 28 * 64 + 64 * 64 * 9 + 64) * 4 / 20e6 + 0.001
    assert times[0] == pytest.approx(conv_ms, rel=1e-6)
    assert times[2] > times[0]


@pytest.mark.parametrize(
    ("kind", "features", "said"),
    [
        ("Frob", {}, "no file can be written for the operator Frob"),
        ("Conv", {"height": 2.5}, "expected whole numbers"),
        ("Conv", {"height": -1.0}, "expected whole numbers"),
        ("Conv(int3)", {}, "Conv of int3: expected one of"),
        ("Conv-Relu", {}, "expected a kernel such as"),
    ],
)
def test_what_cannot_be_written_is_said(kind, features, said):
    with pytest.raises(CannotProbe, match=said):
        probe(kind, features)
