import copy

import pytest
import torch
from networks import SHAPE, Computes, InvertedResidual, Residual, convolution, head, mobile, residual, trained
from torch import nn

from nasflow.compression.blocks import absent, removable, without
from nasflow.compression.groups import output

torch.set_num_threads(1)


def test_blocks_are_what_keeps_the_shape():
    # Not the block with stride 2, but the part of it behind the stride.
    assert removable(residual(), SHAPE) == ("1", "2", "3.second")


def test_squeeze_excite_is_a_block_within_a_block_and_depthwise_layers_are_not():
    assert removable(mobile(), SHAPE) == ("1.0", "1.0.layers.2", "1.1.layers.2", "1.2")


def test_a_sequence_of_blocks_is_left_to_its_blocks():
    model = nn.Sequential(convolution(3, 16), nn.Sequential(Residual(16, 16), Residual(16, 16)), head(16))
    assert removable(model, SHAPE) == ("1.0", "1.1")


def test_a_block_written_as_a_sequence_is_one_block():
    separable = nn.Sequential(convolution(16, 16, groups=16), convolution(16, 16, 1))
    assert removable(nn.Sequential(convolution(3, 16), separable, head(16)), SHAPE) == ("1",)


def test_a_block_that_runs_twice_or_whose_insides_are_used_is_none():
    def compute(net: Computes, x: torch.Tensor) -> torch.Tensor:
        x = net.twice(net.twice(net.stem(x)))
        return net.head(net.opened(x) * net.opened.scale)

    opened = convolution(16, 16)
    opened.scale = 2.0
    model = Computes(
        compute, stem=convolution(3, 16), twice=convolution(16, 16), opened=opened, head=head(16)
    )
    assert removable(model, SHAPE) == ()


@pytest.mark.parametrize("make", [residual, mobile])
def test_without_a_block_its_input_goes_on_and_all_other_names_stay(make):
    model = trained(make)
    before = copy.deepcopy(model.state_dict())
    for name in removable(model, SHAPE):
        reduced = without(model, [name])
        kept = [key for key in before if not key.startswith(f"{name}.")]
        assert list(reduced.state_dict()) == kept
        model.get_submodule(name).forward = lambda x: x  # the same by other means
        torch.testing.assert_close(output(reduced, SHAPE), output(model, SHAPE))
        del model.get_submodule(name).forward
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_block_within_a_block_goes_with_it():
    model = nn.Sequential(InvertedResidual(3, 3), head(3))
    for blocks in (["0.layers.2", "0"], ["0", "0.layers.2"]):
        assert isinstance(without(model, blocks)[0], nn.Identity)


def test_what_stands_for_a_block_is_in_its_mode():
    assert without(residual().eval(), ["1"])[1].training is False
    assert without(residual().train(), ["1"])[1].training is True


def test_an_absent_block_is_back_afterwards_whatever_happens():
    model = trained(residual)
    modules, before = dict(model.named_modules()), output(model, SHAPE)
    with pytest.raises(RuntimeError), absent(model, "1"):
        torch.testing.assert_close(output(model, SHAPE), output(without(model, ["1"]), SHAPE))
        raise RuntimeError
    assert list(dict(model.named_modules()).items()) == list(modules.items())
    assert torch.equal(output(model, SHAPE), before)
