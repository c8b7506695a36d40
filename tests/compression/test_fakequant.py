import copy

import pytest
import torch
from networks import NETWORKS, SHAPE, Computes, chain, convolution, head, residual, trained
from torch import nn
from torch.nn import functional

from nasflow.compression import fakequant, precision
from nasflow.compression.calibrate import METHODS, CalibrationError
from nasflow.compression.fakequant import SimulateError, roundings, simulate
from nasflow.compression.lsq import LSQ
from nasflow.compression.precision import PrecisionError

torch.set_num_threads(1)

IMAGES = torch.randn(20, *SHAPE, generator=torch.Generator().manual_seed(0))
QATS = (None, "lsq", "pact")


def policy(model: nn.Module, bits: int) -> dict[str, int]:
    return precision.uniform(precision.space(model, SHAPE, bits=(bits,), edges=bits), bits)


def answer(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(IMAGES)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_32_bits_are_the_identity_bit_for_bit_and_the_original_is_untouched(make):
    model = trained(make)
    before = copy.deepcopy(model.state_dict())
    names = [name.removeprefix(precision.WEIGHT) for name in policy(model, 8) if name.startswith("weight")]
    alone = {entry + name: 32 for name in names for entry in (precision.WEIGHT, precision.ACTIVATION)}
    assert torch.equal(answer(simulate(alone, model, SHAPE, IMAGES)), answer(model))
    answer(simulate(policy(model, 3), model, SHAPE, IMAGES, qat="lsq"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training


@pytest.mark.parametrize("qat", QATS)
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_more_bits_come_closer_to_the_network(make, qat):
    model = trained(make)
    exact = answer(model)
    error = [
        float(
            (answer(simulate(policy(model, bits), model, SHAPE, IMAGES, method="mse", qat=qat)) - exact)
            .square()
            .mean()
        )
        for bits in (2, 4, 8)
    ]
    assert error[0] > error[1] > error[2] > 0
    assert error[2] < 0.02 * float(exact.var())


@pytest.mark.parametrize("qat", QATS)
def test_weights_and_inputs_have_so_many_values(qat):
    model = simulate(policy(trained(chain), 3), trained(chain), SHAPE, IMAGES, qat=qat)
    read = []
    layer = model.get_submodule("1.0")
    original = layer.forward
    layer.forward = lambda x: original(read.append(x) or x)
    answer(model)
    for channel in layer.weight:
        assert len(channel.unique()) <= 8
    values = read[0].unique()
    assert 4 <= len(values) <= 8
    assert values[0] == 0  # behind a ReLU the grid begins at zero
    steps = values / values[1]
    torch.testing.assert_close(steps, steps.round())


def test_each_output_channel_has_a_step_of_its_own():
    model = trained(chain)
    with torch.no_grad():
        model[1][0].weight[3] *= 100
    rounded = simulate({"weight_bits.1.0": 8}, model, SHAPE, IMAGES)
    off = (rounded[1][0].weight - model[1][0].weight).flatten(1).abs().amax(1).detach()
    assert (off <= model[1][0].weight.flatten(1).abs().amax(1).detach() / 127 / 2 * 1.001).all()


@pytest.mark.parametrize("qat", [None, "lsq"])
def test_a_layer_may_share_one_step(qat):
    model = trained(chain)
    with torch.no_grad():
        model[1][0].weight[3] *= 100
    rounded = simulate({"weight_bits.1.0": 4}, model, SHAPE, IMAGES, qat=qat, step_per="layer")
    values = rounded[1][0].weight.unique()
    assert len(values) <= 16
    (how,) = roundings(rounded).values()
    assert how.steps.shape == (len(model[1][0].weight),)
    assert len(how.steps.unique()) == 1
    rounded(IMAGES).sum().backward()
    learned = [p for name, p in rounded.named_parameters() if name.endswith("share")]
    assert [p.shape for p in learned] == ([(1,)] if qat else [])
    assert all(p.grad.abs().sum() > 0 for p in learned)


def test_layers_that_read_the_same_tensor_round_it_once():
    model = trained(residual)
    made = simulate(policy(model, 4), model, SHAPE, IMAGES, qat="lsq")
    first, short = (
        made.get_submodule(f"3.{name}").get_submodule(fakequant.INPUT) for name in ("first.0", "shortcut")
    )
    assert first is short
    apart = simulate({**policy(model, 4), "activation_bits.3.shortcut": 6}, model, SHAPE, IMAGES, qat="lsq")
    first, short = (
        apart.get_submodule(f"3.{name}").get_submodule(fakequant.INPUT) for name in ("first.0", "shortcut")
    )
    assert first is not short


def test_a_tensor_changed_in_place_is_not_the_same_any_more():
    def compute(net: Computes, x: torch.Tensor) -> torch.Tensor:
        x = net.stem(x)
        before = net.a(x)
        functional.relu_(x)
        return net.head(before + net.b(x))

    layers = {"stem": nn.Conv2d(3, 8, 3), "a": nn.Conv2d(8, 8, 1), "b": nn.Conv2d(8, 8, 1), "head": head(8)}
    made = simulate(
        {"activation_bits.a": 8, "activation_bits.b": 8}, Computes(compute, **layers), SHAPE, IMAGES
    )
    assert made.a.input_rounding.grid.low < 0 == made.b.input_rounding.grid.low


def test_every_calibration_gives_other_ranges():
    model = trained(residual)
    answers = [answer(simulate(policy(model, 4), model, SHAPE, IMAGES, method=method)) for method in METHODS]
    for i, one in enumerate(answers):
        assert not any(torch.equal(one, other) for other in answers[:i])
    assert torch.equal(answers[0], answer(simulate(policy(model, 4), model, SHAPE, IMAGES)))


@pytest.mark.parametrize("qat", QATS)
def test_all_weights_learn_through_the_rounding(qat):
    model = simulate(policy(trained(residual), 4), trained(residual), SHAPE, IMAGES, qat=qat)
    model.train()
    functional.cross_entropy(model(IMAGES), torch.arange(20) % 5).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0 or "alpha" in name, name


def test_ranges_of_inputs_follow_training_and_stand_still_in_use():
    model = simulate({"activation_bits.1.0": 4}, trained(chain), SHAPE, IMAGES)
    start = model[1][0].input_rounding.step.clone()
    answer(model)
    assert torch.equal(model[1][0].input_rounding.step, start)
    model[0][1].weight.data *= 3
    model.train()
    for _ in range(600):
        model[1][0].input_rounding(10 * torch.ones(1))
    torch.testing.assert_close(model[1][0].input_rounding.step, torch.tensor([10 / 15]), rtol=0.01, atol=0)


def test_the_same_seedless_result_every_time_and_weights_come_back():
    model = trained(residual)
    first, second = (simulate(policy(model, 4), model, SHAPE, IMAGES, qat="lsq") for _ in range(2))
    assert torch.equal(answer(first), answer(second))
    with torch.no_grad():
        for module in first.modules():
            if isinstance(module, LSQ):
                module.share *= 0.7
    assert not torch.equal(answer(first), answer(second))
    second.load_state_dict(first.state_dict())
    assert torch.equal(answer(first), answer(second))


def test_torchs_generator_is_left_alone():
    model = trained(chain)
    before = torch.random.get_rng_state()
    simulate(policy(model, 4), model, SHAPE, IMAGES, method="entropy", qat="lsq")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"weight_bits.1": 8}, SimulateError, "no convolution or linear layer of that name"),
        ({"weight_bits.0.0": 9}, PrecisionError, "2 to 8 bits"),
        ({"precision.0.0": "int8"}, SimulateError, "expected simulated bits"),
    ],
)
def test_policies_that_do_not_fit_are_refused(given, error, says):
    with pytest.raises(error, match=says):
        simulate(given, trained(chain), SHAPE, IMAGES)


