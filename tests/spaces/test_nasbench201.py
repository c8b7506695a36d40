"""What the space of NAS-Bench-201 cells promises, beyond the contract of spaces."""

import itertools
import sys

import numpy as np
import pytest

from nasflow.space import Choice, SpaceError
from nasflow.spaces import nasbench201
from nasflow.spaces.nasbench201 import (
    NAMES,
    OPERATIONS,
    arch_string,
    cell_features,
    from_arch_string,
    representative,
)
from nasflow.testing import elsewhere

NONE, SKIP, SMALL, LARGE, POOL = OPERATIONS
SHAPE = (1, 8, 8)
NOTHING = (NONE,) * 6


def point(*cell: str, **around: int):
    return {**dict(zip(NAMES, cell, strict=True)), "cells": 1, "channels": 4, "stages": 2, **around}


# ---- the space


def test_offers_the_published_cells_by_default():
    space = nasbench201.space((3, 32, 32), 10)
    assert [p.name for p in space.parameters] == [*NAMES, "cells", "channels", "stages"]
    assert NAMES == ("1<-0", "2<-0", "2<-1", "3<-0", "3<-1", "3<-2")
    assert space.size == 5**6
    assert [space[name].options for name in ("cells", "channels", "stages")] == [(5,), (16,), (3,)]


def test_offers_the_operations_asked_for_in_their_published_order():
    space = nasbench201.space(SHAPE, 10, operations=[LARGE, NONE])
    choice = space["2<-1"]
    assert isinstance(choice, Choice) and choice.options == (NONE, LARGE)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"operations": ["conv"]}, "operations are among"),
        ({"operations": []}, "operations are among"),
        ({"cells": 0}, "cells is a whole number of at least 1, got 0"),
        ({"channels": 1.5}, "channels is a whole number of at least 1, got 1.5"),
        ({"stages": True}, "stages is a whole number of at least 1, got True"),
    ],
)
def test_refuses_settings_that_make_no_network(settings, says):
    with pytest.raises(SpaceError, match=says):
        nasbench201.space(SHAPE, 10, **settings)


@pytest.mark.parametrize(("shape", "classes"), [((8, 8), 10), ((1, 0, 8), 10), (SHAPE, 1)])
def test_refuses_tasks_that_are_none(shape, classes):
    with pytest.raises(SpaceError):
        nasbench201.space(shape, classes)
    with pytest.raises(SpaceError):
        nasbench201.build(point(*NOTHING), shape, classes)


def test_is_searched_without_torch():
    ended = elsewhere.call(_search_a_little)
    assert ended.returncode == 0, ended.stderr.decode()
    assert b"torch" not in ended.stdout


def _search_a_little() -> None:
    space = nasbench201.space(SHAPE, 10)
    found = space.sample(np.random.default_rng(0))
    space.key(found), space.describe(found)
    print([name for name in sys.modules if name == "torch"])


# ---- strings


def test_strings_come_back_as_they_went():
    for cell in itertools.islice(itertools.product(OPERATIONS, repeat=6), 0, None, 97):
        text = arch_string(point(*cell))
        assert from_arch_string(text, cells=1, channels=4, stages=2) == point(*cell)
    assert text.count("|") == 9 and text.count("+") == 2


def test_strings_name_the_node_that_an_edge_comes_from():
    cell = (LARGE, NONE, SKIP, POOL, SMALL, NONE)
    assert arch_string(point(*cell)) == (
        "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "|none~0|+|none~0|none~1|",
        "|none~0|+|none~0|none~0|+|none~0|none~1|none~2|",
        "|none~0|none~0|+|none~1|+|none~0|none~1|none~2|",
        "|none|+|none|none|+|none|none|none|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|max_pool~2|",
        "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|+|none~0|none~1|none~2|none~3|",
    ],
)
def test_refuses_strings_that_are_no_cells(text):
    with pytest.raises(SpaceError):
        from_arch_string(text)


# ---- cells that mean the same


@pytest.mark.parametrize(
    ("cell", "same"),
    [
        # nothing reaches the output
        ((LARGE, LARGE, LARGE, NONE, NONE, NONE), NOTHING),
        ((NONE, NONE, NONE, NONE, LARGE, SKIP), NOTHING),
        # an edge that leads nowhere, and one that comes from nowhere
        ((LARGE, NONE, NONE, SKIP, NONE, NONE), (NONE, NONE, NONE, SKIP, NONE, NONE)),
        ((NONE, LARGE, SMALL, NONE, NONE, SKIP), (NONE, LARGE, NONE, NONE, NONE, SKIP)),
        # the two inner nodes exchanged
        ((SMALL, LARGE, NONE, NONE, POOL, LARGE), (LARGE, SMALL, NONE, NONE, LARGE, POOL)),
        # a skip passes on what it gets
        ((SKIP, NONE, NONE, NONE, LARGE, NONE), (NONE, NONE, NONE, LARGE, NONE, NONE)),
        ((LARGE, NONE, SKIP, NONE, NONE, SMALL), (LARGE, NONE, NONE, NONE, SMALL, NONE)),
        # a sum pooled is the sum of what was pooled, and pools of the same are the same
        ((LARGE, SKIP, SKIP, NONE, NONE, POOL), (LARGE, NONE, NONE, POOL, POOL, NONE)),
        (
            (POOL, POOL, NONE, NONE, LARGE, SMALL),
            (POOL, NONE, SKIP, NONE, LARGE, SMALL),
        ),
    ],
)
def test_cells_that_compute_the_same_have_one_representative(cell, same):
    assert representative(cell) == representative(same)


