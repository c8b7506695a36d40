import logging
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from networks import SHAPE, Computes, convolution, head, normalised, trained
from onnx import helper, numpy_helper
from torch import nn
from torch.nn import functional

from nasflow import export
from nasflow.compression import quantize
from nasflow.compression.calibrate import METHODS, CalibrationError
from nasflow.compression.quantize import QuantizeError, Scale, int8, int8_share, pool_means, unavailable

torch.set_num_threads(1)

DATA = np.random.default_rng(0).normal(size=(70, *SHAPE)).astype(np.float32)


class Swish(nn.Module):
    """What is hard to keep in integers: hard swishes, squeeze-excite, a shortcut, a resized input, a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix = convolution(3, 16), convolution(16, 16)
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 8, 1), nn.ReLU(), nn.Conv2d(8, 16, 1)
        )
        self.out = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.interpolate(x, size=(6, 6), mode="bilinear", align_corners=False)
        x = functional.hardswish(self.stem[1](self.stem[0](x)))
        y = functional.hardswish(self.mix[1](self.mix[0](x)))
        return self.out((x + y * functional.hardsigmoid(self.squeeze(y))).mean((2, 3)))


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("fp32") / "model.onnx"
    export.to_onnx(trained(Swish), SHAPE, file)
    return file


@pytest.fixture(scope="module")
def quantised(fp32: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return int8(fp32, DATA, tmp_path_factory.mktemp("int8") / "model.onnx")


def optimised(file: Path, tmp_path: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node)


def test_the_quantised_network_answers_like_the_network(fp32, tmp_path):
    quantised = int8(fp32, DATA, tmp_path / "int8.onnx", reduce_range=True)  # right on every processor
    fresh = np.random.default_rng(1).normal(size=(200, *SHAPE)).astype(np.float32)
    before, after = export.predict(fp32, fresh), export.predict(quantised, fresh)
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.95
    assert np.abs(before - after).mean() < 0.05 * before.std()
    assert not np.array_equal(before, after)


def test_every_layer_runs_in_integers_and_nothing_between_them_in_floats(fp32, quantised, tmp_path):
    assert int8_share(fp32) == 0
    assert int8_share(quantised) == 1
    kinds = optimised(quantised, tmp_path)
    assert kinds["QLinearConv"] == 4
    assert kinds["QuantizeLinear"] == kinds["DequantizeLinear"] == 1  # the input and the logits
    assert not kinds.keys() & {"HardSigmoid", "HardSwish", "ReduceMean", "Conv", "Gemm"}


def test_the_quantised_file_is_smaller_and_the_same_every_time(fp32, quantised, tmp_path):
    def weights(file: Path) -> int:
        return sum(numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(file).graph.initializer)

    assert weights(quantised) < 0.5 * weights(fp32)
    assert int8(fp32, DATA, tmp_path / "again.onnx").read_bytes() == quantised.read_bytes()


def test_every_output_channel_has_a_scale_of_its_own(quantised):
    tensors = {t.name: numpy_helper.to_array(t) for t in onnx.load(quantised).graph.initializer}
    scales = {
        tuple(tensors[node.input[0]].shape)[:1]: tensors[node.input[1]].shape
        for node in onnx.load(quantised).graph.node
        if node.op_type == "DequantizeLinear" and tensors.get(node.input[0], np.empty(0)).ndim == 4
    }
    assert scales == {(16,): (16,), (8,): (8,)}


def test_one_linear_layer_errs_within_the_bound_of_its_roundings(tmp_path):
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Flatten(), nn.Linear(192, 5))
    export.to_onnx(layer, SHAPE, tmp_path / "fp32.onnx")
    int8(tmp_path / "fp32.onnx", DATA, tmp_path / "int8.onnx", reduce_range=True)
    scales = [np.abs(DATA.max() - DATA.min()) / 255]
    weight = layer[1].weight.detach().numpy()
    scales.append(np.abs(weight).max(1) / 64)
    answers = export.predict(tmp_path / "fp32.onnx", DATA)
    scales.append((answers.max() - answers.min()) / 255)
    x, (sx, sw, sy) = np.abs(DATA.reshape(-1, 192)), scales
    bound = x.sum(1, keepdims=True) * sw / 2 + np.abs(weight).sum(1) * sx / 2 + 193 * sx * sw / 2 + sy
    error = np.abs(export.predict(tmp_path / "int8.onnx", DATA) - answers)
    assert (error <= bound * 1.001).all()
    assert error.max() > 0


def test_hard_sigmoids_saturate_on_both_sides_and_keep_their_slope(tmp_path):
    """max(0, min(1, x / 6 + 1 / 2)) of inputs from far below -3 to far above 3."""
    gate = nn.Conv2d(3, 3, 1, groups=3)
    with torch.no_grad():
        gate.weight.fill_(6.0)
        gate.bias.zero_()

    def compute(net: Computes, x: torch.Tensor) -> torch.Tensor:
        return net.last(functional.hardsigmoid(net.gate(x))).flatten(1)

    model = Computes(compute, gate=gate, last=nn.Conv2d(3, 3, 1))
    with torch.no_grad():
        model.last.weight.copy_(torch.eye(3).view(3, 3, 1, 1))
        model.last.bias.zero_()
    export.to_onnx(model, SHAPE, tmp_path / "fp32.onnx")
    int8(tmp_path / "fp32.onnx", DATA, tmp_path / "int8.onnx")
    assert "HardSigmoid" not in optimised(tmp_path / "int8.onnx", tmp_path)
    expected = np.clip(DATA.reshape(len(DATA), -1) + 0.5, 0, 1)
    found = export.predict(tmp_path / "int8.onnx", DATA)
    rounding = 2 * np.abs(DATA).max() / 255 + 3 / 255
    assert np.abs(found - expected).max() <= rounding
    assert found.min() == 0
    assert found.max() == 1


def test_pooled_means_are_the_same_numbers_and_other_means_stay():
    def reduced(axes: list[int], keeps: int, rank: int = 4) -> onnx.ModelProto:
        node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=keeps)
        kept = [1 if axis in [a % rank for a in axes] else 2 for axis in range(rank)]
        shape = kept if keeps else [2] * (rank - len(axes))
        graph = helper.make_graph(
            [node],
            "means",
            [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2] * rank)],
            [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(np.array(axes), "axes")],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)

    x = np.random.default_rng(0).normal(size=(2, 2, 2, 2)).astype(np.float32)
    for axes, keeps, kinds in (
        ([2, 3], 1, ["GlobalAveragePool"]),
        ([-1, -2], 0, ["GlobalAveragePool", "Flatten"]),
        ([1, 2], 1, ["ReduceMean"]),
        ([3], 1, ["ReduceMean"]),
    ):
        model = reduced(axes, keeps)
        before = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
        pool_means(model)
        onnx.checker.check_model(model, full_check=True)
        assert [node.op_type for node in model.graph.node] == kinds
        after = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
        np.testing.assert_allclose(after, before, rtol=1e-6)
    flat = reduced([1, 2], 1, rank=3)
    pool_means(flat)
    assert [node.op_type for node in flat.graph.node] == ["ReduceMean"]


def test_ranges_come_from_the_calibration_data(fp32, quantised, tmp_path):
    narrow = int8(fp32, DATA * np.float32(0.1), tmp_path / "narrow.onnx")
    error = np.abs(export.predict(fp32, DATA) - export.predict(quantised, DATA)).mean()
    assert np.abs(export.predict(fp32, DATA) - export.predict(narrow, DATA)).mean() > 3 * error


def test_a_reduced_range_leaves_one_bit_of_the_weights_unused(fp32, quantised, tmp_path):
    def largest(file: Path) -> int:
        tensors = [numpy_helper.to_array(tensor) for tensor in onnx.load(file).graph.initializer]
        return max(int(np.abs(values.astype(int)).max()) for values in tensors if values.dtype == np.int8)

    assert largest(quantised) == 127
    assert largest(int8(fp32, DATA, tmp_path / "reduced.onnx", reduce_range=True)) <= 64


def test_one_file_is_written_and_nothing_else(fp32, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    handlers = list(logging.getLogger().handlers)
    out = int8(fp32, DATA, tmp_path / "models" / "int8.onnx")
    assert list(out.parent.iterdir()) == [out]
    assert list(scratch.iterdir()) == []
    assert logging.getLogger().handlers == handlers
    assert logging.getLogger().manager.disable == logging.NOTSET


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (DATA.astype(np.float64), r"float32 \('any', 3, 8, 8\), got float64 \(70, 3, 8, 8\)"),
        (DATA[:, :1], r"got float32 \(70, 1, 8, 8\)"),
        (DATA[0], r"got float32 \(3, 8, 8\)"),
        (DATA[:0], r"got float32 \(0, 3, 8, 8\)"),
        (np.full_like(DATA, np.nan), "finite"),
    ],
)
def test_data_that_cannot_calibrate_are_refused_and_leave_no_file(fp32, tmp_path, data, says):
    with pytest.raises(QuantizeError, match=says):
        int8(fp32, data, tmp_path / "int8.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_one_batch_size_is_calibrated_in_such_batches(fp32, quantised, tmp_path):
    model = onnx.load(fp32)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 8
    onnx.save(model, tmp_path / "eight.onnx")
    out = int8(tmp_path / "eight.onnx", DATA, tmp_path / "int8.onnx")
    assert np.abs(export.predict(out, DATA[:8]) - export.predict(quantised, DATA[:8])).max() < 0.5
    with pytest.raises(QuantizeError, match="8, 3, 8, 8"):
        int8(tmp_path / "eight.onnx", DATA[:7], tmp_path / "int8.onnx")


def test_a_network_without_layers_that_could_run_in_integers_is_refused(tmp_path):
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    export.to_onnx(model, SHAPE, tmp_path / "fp32.onnx")
    with pytest.raises(QuantizeError, match="no convolution or matrix product"):
        int8(tmp_path / "fp32.onnx", DATA, tmp_path / "int8.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["fp32.onnx"]


def test_layers_left_in_floats_lower_the_share(tmp_path, monkeypatch):
    model = nn.Sequential(convolution(3, 16), convolution(16, 16), head(16))
    export.to_onnx(model, SHAPE, tmp_path / "fp32.onnx")
    monkeypatch.setattr(quantize, "INTEGER", ["Conv"])
    assert int8_share(int8(tmp_path / "fp32.onnx", DATA, tmp_path / "int8.onnx")) == 2 / 3


def test_every_calibration_gives_another_file_that_runs_in_integers(fp32, quantised, tmp_path):
    before = export.predict(fp32, DATA)
    errors = {}
    for method in METHODS:
        file = int8(fp32, DATA, tmp_path / f"{method}.onnx", method=method)
        assert int8_share(file) == 1
        errors[method] = float(np.square(export.predict(file, DATA) - before).mean() / before.var())
    assert len(set(errors.values())) == len(METHODS)
    assert max(errors.values()) < 0.1
    assert (tmp_path / "minmax.onnx").read_bytes() == quantised.read_bytes()
    with pytest.raises(CalibrationError, match="'kl'"):
        int8(fp32, DATA, tmp_path / "kl.onnx", method="kl")


def test_outliers_cost_less_where_they_are_cut_off(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    export.to_onnx(model, SHAPE, tmp_path / "fp32.onnx")
    wild = DATA.copy()
    wild[0, 0, 0, 0] = 1000
    before = export.predict(tmp_path / "fp32.onnx", DATA[1:])
    errors = [
        np.abs(
            export.predict(int8(tmp_path / "fp32.onnx", wild, tmp_path / "int8.onnx", method=m), DATA[1:])
            - before
        )
        for m in ("minmax", "percentile")
    ]
    assert errors[1].mean() < 0.6 * errors[0].mean()


def test_known_scales_are_written_as_they_are(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.Flatten())
    export.to_onnx(model, SHAPE, tmp_path / "fp32.onnx")
    first = next(
        node for node in quantize.prepared(tmp_path / "fp32.onnx").graph.node if node.op_type == "Conv"
    )
    scales = {first.input[0]: Scale((0.125,), 100), first.input[1]: Scale((0.25, 0.5), axis=0)}
    made = onnx.load(int8(tmp_path / "fp32.onnx", DATA, tmp_path / "int8.onnx", scales=scales))
    tensors = {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}
    found = [
        tensors[node.input[1]].tolist() for node in made.graph.node if node.op_type == "DequantizeLinear"
    ]
    assert 0.125 in found
    assert [0.25, 0.5] in found
    zeros = [tensors[node.input[2]].tolist() for node in made.graph.node if node.op_type == "QuantizeLinear"]
    assert 100 in zeros


def test_networks_with_attention_are_quantised(tmp_path):
    export.to_onnx(trained(normalised), SHAPE, tmp_path / "fp32.onnx")
    assert int8_share(int8(tmp_path / "fp32.onnx", DATA, tmp_path / "int8.onnx")) == 1


def test_precisions_are_tried_and_the_reason_is_told():
    assert unavailable("fp32") == ""
    for precision in ("bf16", "int8"):
        reason = unavailable(precision)
        assert reason == "" or precision in reason
    with pytest.raises(QuantizeError, match="fp32, bf16, int8, got 'fp16'"):
        unavailable("fp16")


def test_a_runtime_that_refuses_a_precision_is_quoted(monkeypatch):
    def refuse(*_: object) -> None:
        raise RuntimeError("NOT_IMPLEMENTED: Conv\nmore")

    monkeypatch.setattr(quantize, "_session", refuse)
    assert (
        unavailable("bf16")
        == "ONNX Runtime has no bf16 convolution for this processor: NOT_IMPLEMENTED: Conv"
    )
