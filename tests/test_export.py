import hashlib
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from nasflow.export import ExportError, Parity, parity, predict, to_onnx

SHAPE = (1, 8, 8)


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 10),
    )  # fmt: skip


def images(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, *SHAPE)).astype(np.float32)


class Branches(nn.Module):
    """Goes one way or the other by what it sees, which no file can say."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.linear(-x if x.sum() > 0 else x)


class Attends(nn.Module):
    """Asks for sizes while it runs: the fast exporter is not sure about it, the slow one is."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x[:, 0], x[:, 0], x[:, 0])[0].mean(1)


class Odd(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x.flatten(1))


@pytest.fixture
def file(tmp_path):
    return tmp_path / "trial" / "network.onnx"


def test_the_file_answers_like_the_network_for_any_batch(file):
    model = small()
    to_onnx(model, SHAPE, file)
    for count in (1, 7, 300):
        x = images(count)
        with torch.no_grad():
            expected = model.eval()(torch.from_numpy(x)).numpy()
        assert np.allclose(predict(file, x), expected, atol=1e-5)


def test_the_file_has_one_input_one_output_and_a_free_batch(file):
    to_onnx(small(), SHAPE, file)
    graph = onnx.load(file).graph
    assert [one.name for one in graph.input] == ["input"] and [one.name for one in graph.output] == ["logits"]
    batch, *sizes = graph.input[0].type.tensor_type.shape.dim
    assert not batch.dim_value and [one.dim_value for one in sizes] == [1, 8, 8]


def test_the_model_and_the_random_numbers_are_left_as_they_were(file):
    model = small().train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    to_onnx(model, SHAPE, file)
    parity(model, file, images(3))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_the_same_weights_give_the_same_bytes(file):
    found = set()
    for _ in range(2):
        to_onnx(small(), SHAPE, file)
        found.add(hashlib.sha256(file.read_bytes()).hexdigest())
    assert len(found) == 1


def test_no_warning_and_no_word_leaks(file, capfd):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        to_onnx(small(), SHAPE, file)
    assert not caught
    assert capfd.readouterr() == ("", "")


def test_what_the_fast_exporter_is_not_sure_of_is_left_to_the_other(file, capfd):
    torch.manual_seed(0)
    model = Attends()
    to_onnx(model, SHAPE, file)
    assert onnx.load(file).opset_import[0].version == 18
    assert parity(model, file, images(5)).max_abs_difference < 1e-5
    assert capfd.readouterr() == ("", "")


def test_a_network_that_no_file_can_say_is_refused_with_the_reasons(file):
    model = Branches().train()
    with pytest.raises(ExportError, match=r"cannot be exported to network\.onnx: .*boolean.*; and then: .*"):
        to_onnx(model, SHAPE, file)
    assert model.training and list(file.parent.iterdir()) == []


def test_an_operator_without_a_name_in_onnx_is_named(file):
    with pytest.raises(ExportError, match="special_bessel_j0"):
        to_onnx(Odd(), SHAPE, file)


def test_a_failed_export_leaves_the_file_before_it(file):
    to_onnx(small(), SHAPE, file)
    before = file.read_bytes()
    with pytest.raises(ExportError):
        to_onnx(Odd(), SHAPE, file)
    assert file.read_bytes() == before and list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("model", "shape", "said"),
    [
        (small(), (3, 8, 8), r"fails on an input of \(2, 3, 8, 8\): RuntimeError: .*expected input"),
        (nn.Sequential(nn.Flatten(0)), SHAPE, r"gives one tensor \(2, classes\), got \(128,\)"),
        (nn.LSTM(8, 4), (8, 8), r"gives one tensor \(2, classes\), got tuple"),
    ],
    ids=["another shape", "no batch", "two outputs"],
)
def test_a_network_of_another_shape_is_refused_in_words(model, shape, said, file):
    with pytest.raises(ExportError, match=said):
        to_onnx(model, shape, file)


def test_a_file_that_takes_its_example_for_granted_never_takes_its_place(file, monkeypatch):
    from nasflow import export

    def careless(model, example, path):
        graph = helper.make_graph(
            [helper.make_node("Flatten", ["input"], ["logits"])],
            "fixed",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [2, 1, 8, 8])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [2, 64])],
        )
        path.write_bytes(
            helper.make_model(
                graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
            ).SerializeToString()
        )

    monkeypatch.setattr(export, "_traced", careless)
    monkeypatch.setattr(export, "_dynamo", careless)
    with pytest.raises(ExportError, match="the file fails on a batch of 1"):
        to_onnx(nn.Flatten(), SHAPE, file)
    assert not file.exists()


def test_parity_tells_how_far_the_file_is_from_the_network(file):
    to_onnx(small(0), SHAPE, file)
    same, other = parity(small(0), file, images(300)), parity(small(1), file, images(300))
    assert same.samples == other.samples == 300
    assert same.agreement == 1.0 and same.max_abs_difference < 1e-5
    assert other.agreement < 1.0 and other.max_abs_difference > 0.01
    same.check(1e-4)
    with pytest.raises(
        ExportError, match=r"differ by up to \d\.\d+, expected at most 0\.0001; .*% of 300 answers agree"
    ):
        other.check(1e-4)


def test_an_answer_that_is_no_number_never_passes(file):
    model = small()
    to_onnx(model, SHAPE, file)
    x = images(3)
    x[1] = np.nan
    found = parity(model, file, x)
    assert found.max_abs_difference == float("inf")
    with pytest.raises(ExportError, match="differ by up to inf"):
        found.check(1e9)
    with pytest.raises(ExportError):
        Parity(float("nan"), 1.0, 1).check(1e9)


def test_parity_wants_inputs_and_the_same_classes(file):
    to_onnx(small(), SHAPE, file)
    with pytest.raises(ValueError, match="at least one input"):
        parity(small(), file, images(0))
    with pytest.raises(ExportError, match=r"expected logits of shape \(2, 64\), got \(2, 10\)"):
        parity(nn.Flatten(), file, images(2))


def test_this_process_keeps_its_tiny_numbers(file):
    """ONNX Runtime can make them zero, and then does so to all that is computed afterwards."""
    to_onnx(small(), SHAPE, file)
    predict(file, images(2))
    assert np.float64(2.3e-308) / np.float64(4.0) > 0.0


def test_an_operator_that_the_runtime_lacks_is_named_with_the_version(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("Frobnicate", ["input"], ["logits"])],
        "odd",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
    )
    file = tmp_path / "odd.onnx"
    file.write_bytes(
        helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
        ).SerializeToString()
    )
    with pytest.raises(ExportError, match=r"odd\.onnx: ONNX Runtime \d+\.\d+.* has no operator Frobnicate;"):
        predict(file, np.zeros((1, 3), dtype=np.float32))
    with pytest.raises(ExportError, match=r"missing\.onnx"):
        predict(tmp_path / "missing.onnx", images(1))
