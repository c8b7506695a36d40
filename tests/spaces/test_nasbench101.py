"""What the nasbench101 space promises, beyond the contract of spaces."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from nasflow.compression import prune
from nasflow.space import Point, SpaceError
from nasflow.spaces import nasbench101
from nasflow.spaces.nasbench101 import Module, module, point_of, pruned, repaired, space
from nasflow.spaces.nasbench101_network import channels

SMALL = (1, 8, 8)
TINY = {"channels": 8, "stacks": 2, "modules": 1}


def test_a_space_costs_no_torch() -> None:
    code = (
        "import sys; from nasflow.spaces import nasbench101 as n; s = n.space((3, 32, 32), 10); import numpy as np;"
        "p = s.sample(np.random.default_rng(0)); s.key(p); s.describe(p); print('torch' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"


def test_vertices_on_no_path_do_not_count() -> None:
    made = space(SMALL, 10)
    plain = point_of([(0, 1), (1, 2)], ["conv3x3"])
    dangling = {**plain, "edge02": True, "edge34": True, "edge46": True, "op4": "maxpool3x3"}
    assert made.key(dangling) == made.key(plain)
    assert module(dangling) == Module(((0, 1), (1, 2)), ("conv3x3",))


def test_a_canonical_point_has_its_vertices_first_and_the_rest_empty() -> None:
    made = space(SMALL, 10)
    folded = made.canonical({**point_of([(0, 1), (1, 2)], ["conv1x1"]), "op5": "maxpool3x3"})
    assert [name for name, value in folded.items() if value is True] == ["edge01", "edge16"]
    assert [folded[f"op{v}"] for v in range(1, 6)] == ["conv1x1", "conv3x3", "conv3x3", "conv3x3", "conv3x3"]


def test_the_rest_is_of_the_operations_that_are_offered() -> None:
    made = space(SMALL, 10, operations=["maxpool3x3", "conv1x1"])
    assert made["op1"].options == ("conv1x1", "maxpool3x3")
    folded = made.canonical(made.sample(np.random.default_rng(0)) | {"edge06": False, "edge01": False})
    assert folded in made


def test_without_a_path_a_point_is_the_edge_from_input_to_output() -> None:
    made = space(SMALL, 10)
    empty = {**point_of([(0, 1)], []), "edge06": False}
    assert not any(value is True for value in empty.values())
    assert module(empty) == Module(((0, 1),), ()) == module(point_of([(0, 1)], []))
    assert made.key(empty) == made.key({**empty, "edge06": True})


def test_too_many_edges_lose_the_longest_first() -> None:
    full = Module(tuple(itertools.combinations(range(5), 2)), ("conv3x3", "conv1x1", "maxpool3x3"))
    assert set(full.edges) - set(repaired(full).edges) == {(0, 4)}
    all_of_seven = Module(tuple(itertools.combinations(range(7), 2)), ("conv1x1",) * 5)
    assert set(repaired(all_of_seven).edges) == {(a, b) for a, b in all_of_seven.edges if b - a == 1} | {
        (2, 4), (3, 5), (4, 6)
    }  # fmt: skip


def test_repairing_never_cuts_input_from_output() -> None:
    rng = np.random.default_rng(1)
    pairs = list(itertools.combinations(range(7), 2))
    for _ in range(500):
        edges = tuple(pair for pair in pairs if rng.random() < 0.8)
        graph = repaired(pruned(Module(edges, ("conv3x3",) * 5)))
        assert 1 <= len(graph.edges) <= 9
        assert pruned(graph) == graph


def test_as_many_points_are_repaired_as_the_space_says() -> None:
    made, rng = space(SMALL, 10), np.random.default_rng(0)
    edges = [len(pruned(nasbench101._read(made.sample(rng))).edges) for _ in range(4000)]
    assert np.mean(np.equal(edges, 0)) == pytest.approx(0.08, abs=0.015)
    assert np.mean(np.greater(edges, 9)) == pytest.approx(0.19, abs=0.02)


def test_features_tell_what_a_module_does() -> None:
    point = point_of([(0, 1), (0, 2), (1, 3), (2, 3), (0, 3)], ["conv3x3", "maxpool3x3"])
    assert nasbench101.features(point) == [4, 5, 1, 0, 1, 1, 0, 1, 3, 3, 1]
    chain = point_of([(0, 1), (1, 2), (2, 3)], ["conv3x3", "conv3x3"])
    assert nasbench101.features(chain) == [4, 3, 2, 0, 0, 2, 2, 2, 1, 1, 0]
    assert nasbench101.features(point_of([(0, 1)], [])) == [2, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1]


def test_the_network_is_stem_stacks_and_classifier() -> None:
    point = point_of([(0, 1), (1, 2)], ["conv3x3"], channels=8, stacks=3, modules=2)
    network = nasbench101.build(point, (3, 16, 16), 7)
    assert [name for name, _ in network.named_children()] == [
        "stem", "stack1_1", "stack1_2", "halve2", "stack2_1", "stack2_2", "halve3", "stack3_1", "stack3_2",
        "pool", "flatten", "classifier",
    ]  # fmt: skip
    seen = []
    network.stack3_2.register_forward_hook(lambda _, __, result: seen.append(tuple(result.shape)))
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, 16, 16))
    assert seen == [(1, 32, 4, 4)]
    assert isinstance(network.classifier, nn.Linear) and network.classifier.in_features == 32


def test_channels_that_do_not_divide_evenly_fit() -> None:
    edges = [(0, 1), (1, 2), (1, 3), (1, 4), (2, 5), (3, 5), (4, 5)]
    point = point_of(edges, ["conv3x3", "maxpool3x3", "conv1x1", "maxpool3x3"], **(TINY | {"channels": 7}))
    with torch.no_grad():
        assert nasbench101.build(point, SMALL, 3).eval()(torch.zeros(2, *SMALL)).shape == (2, 3)


def test_multiples_of_twelve_channels_always_divide_evenly_and_can_be_pruned() -> None:
    made, rng = space(SMALL, 10, channels=12, stacks=1, modules=1), np.random.default_rng(0)
    for number in range(100):
        point = made.sample(rng)
        graph = module(point)
        found = channels(graph, 12)
        assert all(found[a] == found[b] for a, b in graph.edges if a and b < graph.vertices - 1)
        if number < 5:
            network = nasbench101.build(point, SMALL, 10).eval()
            policies = prune.space(network, SMALL, round_to=1, keep=(0.5, 1.0))
            half = prune.apply(prune.uniform(policies, 0.5), network, SMALL)
            with torch.no_grad():
                assert half(torch.zeros(2, *SMALL)).shape == (2, 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vertices": 8}, "vertices is a whole number of at least 3 and at most 7, got 8"),
        ({"vertices": 2}, "at least 3"),
        ({"operations": ["conv5x5"]}, "operations are among"),
        ({"operations": []}, "operations are among"),
        ({"operations": "conv3x3"}, "operations are among"),
        ({"channels": 4}, "channels is a whole number of at least 5"),
        ({"stacks": 0}, "stacks is a whole number"),
        ({"modules": True}, "modules is a whole number"),
    ],
)
def test_impossible_settings_are_told(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        space(SMALL, 10, **settings)  # type: ignore[arg-type]


def test_impossible_tasks_are_told() -> None:
    with pytest.raises(SpaceError, match="nasbench101 space: shape is"):
        space((8, 8), 10)
    with pytest.raises(SpaceError, match="at least 2 classes"):
        space(SMALL, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"edge01": 1}, "edge01 is one of"),
        ({"op2": "skip"}, "op2 is one of"),
        ({"channels": "8"}, "channels is a whole number"),
    ],
)
def test_values_that_no_module_has_are_told(change: Point, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        nasbench101.build(point_of([(0, 1), (1, 2)], ["conv3x3"], **TINY) | change, SMALL, 10)


def test_what_a_point_lacks_is_told() -> None:
    point = point_of([(0, 1), (1, 2)], ["conv3x3"], **TINY)
    del point["edge25"]
    with pytest.raises(SpaceError, match="'edge25' is missing"):
        nasbench101.build(point, SMALL, 10)


@pytest.mark.parametrize(
    ("edges", "operations"), [([(0, 7)], []), ([(2, 1)], ["conv3x3"]), ([(0, 1)], ["conv3x3"] * 6)]
)
def test_modules_that_are_no_graph_are_told(edges: list[tuple[int, int]], operations: list[str]) -> None:
    with pytest.raises(SpaceError, match="edges from lower to higher"):
        point_of(edges, operations)
    with pytest.raises(SpaceError, match="operations are among"):
        point_of([(0, 1)], ["none"])