def test_what_cannot_be_calibrated_is_refused():
    wanted = {"activation_bits.0.0": 8}
    with pytest.raises(SimulateError, match=r"got \(20, 3, 4, 8\)"):
        simulate(wanted, trained(chain), SHAPE, IMAGES[:, :, :4])
    with pytest.raises(SimulateError, match="some images"):
        simulate(wanted, trained(chain), SHAPE, IMAGES[:0])
    with pytest.raises(CalibrationError, match="NaN or infinity"):
        simulate(wanted, trained(chain), SHAPE, IMAGES * float("inf"))
    with pytest.raises(CalibrationError, match="minmax, percentile, mse, entropy, got 'kl'"):
        simulate(wanted, trained(chain), SHAPE, IMAGES, method="kl")
    with pytest.raises(SimulateError, match="lsq or pact"):
        simulate(wanted, trained(chain), SHAPE, IMAGES, qat="dorefa")


def test_a_layer_that_never_runs_by_itself_is_named():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.idle = nn.Sequential(convolution(3, 8), head(8)), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x)

    with pytest.raises(SimulateError, match=r"activation_bits.idle: the layer never runs"):
        simulate({"activation_bits.idle": 8}, Two(), SHAPE, IMAGES)


def test_rounding_twice_is_refused():
    once = simulate({"weight_bits.0.0": 8}, trained(chain), SHAPE, IMAGES)
    with pytest.raises(SimulateError, match="rounded already"):
        simulate({"weight_bits.0.0": 8}, once, SHAPE, IMAGES)
