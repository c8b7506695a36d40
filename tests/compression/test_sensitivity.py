"""What rounding hurts: three answers that agree on which layers and how many bits matter."""

import math
from functools import partial

import pytest
import torch
from networks import NETWORKS, SHAPE, trained
from torch import Tensor, nn
from torch.nn import functional

from nasflow.compression import precision, sensitivity
from nasflow.compression.fakequant import simulate
from nasflow.compression.sensitivity import SensitivityError
from nasflow.space import Choice, Space

torch.set_num_threads(1)


LAYERS = {
    "residual": ("0.0", "2.first.0"),
    "mobile": ("1.1.layers.1.0", "1.1.layers.2.up"),
    "chain": ("1.0", "2.0"),
}


def task(name: str, images: int = 24) -> tuple[nn.Module, Space, sensitivity.Simulate, Tensor, Tensor]:
    """A network with lively weights, bits for two of its layers, and images labelled with its own answers."""
    model = trained(NETWORKS[name])
    x = torch.randn(images, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = model(x).argmax(1)
    space = precision.space(model, SHAPE, bits=(3, 6), edges=None)
    few = Space(tuple(c for c in space.parameters if c.name.split(".", 1)[1] in LAYERS[name]))
    return model, few, partial(simulate, model=model, shape=SHAPE, calibration=x), x, y


@pytest.mark.parametrize("name", ["residual", "mobile"])
def test_each_answer_covers_what_the_space_lets_choose(name: str) -> None:
    model, space, simulated, x, y = task(name)
    chosen = {
        (c.name, b) for c in space.parameters if isinstance(c, Choice) and len(c.options) > 1 for b in (3, 6)
    }
    assert set(sensitivity.output_snr(model, space, simulated, x)) == chosen
    assert set(sensitivity.hawq(model, space, simulated, x, y, probes=2)) == chosen
    assert set(sensitivity.loss_increase(model, space, simulated, x, y)) == chosen


def test_more_bits_hurt_less() -> None:
    model, space, simulated, x, y = task("residual")
    snr = sensitivity.output_snr(model, space, simulated, x)
    omega = sensitivity.hawq(model, space, simulated, x, y, probes=8)
    entries = {entry for entry, _ in snr}
    assert all(snr[entry, 6] > snr[entry, 3] + 6 for entry in entries)
    assert all(omega[entry, 6] < omega[entry, 3] or omega[entry, 3] == 0 for entry in entries)
    assert sum(omega[entry, 3] > 0 for entry in entries) > len(entries) / 2


def test_rounding_errors_are_those_of_the_simulated_network() -> None:
    model, space, simulated, x, _ = task("chain", images=5)
    errors = sensitivity.rounding_errors(model, space, simulated, x)
    layer = "1.0"
    rounded = simulated({f"weight_bits.{layer}": 3}).get_submodule(layer).weight
    assert isinstance(rounded, Tensor)
    expected = (rounded - model.get_parameter(f"{layer}.weight")).detach().double().square().sum()
    assert errors[f"weight_bits.{layer}", 3] == pytest.approx(float(expected))
    with torch.no_grad():
        given = model.get_submodule("0")(x)
        step = given.max() / 7  # never negative: three bits, seven steps
        error = ((given / step).round().clamp(0, 7) * step - given).double().square().sum() / len(x)
    assert errors[f"activation_bits.{layer}", 3] == pytest.approx(float(error), rel=1e-5)


def test_loss_increase_is_what_one_rounded_layer_changes() -> None:
    model, space, simulated, x, y = task("chain")
    told = sensitivity.loss_increase(model, space, simulated, x, y)
    with torch.no_grad():
        before = functional.cross_entropy(model(x), y)
        after = functional.cross_entropy(simulated({"weight_bits.2.0": 3}).eval()(x), y)
    assert told["weight_bits.2.0", 3] == pytest.approx(float(after - before), abs=1e-5)


def test_traces_of_a_linear_classifier_are_the_known_ones() -> None:
    """Its Hessian is that of softmax regression: the trace is the mean of |x|^2 times the sum of p (1 - p); by the
    inputs it is the trace of W'(diag p - pp')W."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False)).double()
    x, y = torch.randn(80, 3, 2, 2).double(), torch.randint(3, (80,))
    p = model(x).softmax(1).detach()
    by_weights = float((x.flatten(1).square().sum(1) * (p * (1 - p)).sum(1)).mean())
    weight = model.get_parameter("1.weight").detach()
    middle = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    by_inputs = float(torch.einsum("ki,nkl,li->n", weight, middle, weight).mean())
    found = sensitivity.traces(model, ["weight_bits.1", "activation_bits.1"], x, y, probes=600)
    for entry, expected, count in (("weight_bits.1", by_weights, 36), ("activation_bits.1", by_inputs, 12)):
        trace = found[entry]
        assert trace.count == count
        assert abs(trace.mean - expected) < 4 * trace.error
        assert trace.error < 0.1 * expected
        assert trace.average == trace.mean / count


def test_traces_do_not_depend_on_how_images_are_cut_into_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, _, x, y = task("chain", images=24)
    whole = sensitivity.traces(model, ["weight_bits.1.0"], x, y, probes=3)
    monkeypatch.setattr(sensitivity, "BATCH", 7)
    parts = sensitivity.traces(model, ["weight_bits.1.0"], x, y, probes=3)
    assert parts["weight_bits.1.0"].mean == pytest.approx(whole["weight_bits.1.0"].mean, rel=1e-4)


def test_the_network_and_the_global_generator_are_left_alone() -> None:
    model, space, simulated, x, y = task("residual", images=8)
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    for answer in (
        sensitivity.hawq(model, space, simulated, x, y, probes=2),
        sensitivity.output_snr(model, space, simulated, x),
        sensitivity.loss_increase(model, space, simulated, x, y),
    ):
        assert all(math.isfinite(value) for value in answer.values())
    assert model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_options_matter() -> None:
    model, space, simulated, x, y = task("chain", images=8)
    usual = sensitivity.hawq(model, space, simulated, x, y, probes=2)
    assert sensitivity.hawq(model, space, simulated, x, y, probes=2) == usual
    assert sensitivity.hawq(model, space, simulated, x, y, probes=3) != usual
    assert sensitivity.hawq(model, space, simulated, x, y, probes=2, seed=1) != usual


def test_images_without_labels_and_too_few_probes_are_refused() -> None:
    model, space, simulated, x, y = task("chain", images=4)
    with pytest.raises(SensitivityError, match="4 images and 3 labels"):
        sensitivity.loss_increase(model, space, simulated, x, y[:3])
    with pytest.raises(SensitivityError, match="at least 2 probes"):
        sensitivity.hawq(model, space, simulated, x, y, probes=1)