@pytest.mark.parametrize(
    ("cell", "other"),
    [
        ((LARGE, NONE, NONE, SKIP, SKIP, NONE), (LARGE, NONE, NONE, NONE, SKIP, NONE)),
        ((SMALL, NONE, LARGE, NONE, NONE, SKIP), (LARGE, NONE, SMALL, NONE, NONE, SKIP)),
        # one convolution used twice is not two
        ((LARGE, SKIP, SKIP, NONE, SKIP, SKIP), (LARGE, LARGE, NONE, SKIP, SKIP, SKIP)),
        ((LARGE, NONE, NONE, SKIP, POOL, NONE), (LARGE, NONE, NONE, POOL, SKIP, NONE)),
    ],
)
def test_cells_that_compute_something_else_are_kept_apart(cell, other):
    assert representative(cell) != representative(other)


def test_the_representative_is_made_of_the_operations_of_the_space():
    cell = (POOL, POOL, NONE, NONE, LARGE, SMALL)
    assert SKIP in representative(cell)
    without = tuple(operation for operation in OPERATIONS if operation != SKIP)
    assert representative(representative(cell, without)) == representative(cell)
    assert set(representative(cell, without)) <= set(without)


def test_folding_leaves_all_else_as_it_was():
    space = nasbench201.space(SHAPE, 10)
    idle = {**point(LARGE, NONE, NONE, SKIP, NONE, NONE), "another": 3}
    assert space.canonical(idle) == {**point(NONE, NONE, NONE, SKIP, NONE, NONE), "another": 3}


# ---- networks


def test_builds_stages_of_cells_with_twice_the_channels_on_half_the_image():
    import torch

    network = nasbench201.build(point(*(SKIP,) * 6, cells=2, channels=3, stages=3), (1, 9, 6), 4)
    blocks = dict(network.blocks.named_children())
    assert list(blocks) == [
        "stage1_1", "stage1_2", "halve2", "stage2_1", "stage2_2", "halve3", "stage3_1", "stage3_2",
    ]  # fmt: skip
    x, shapes = network.stem(torch.zeros(1, 1, 9, 6)), []
    for name, block in blocks.items():
        x = block(x)
        if name.endswith("_1"):
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(3, 9, 6), (6, 5, 3), (12, 3, 2)]


def test_a_cell_that_nothing_passes_answers_the_same_whatever_it_sees():
    import torch

    network = nasbench201.build(point(*NOTHING), SHAPE, 10).eval()
    answers = network(torch.randn(3, *SHAPE))
    assert torch.equal(answers[0], answers[1])


def test_an_incomplete_point_says_what_is_missing():
    with pytest.raises(SpaceError, match="3<-2"):
        nasbench201.build(dict.fromkeys(NAMES[:-1], NONE), SHAPE, 10)
    with pytest.raises(SpaceError, match="cells is a whole number"):
        nasbench201.build(dict(zip(NAMES, NOTHING, strict=True)), SHAPE, 10)
    with pytest.raises(SpaceError, match="is one of"):
        nasbench201.build(point("max_pool", *NOTHING[1:]), SHAPE, 10)


# ---- features


def test_features_say_what_is_on_the_paths():
    #     1 = 3x3(0); 2 = pool(0) + 1x1(1); 3 = skip(0) + 3x3(2); the edge 3<-1 is none
    cell = (LARGE, POOL, SMALL, SKIP, NONE, LARGE)
    found = cell_features(cell)
    assert found[:5] == [1, 1, 1, 2, 0]  # skips, pools, 1x1, larger, others, all on paths
    assert found[5:8] == [3, 1, 0]  # 0-3, 0-2-3, 0-1-2-3: one of skips alone, none of pools alone
    assert found[8:11] == [0, pytest.approx(4 / 3), 3]  # layers on a path
    assert found[11] == 2  # larger convolutions
    assert found[12:14] == [0, 1]  # pools
    assert found[14] == 3 + 1 / 2  # the path of one layer has a pool
    assert found[15:] == [1, 1]  # a path without layers beside others; connected


def test_features_leave_out_edges_that_lead_nowhere():
    idle = cell_features((LARGE, NONE, LARGE, SKIP, NONE, NONE))
    assert idle == cell_features((NONE, NONE, NONE, SKIP, NONE, NONE))


def test_features_of_a_cell_that_nothing_passes():
    assert cell_features((LARGE, LARGE, LARGE, NONE, NONE, NONE)) == [0.0] * 8 + [-1.0] * 6 + [0.0] * 3


def test_features_are_as_many_for_any_operations_and_any_number_of_nodes():
    rng = np.random.default_rng(0)
    operations = ["zero", "identity", "sep_conv_5x5", "max_pool_3x3", "self_attention", "conv1x1"]
    for edges in (1, 3, 6, 10, 15):
        cell = [operations[i] for i in rng.integers(len(operations), size=edges)]
        assert len(cell_features(cell)) == 17
    assert cell_features(["self_attention"])[4] == 1
    assert cell_features(["sep_conv_5x5"])[3] == 1
    with pytest.raises(SpaceError, match="got 5"):
        cell_features([SKIP] * 5)


def test_points_that_mean_the_same_have_the_same_features():
    space = nasbench201.space(SHAPE, 10)
    rng = np.random.default_rng(0)
    for _ in range(200):
        found = space.sample(rng)
        assert space.describe(found) == space.describe(space.canonical(found))


def test_a_key_costs_next_to_nothing():
    import time

    space = nasbench201.space(SHAPE, 10)
    points = [space.sample(np.random.default_rng(seed)) for seed in range(300)]
    space.key(points[0])
    start = time.process_time()
    for one in points:
        space.key(one)
    assert (time.process_time() - start) / len(points) < 0.001
