from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks import NETWORKS, SHAPE, chain, convolution, head, residual, trained
from onnx import numpy_helper
from torch import nn

from nasflow import export as fp32
from nasflow.compression import precision, qdq, quantize
from nasflow.compression.fakequant import plain, roundings, simulate
from nasflow.compression.lsq import LSQ
from nasflow.compression.quantize import QuantizeError

torch.set_num_threads(1)

IMAGES = torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(0))
DATA = IMAGES.numpy()


def policy(model: nn.Module, weights: int = 7, inputs: int = 8) -> dict[str, int]:
    """Weights in 7 bits, with which no processor overflows."""
    everywhere = precision.uniform(precision.space(model, SHAPE, bits=(8,)), 8)
    return {name: weights if name.startswith(precision.WEIGHT) else inputs for name in everywhere}


def answer(model: nn.Module) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(IMAGES).numpy()


def output_step(file: Path) -> float:
    """The step to which a file rounds its output."""
    graph = onnx.load(file).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    last = next(node for node in graph.node if node.output[0] == graph.output[0].name)
    return float(tensors[last.input[1]])


@pytest.mark.parametrize("qat", [None, "lsq", "pact"])
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_the_file_runs_in_integers_and_answers_like_the_network(make, qat, tmp_path):
    model = trained(make)
    made = simulate(policy(model), model, SHAPE, IMAGES, qat=qat, method="mse")
    file = qdq.export(made, SHAPE, DATA, tmp_path / "int8.onnx")
    assert quantize.int8_share(file) == (0.75 if make.__name__ == "transposed" else 1)
    ours = answer(made)
    off = np.square(fp32.predict(file, DATA) - ours).mean() / ours.var()
    assert off < (0.02 if make.__name__ == "normalised" else 2e-3)


@pytest.mark.parametrize("qat", [None, "lsq", "pact"])
def test_integers_are_torchs_but_for_rounding(qat, tmp_path):
    """A file rounds biases too, sums and outputs: here are none but the last, so all else is one arithmetic."""
    layers = [nn.Conv2d(3, 16, 3, bias=False), nn.ReLU(), nn.Conv2d(16, 24, 3, bias=False), nn.ReLU()]
    model = trained(lambda: nn.Sequential(*layers, nn.Conv2d(24, 8, 3, bias=False), nn.Flatten()))
    made = simulate(policy(model), model, SHAPE, IMAGES, qat=qat)
    with torch.no_grad():
        for module in made.modules():
            if isinstance(module, LSQ):  # as if trained
                module.share *= torch.linspace(0.7, 1.1, len(module.share))
    file = qdq.export(made, SHAPE, DATA, tmp_path / "int8.onnx")
    step = output_step(file)
    theirs, ours = (np.rint(y / step) for y in (fp32.predict(file, DATA), np.asarray(answer(made))))
    inside = np.abs(theirs - ours)[(theirs > theirs.min()) & (theirs < theirs.max())]
    assert inside.max() <= 1
    assert (inside == 0).mean() > 0.99


def test_learned_steps_are_in_the_file(tmp_path):
    model = trained(chain)
    made = simulate(policy(model), model, SHAPE, IMAGES, qat="lsq")
    with torch.no_grad():
        made[1][0].input_rounding.share.fill_(0.625)
    made = made.eval()
    graph = onnx.load(qdq.export(made, SHAPE, DATA, tmp_path / "int8.onnx")).graph
    scales = [numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name.endswith("_scale")]
    assert any(
        scale.ndim == 0 and scale == np.float32(made[1][0].input_rounding.step.item()) for scale in scales
    )
    norm = model[1][1]
    factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).abs().detach()
    expected = (roundings(made)["1.0"].steps * factor).numpy()
    assert any(scale.shape == (24,) and np.allclose(scale, expected, rtol=1e-5) for scale in scales)


def test_layers_that_round_nothing_have_float_weights(tmp_path):
    """Between integer layers ONNX Runtime may round them itself, as it opens the file."""
    model = trained(chain)
    some = {name: bits for name, bits in policy(model).items() if not name.endswith(".1.0")}
    made = simulate(some, model, SHAPE, IMAGES)
    graph = onnx.load(qdq.export(made, SHAPE, DATA, tmp_path / "int8.onnx")).graph
    kinds = Counter(numpy_helper.to_array(t).dtype for t in graph.initializer if len(t.dims) > 1)
    assert kinds == {np.dtype(np.int8): 3, np.dtype(np.float32): 1}


def test_the_network_is_left_as_it_was_and_plain_is_an_ordinary_one():
    model = trained(residual)
    made = simulate(policy(model, 3, 32), model, SHAPE, IMAGES, qat="lsq")
    ordinary = plain(made)
    np.testing.assert_array_equal(answer(ordinary), answer(made))
    assert ordinary.state_dict().keys() == model.state_dict().keys()
    assert roundings(ordinary) == {}
    assert len(roundings(made)) == 9


@pytest.mark.parametrize(
    ("bits", "says"),
    [
        ({"weight_bits.0.0": 8, "activation_bits.0.0": 4}, "0.0: expected inputs in 8 bits.*got 4 bits"),
        ({"weight_bits.0.0": 8}, "0.0: expected inputs in 8 bits.*got floats"),
        ({"activation_bits.0.0": 8}, "0.0: expected weights in 2 to 8 bits"),
        ({}, "rounds nothing"),
    ],
)
def test_what_no_runtime_computes_is_refused(bits, says, tmp_path):
    made = simulate(bits, trained(chain), SHAPE, IMAGES)
    with pytest.raises(QuantizeError, match=says):
        qdq.export(made, SHAPE, DATA, tmp_path / "int8.onnx")
    assert list(tmp_path.iterdir()) == []


def test_readers_of_one_tensor_with_two_steps_are_refused(tmp_path):
    model = trained(residual)
    made = simulate(policy(model), model, SHAPE, IMAGES, qat="lsq")
    made[3].shortcut.input_rounding = LSQ(torch.tensor([0.1]), made[3].shortcut.input_rounding.grid)
    with pytest.raises(QuantizeError, match="another layer reads the same tensor"):
        qdq.export(made, SHAPE, DATA, tmp_path / "int8.onnx")


def test_openvino_runs_the_file_in_integers(tmp_path):
    """Where OpenVINO is installed: the precisions that its compiled graph tells, and the answers."""
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    model = trained(lambda: nn.Sequential(convolution(3, 16), convolution(16, 16), head(16)))
    made = simulate(policy(model), model, SHAPE, IMAGES, qat="lsq")
    file = qdq.export(made, SHAPE, DATA, tmp_path / "int8.onnx")
    compiled = openvino.Core().compile_model(str(file), "CPU")
    told = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    kinds = {
        info["runtimePrecision"].astype(str)
        for info in told
        if info["layerType"].astype(str) in ("Convolution", "FullyConnected")
    }
    assert kinds
    assert kinds <= {"i8", "u8"}
    np.testing.assert_allclose(compiled(DATA)[0], fp32.predict(file, DATA), atol=3 * output_step(file))
