"""What least squares behind pruned layers promises: never worse than doing without the channels."""

import copy

import networks
import pytest
import torch
from torch import nn
from torch.nn import functional

from nasflow.compression import prune
from nasflow.compression.groups import CONVOLUTION, PruneError, deafen, readers, trace
from nasflow.compression.reconstruct import reconstruction

torch.set_num_threads(1)

SHAPE = (3, 8, 8)
EVERYWHERE = 64  # places of an image, so that nothing is left to chance


def images(count=48):
    """Random fields whose neighbours are alike, as in real images."""
    drawn = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(3))
    return functional.avg_pool2d(drawn, 3, 1, 1) * 3


def keep_all(*_):
    """Compensates for nothing: the network with the channels' readers deaf to them."""


def two(reader, width=16):
    """A layer to be pruned and one that reads it and is the output."""
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), *reader).eval()


READERS = {
    "conv": lambda: [nn.Conv2d(16, 8, 3, padding=1)],
    "without bias": lambda: [nn.Conv2d(16, 8, 3, padding=1, bias=False)],
    "strided": lambda: [nn.Conv2d(16, 8, 3, stride=2, dilation=2)],
    "1x1": lambda: [nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8).eval()],
    "reflecting": lambda: [nn.Conv2d(16, 8, 3, padding=1, padding_mode="reflect")],
    "flattened": lambda: [nn.AvgPool2d(4), nn.Flatten(), nn.Linear(16 * 4, 8)],
}


@pytest.mark.parametrize("name", READERS)
def test_outputs_of_readers_on_the_images_come_closer_than_by_masking(name):
    torch.manual_seed(0)
    model, x = two(READERS[name]()), images()
    again = reconstruction(model, x, points=EVERYWHERE)
    for share in (0.75, 0.5, 0.25):
        masked, fitted = (
            prune.apply({"channels.0": share}, model, SHAPE, compensate=how) for how in (keep_all, again)
        )
        with torch.no_grad():
            wrong, less = (float((net(x) - model(x)).square().mean()) for net in (masked, fitted))
        assert less < 0.9 * wrong
        assert [p.shape for p in fitted.parameters()] == [p.shape for p in masked.parameters()]


@pytest.mark.parametrize("make", networks.NETWORKS.values(), ids=networks.NETWORKS)
def test_no_reader_in_any_network_is_further_from_its_outputs_than_by_masking(make):
    model, x = networks.trained(make), images(32)
    again = reconstruction(model, x, points=EVERYWHERE)
    seen = watched(model, x)
    for group in trace(model, SHAPE).groups:
        removed = {group.name: torch.arange(0, group.channels, 2)}
        fitted, masked = copy.deepcopy(model), copy.deepcopy(model)
        again(trace(fitted, SHAPE), SHAPE, removed)
        for name, channels in places(model, removed).items():
            given, made = seen[name]
            wrong = []
            for net in (masked, fitted):
                with torch.no_grad():
                    deafen(net.get_submodule(name), channels)
                    answer = net.get_submodule(name)(given)
                if name in again.norms:  # which may have been told what is missing
                    norm = again.norms[name]
                    told = net.get_submodule(norm).running_mean - model.get_submodule(norm).running_mean
                    answer = answer - told[:, None, None]
                wrong.append(float((answer - made).double().square().mean()))
            assert wrong[1] <= wrong[0] * (1 + 1e-5)
            if name in again.moments:
                assert wrong[1] < wrong[0]


def watched(model, x):
    """What every layer was given and made."""
    seen = {}
    names = {module: name for name, module in model.named_modules()}

    def note(module, given, made):
        seen[names[module]] = given[0], made

    layers = [m for m in model.modules() if isinstance(m, (CONVOLUTION, nn.Linear))]
    hooks = [layer.register_forward_hook(note) for layer in layers]
    with torch.no_grad():
        model(x)
    for hook in hooks:
        hook.remove()
    return seen


def places(model, removed):
    names = {module: name for name, module in model.named_modules()}
    return {names[module]: gone for module, gone in readers(trace(model, SHAPE), removed).items()}


def test_inputs_that_others_can_stand_in_for_are_missed_by_nobody():
    torch.manual_seed(0)
    model = two([nn.Conv2d(16, 8, 3, padding=1)])
    with torch.no_grad():  # the second half of the channels are twice the first
        for values in (model[0].weight, model[0].bias):
            values[8:] = 2 * values[:8]
        model[1].eps = 0.0
        model[1].running_mean.zero_()
    x = images()
    again = reconstruction(model, x)

    def last(group):
        return torch.arange(group.channels, 0, -1.0)

    fitted = prune.apply({"channels.0": 0.5}, model, SHAPE, criterion=last, compensate=again)
    torch.testing.assert_close(fitted(x), model(x), rtol=0.01, atol=0.01)


def test_an_offset_goes_to_the_normalisation_where_there_is_no_bias():
    torch.manual_seed(0)
    model, x = two([nn.Conv2d(16, 8, 1, bias=False), nn.BatchNorm2d(8).eval()]), images()
    fitted = prune.apply(
        {"channels.0": 0.25}, model, SHAPE, compensate=reconstruction(model, x, points=EVERYWHERE)
    )
    assert not torch.equal(fitted[4].running_mean, model[4].running_mean)
    # by least squares with an offset nothing is missing on average, but for what is gained by small changes
    missing = (fitted(x) - model(x)).mean((0, 2, 3)).abs()
    assert bool((missing < 0.02 * model(x).std()).all())


def test_blocks_may_go_too():
    model, x = networks.trained(networks.residual), images(16)
    again = reconstruction(model, x)
    fitted = prune.apply({"channels.0.0": 0.5, "block.1": False}, model, SHAPE, compensate=again)
    assert fitted(x).isfinite().all()


def test_sampled_places_depend_on_the_seed_and_their_number_alone():
    model, x = networks.trained(networks.chain), images(8)
    one, again, other, more = (
        reconstruction(model, x, points=points, seed=seed).moments["1.0"]
        for points, seed in ((4, 0), (4, 0), (4, 1), (9, 0))
    )
    assert torch.equal(one, again) and not torch.equal(one, other) and not torch.equal(one, more)
    assert torch.equal(one, one.T) and float(one[-1, -1]) == 1.0


def test_the_network_is_left_as_it_was():
    model = networks.trained(networks.residual).train()
    before = copy.deepcopy(model.state_dict())
    again = reconstruction(model, images(8))
    prune.apply({"channels.0.0": 0.5}, model, SHAPE, compensate=again)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_no_images_and_no_places_are_refused():
    model = networks.chain()
    with pytest.raises(PruneError, match="at least one point"):
        reconstruction(model, images(2), points=0)
    with pytest.raises(PruneError, match="expected images"):
        reconstruction(model, images(2)[:0])
