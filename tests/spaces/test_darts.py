"""What the darts space promises, beyond the contract of spaces."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from nasflow.compression import prune
from nasflow.space import Point, SpaceError
from nasflow.spaces import darts
from nasflow.spaces.darts import from_genotype, genotype, space
from nasflow.spaces.darts_network import Cell, Halve, operation

SMALL = (1, 8, 8)
TINY = {"cells": 3, "channels": 4}
CELL = [("skip_connect", 1), ("sep_conv_3x3", 0)] * 4


def test_a_space_costs_no_torch() -> None:
    code = (
        "import sys; from nasflow.spaces import darts, published; import numpy as np; s = darts.space((3, 32, 32), 10);"
        "p = s.sample(np.random.default_rng(0)); s.key(p); s.describe(p); print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_a_cell_is_read_back_as_it_was_written_with_inputs_in_order() -> None:
    rng, made = np.random.default_rng(0), space(SMALL, 10)
    for _ in range(50):
        point = made.sample(rng)
        cells = genotype(point)
        turned = {
            name: [edge for i in (0, 2, 4, 6) for edge in (edges[i + 1], edges[i])]
            for name, edges in cells.items()
        }
        assert from_genotype(cells) == from_genotype(turned) == point
        for edges in cells.values():
            starts = [start for _, start in edges]
            assert all(
                a < b < node for node, a, b in zip(darts.NODES, starts[::2], starts[1::2], strict=True)
            )


def test_nothing_folds() -> None:
    made = space(SMALL, 10)
    assert made.folds == ()


def test_input_0_is_the_cell_before_the_last() -> None:
    """As in the published form; the one whose channels and size may differ."""
    network = darts.build(
        from_genotype({"normal": CELL, "reduce": CELL}, cells_count=4, channels=4), SMALL, 10
    )
    assert [cell.starts[:2] for cell in network.cells] == [[0, 1]] * 4
    assert [isinstance(cell.first, Halve) for cell in network.cells] == [False, False, True, True]
    seen = []
    for cell in network.cells:
        cell.register_forward_hook(lambda _, given, __: seen.append([tuple(x.shape[1:]) for x in given]))
    with torch.no_grad():
        network.eval()(torch.zeros(1, *SMALL))
    assert seen == [
        [(12, 8, 8), (12, 8, 8)],
        [(12, 8, 8), (16, 8, 8)],
        [(16, 8, 8), (32, 4, 4)],
        [(32, 4, 4), (64, 2, 2)],
    ]


def test_cells_reduce_after_one_and_two_thirds() -> None:
    for cells in (3, 8, 20):
        point = from_genotype({"normal": CELL, "reduce": CELL}, cells_count=cells, channels=2)
        network = darts.build(point, SMALL, 10)
        widths = [cell.last[1].out_channels for cell in network.cells]
        assert [i for i in range(cells) if widths[i] != ([2, *widths])[i]] == [cells // 3, 2 * cells // 3]
        assert widths[-1] == 8


def test_only_what_is_done_to_the_inputs_of_a_reducing_cell_halves() -> None:
    edges = [("max_pool_3x3", 0), ("skip_connect", 1), ("sep_conv_3x3", 1), ("avg_pool_3x3", 2)] * 2
    cell = Cell(edges, 4, 4, 4, reduces=True, halved=False)
    assert [type(op) for op in cell.operations][:2] == [nn.MaxPool2d, Halve]
    assert cell.operations[3].stride == 1
    assert cell.operations[2][0][1].stride == (2, 2)


def test_separable_convolutions_are_applied_twice_dilated_ones_once() -> None:
    twice, once = operation("sep_conv_5x5", 4, 2), operation("dil_conv_3x3", 4, 2)
    depthwise = [m for m in twice.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert [(m.kernel_size, m.stride, m.dilation) for m in depthwise] == [
        ((5, 5), (2, 2), (1, 1)), ((5, 5), (1, 1), (1, 1)),
    ]  # fmt: skip
    (depthwise,) = [m for m in once.modules() if isinstance(m, nn.Conv2d) and m.groups > 1]
    assert (depthwise.kernel_size, depthwise.stride, depthwise.dilation) == ((3, 3), (2, 2), (2, 2))


@pytest.mark.parametrize("name", darts.OPERATIONS)
@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_all_operations_halve_alike(name: str, side: int) -> None:
    x = torch.randn(2, 4, side, side)
    with torch.no_grad():
        assert operation(name, 4, 1).eval()(x).shape == x.shape
        assert operation(name, 4, 2).eval()(x).shape == (2, 4, (side + 1) // 2, (side + 1) // 2)


def test_halving_sees_even_and_odd_pixels() -> None:
    halve = Halve(1, 2).eval()
    with torch.no_grad():
        for convolution in (halve.even, halve.odd):
            convolution.weight.fill_(1.0)
        x = torch.arange(16.0).reshape(1, 1, 4, 4)
        even, odd = halve(x)[0]
    assert torch.allclose(even, x[0, 0, ::2, ::2], rtol=1e-4)
    assert torch.allclose(odd, x[0, 0, 1::2, 1::2], rtol=1e-4)


def test_large_images_get_the_stem_that_halves_them() -> None:
    assert space((3, 32, 32), 10)["stem"].options == ("cifar",)
    assert space((3, 224, 224), 10)["stem"].options == ("imagenet",)
    assert space((3, 224, 224), 10, stem="cifar")["stem"].options == ("cifar",)
    point = from_genotype({"normal": CELL, "reduce": CELL}, cells_count=3, channels=4, stem="imagenet")
    network = darts.build(point, (3, 32, 32), 10).eval()
    with torch.no_grad():
        assert network.stem(torch.zeros(1, 3, 32, 32)).shape == (1, 4, 8, 8)
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


def test_features_are_counts_width_and_depth_of_both_cells() -> None:
    reduce = [("max_pool_3x3", 0), ("max_pool_3x3", 1)] * 4
    found = darts.features(from_genotype({"normal": CELL, "reduce": reduce}))
    assert found == [0, 0, 4, 4, 0, 0, 0, 4.0, 2, 8, 0, 0, 0, 0, 0, 0, 4.0, 2]
    chain = [("skip_connect", i) for node in (2, 3, 4, 5) for i in (node - 2, node - 1)]
    assert darts.width_depth(chain) == (1.5, 5)


def test_channels_can_be_removed() -> None:
    cell = [("dil_conv_3x3", 0), ("skip_connect", 1), *[("max_pool_3x3", 0), ("skip_connect", 2)] * 3]
    point = from_genotype({"normal": cell, "reduce": cell}, cells_count=3, channels=8)
    network = darts.build(point, SMALL, 10).eval()
    policies = prune.space(network, SMALL, round_to=1, keep=(0.5, 1.0))
    half = prune.apply(prune.uniform(policies, 0.5), network, SMALL)
    with torch.no_grad():
        assert half(torch.zeros(2, *SMALL)).shape == (2, 10)
    assert sum(p.numel() for p in half.parameters()) < 0.5 * sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"operations": ["none"]}, "operations are among"),
        ({"cells": 2}, "cells is a whole number of at least 3"),
        ({"channels": 1}, "channels is a whole number of at least 2"),
        ({"stem": "mnist"}, "stem are among"),
    ],
)
def test_impossible_settings_are_told(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        space(SMALL, 10, **settings)  # type: ignore[arg-type]


def test_impossible_tasks_are_told() -> None:
    with pytest.raises(SpaceError, match="darts space: shape is"):
        space((1, 8, 0), 10)
    with pytest.raises(SpaceError, match="at least 2 classes"):
        space(SMALL, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normal.node3.inputs": "1+0"}, "normal.node3.inputs is one of"),
        ({"reduce.node2.first": "none"}, "reduce.node2.first is one of"),
        ({"cells": 2.0}, "cells is a whole number"),
        ({"stem": None}, "stem is one of"),
    ],
)
def test_values_that_no_network_has_are_told(change: Point, message: str) -> None:
    point = from_genotype({"normal": CELL, "reduce": CELL}, cells_count=3, channels=2)
    with pytest.raises(SpaceError, match=message):
        darts.build(point | change, SMALL, 10)


def test_cells_that_are_none_are_told() -> None:
    with pytest.raises(SpaceError, match="8 operations in its reduce cell"):
        from_genotype({"normal": CELL})
    with pytest.raises(SpaceError, match=r"inputs is one of .*'1\+1'"):
        from_genotype({"normal": [("skip_connect", 1), ("skip_connect", 1), *CELL[2:]], "reduce": CELL})
