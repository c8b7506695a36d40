"""NAS-Bench-101 is as published (Ying et al., ICML 2019): its counts, its hash, its channels, its networks."""

import itertools

import numpy as np
import pytest

from nasflow.evaluators import counts
from nasflow.spaces import nasbench101
from nasflow.spaces.nasbench101 import OPERATIONS, Module, module_hash, pruned, representative
from nasflow.spaces.nasbench101_network import channels


def labelled(vertices: int) -> list[Module]:
    """All valid modules with exactly so many vertices that count, vertices being told apart."""
    found = []
    pairs = list(itertools.combinations(range(vertices), 2))
    for chosen in itertools.product((False, True), repeat=len(pairs)):
        edges = tuple(pair for pair, there in zip(pairs, chosen, strict=True) if there)
        empty = Module(edges, (OPERATIONS[0],) * (vertices - 2))
        if edges and len(edges) <= 9 and pruned(empty) == empty:
            found += [Module(edges, ops) for ops in itertools.product(OPERATIONS, repeat=vertices - 2)]
    return found


def relabelled(module: Module, order: tuple[int, ...]) -> Module:
    """The same graph, vertex v being called order[v]; edges may then lead to lower vertices."""
    operations = {order[v]: operation for v, operation in enumerate(module.operations, start=1)}
    return Module(
        tuple((order[a], order[b]) for a, b in module.edges),
        tuple(operations[v] for v in range(1, module.vertices - 1)),
    )


def isomorphic(a: Module, b: Module) -> bool:
    """By trying all ways to call the inner vertices."""
    inner = itertools.permutations(range(1, a.vertices - 1))
    orders = [(0, *order, a.vertices - 1) for order in inner]
    likes = [relabelled(a, order) for order in orders]
    return any(set(like.edges) == set(b.edges) and like.operations == b.operations for like in likes)


@pytest.mark.parametrize(
    ("vertices", "modules", "different"), [(2, 1, 1), (3, 6, 6), (4, 90, 84), (5, 3267, 2441)]
)
def test_there_are_as_many_modules_as_published(vertices: int, modules: int, different: int) -> None:
    found = labelled(vertices)
    assert len(found) == modules
    assert len({module_hash(module) for module in found}) == different
    assert len({representative(module) for module in found}) == different


def test_a_module_of_four_vertices_has_the_hash_of_another_exactly_if_they_are_the_same_graph() -> None:
    for a, b in itertools.combinations(labelled(4), 2):
        same = isomorphic(a, b)
        assert (module_hash(a) == module_hash(b)) is same
        assert (representative(a) == representative(b)) is same


def test_what_vertices_are_called_does_not_change_the_hash() -> None:
    rng = np.random.default_rng(0)
    space = nasbench101.space((3, 32, 32), 10)
    for _ in range(100):
        module = nasbench101.module(space.sample(rng))
        order = (0, *(1 + int(v) for v in rng.permutation(module.vertices - 2)), module.vertices - 1)
        assert module_hash(relabelled(module, order)) == module_hash(module)


# The first entry of the published table, as its readers show it.
FIRST = nasbench101.point_of(
    [(0, 1), (0, 4), (0, 5), (1, 2), (2, 3), (2, 6), (3, 5), (4, 5), (5, 6)],
    ["conv3x3", "maxpool3x3", "conv3x3", "conv3x3", "conv1x1"],
)


def test_the_hash_is_the_key_of_the_published_table() -> None:
    assert module_hash(nasbench101.module(FIRST)) == "00005c142e6f48ac74fdcf73e3439874"


def test_the_first_network_of_the_table_has_its_published_number_of_weights() -> None:
    assert counts.params(nasbench101.build(FIRST, (3, 32, 32), 10)) == 8_555_530


@pytest.mark.parametrize(
    ("edges", "outputs", "expected"),
    [
        ([(0, 1), (1, 2), (2, 3)], 16, [16, 16]),
        ([(0, 1)], 5, []),
        ([(0, 1), (0, 2), (1, 3), (2, 3), (3, 4)], 16, [16, 16, 16]),
        ([(0, 1), (0, 2), (1, 3), (2, 3)], 15, [8, 7]),
        ([(0, 1), (0, 2), (0, 3), (1, 4), (2, 4), (3, 4)], 8, [3, 3, 2]),
        ([(0, 1), (1, 2), (1, 3), (2, 4), (3, 4)], 9, [5, 5, 4]),
        ([(0, 1), (0, 3), (1, 2), (1, 4), (2, 3), (3, 4)], 15, [8, 7, 7]),
    ],
)
def test_channels_are_shared_as_published(
    edges: list[tuple[int, int]], outputs: int, expected: list[int]
) -> None:
    module = Module(tuple(edges), (OPERATIONS[0],) * len(expected))
    assert channels(module, outputs) == [0, *expected, outputs]


def test_channels_that_reach_the_output_sum_to_it() -> None:
    rng = np.random.default_rng(0)
    space = nasbench101.space((3, 32, 32), 10)
    for outputs in (5, 8, 128, 131):
        for _ in range(50):
            module = nasbench101.module(space.sample(rng))
            found, end = channels(module, outputs), module.vertices - 1
            ends = [vertex for vertex in module.before(end) if vertex]
            assert sum(found[vertex] for vertex in ends) == (outputs if ends else 0)
            assert all(found[a] - found[b] in (0, 1) for a, b in module.edges if a and b < end)
