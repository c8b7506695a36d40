"""What the nats-size space promises, beyond the contract of spaces."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from nasflow.compression import prune
from nasflow.evaluators import counts
from nasflow.space import SpaceError
from nasflow.spaces import nasbench201, nats, published
from nasflow.spaces.nats import from_size_string, size_string, space

SMALL = (1, 8, 8)


def test_a_space_costs_no_torch() -> None:
    code = "import sys; from nasflow.spaces import nats; nats.space((3, 32, 32), 10); print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_the_published_space_has_five_layers_of_eight_widths() -> None:
    made = space((3, 32, 32), 10)
    assert made.size == 32_768
    assert {p.options for p in made.parameters} == {(8, 16, 24, 32, 40, 48, 56, 64)}
    assert all(p.ordered for p in made.parameters)


def test_a_string_is_read_back_as_it_was_written() -> None:
    assert size_string(from_size_string("8:64:24:16:40")) == "8:64:24:16:40"
    assert from_size_string("8:64:24:16:40") in space(SMALL, 10)


def test_layers_have_the_channels_that_the_point_says() -> None:
    network = nats.build(from_size_string("8:16:24:32:40"), SMALL, 10)
    seen = []
    for name in ("stem", "cell1", "halve2", "cell3", "halve4", "cell5"):
        network.get_submodule(name).register_forward_hook(
            lambda _, __, result: seen.append(tuple(result.shape[1:]))
        )
    with torch.no_grad():
        network.eval()(torch.zeros(1, *SMALL))
    assert seen == [(8, 8, 8), (8, 8, 8), (16, 4, 4), (24, 4, 4), (32, 2, 2), (40, 2, 2)]


def test_a_skip_is_a_convolution_only_where_channels_change() -> None:
    network = nats.build(from_size_string("8:16:24:24:24"), SMALL, 10)
    assert isinstance(network.cell1.skip, nn.Identity) and isinstance(network.cell5.skip, nn.Identity)
    assert [type(layer) for layer in network.cell3.skip] == [nn.Conv2d, nn.BatchNorm2d]


def test_with_doubling_widths_it_is_the_network_of_nasbench201_with_its_cell() -> None:
    cell = nasbench201.arch_string(published.points("nasbench201")["best-cifar100"])
    ours = nats.build(from_size_string("16:32:32:64:64"), (3, 32, 32), 10)
    theirs = nasbench201.build(nasbench201.from_arch_string(cell, cells=1), (3, 32, 32), 10)
    assert counts.params(ours) == counts.params(theirs)
    assert counts.flops(ours, (3, 32, 32)) == counts.flops(theirs, (3, 32, 32))


def test_channels_can_be_removed() -> None:
    network = nats.build(from_size_string("8:16:24:24:16"), SMALL, 10).eval()
    policies = prune.space(network, SMALL, round_to=1, keep=(0.5, 1.0))
    half = prune.apply(prune.uniform(policies, 0.5), network, SMALL)
    with torch.no_grad():
        assert half(torch.zeros(2, *SMALL)).shape == (2, 10)
    assert sum(p.numel() for p in half.parameters()) < 0.5 * sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("widths", "message"),
    [([], "a list of numbers"), ("16", "a list of numbers"), ([0], "at least 1"), ([8.0], "whole number")],
)
def test_impossible_settings_are_told(widths: list[int], message: str) -> None:
    with pytest.raises(SpaceError, match=f"nats-size space: .*{message}"):
        space(SMALL, 10, widths=widths)


def test_impossible_tasks_and_points_are_told() -> None:
    with pytest.raises(SpaceError, match="nats-size space: shape is"):
        space((8,), 10)
    with pytest.raises(SpaceError, match="'width1' is missing"):
        nats.build({}, SMALL, 10)
    with pytest.raises(SpaceError, match="width2 is a whole number"):
        nats.build(from_size_string("8:8:8:8:8") | {"width2": "8"}, SMALL, 10)


@pytest.mark.parametrize("text", ["", "8:8:8:8", "8:8:8:8:8:8", "8:8:8:8:x", "8:8:8:8:-8", "8:8:8:8:0"])
def test_strings_that_are_no_sizes_are_told(text: str) -> None:
    with pytest.raises(SpaceError, match=r"such as 16:32:32:64:64|at least 1"):
        from_size_string(text)
