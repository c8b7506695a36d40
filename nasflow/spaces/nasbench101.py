"""The `nasbench101` space: modules that are small graphs (Ying et al., ICML 2019, arXiv:1902.09635).

A module has up to 7 vertices and 9 edges. Vertex 0 is its input, the last one its output, those between apply one
of three operations to the sum of what reaches them. A point says

    edgeAB      whether an edge leads from vertex A to B, for all A < B: 21 of them
    opA         what vertex A does: conv3x3, conv1x1 (both with normalisation and ReLU) or maxpool3x3
    channels    of the first stack; each later one has twice as many, on half the height and width
    stacks      of modules            modules    in a stack

The last three are what a setting says, each a choice with one option. Points with the same meaning fold to one:
vertices that are on no path from input to output do not count, nor do the numbers of the vertices.

Not every choice of edges is a module of the benchmark. So that every point means something, those that are none are
read as one that is, always the same: without a path from input to output it is the module that has only the edge
between them; with more than 9 edges left, the edge that skips the most vertices is taken away, the first of them
if there are several, until 9 are left. About a quarter of all points with 7 vertices are read so (8 % lack a path,
19 % have too many edges), so sampling differs a little from drawing until a module is valid.

A space costs no torch: the networks are in nasbench101_network.py.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nasflow.space import Choice, Point, Scalar, Space, SpaceError
from nasflow.spaces import checks

if TYPE_CHECKING:
    from torch import nn

OPERATIONS = ("conv3x3", "conv1x1", "maxpool3x3")
VERTICES = 7
MOST_EDGES = 9
SPACE, POINT = "nasbench101 space", "point of the nasbench101 space"


@dataclass(frozen=True, order=True)
class Module:
    """A graph: `edges` lead from lower to higher vertices, `operations` are those of vertices 1 to n - 2."""

    edges: tuple[tuple[int, int], ...]
    operations: tuple[str, ...]

    @property
    def vertices(self) -> int:
        return len(self.operations) + 2

    def before(self, vertex: int) -> list[int]:
        return [a for a, b in self.edges if b == vertex]

    def after(self, vertex: int) -> list[int]:
        return [b for a, b in self.edges if a == vertex]


def space(
    shape: Sequence[int],
    classes: int,
    *,
    vertices: int = VERTICES,
    operations: Sequence[str] = OPERATIONS,
    channels: int = 128,
    stacks: int = 3,
    modules: int = 3,
) -> Space:
    """The modules of at most `vertices` in networks for images of `shape` (channels, height, width).

    The defaults are the published network, whose 423,624 different modules are all there. Multiples of 12 channels
    divide evenly in every module; where they do not, a vertex passes on one channel less than it has, which pruning
    after training does not always understand (it says so).

    >>> made = space((3, 32, 32), 10, vertices=3)
    >>> [parameter.name for parameter in made.parameters]
    ['edge01', 'edge02', 'edge12', 'op1', 'channels', 'stacks', 'modules']
    """
    checks.task(SPACE, shape, classes)
    checks.whole(SPACE, "vertices", vertices, 3, VERTICES)
    offered = checks.among(SPACE, "operations", operations, OPERATIONS)
    around = {
        "channels": checks.whole(SPACE, "channels", channels, VERTICES - 2),
        "stacks": checks.whole(SPACE, "stacks", stacks, 1),
        "modules": checks.whole(SPACE, "modules", modules, 1),
    }
    choices = [Choice(name, (False, True)) for name in _edge_names(vertices)]
    choices += [Choice(f"op{vertex}", offered) for vertex in range(1, vertices - 1)]
    choices += [Choice(name, (value,)) for name, value in around.items()]
    return Space(tuple(choices), (Merged(offered[0]),), (features,))


def build(point: Mapping[str, Scalar], shape: Sequence[int], classes: int) -> nn.Module:
    """The network of `point`: images (batch, *shape) in, logits (batch, classes) out.

    Weights are drawn from torch's global generator. Keys that are not of this space are ignored.
    """
    from nasflow.spaces.nasbench101_network import network

    checks.task(POINT, shape, classes)
    return network(
        module(point),
        shape[0],
        classes,
        channels=checks.said_whole(POINT, point, "channels", VERTICES - 2),
        stacks=checks.said_whole(POINT, point, "stacks", 1),
        modules=checks.said_whole(POINT, point, "modules", 1),
    )


def module(point: Mapping[str, Scalar]) -> Module:
    """The module that stands for all that mean the same as that of `point`."""
    return representative(_read(point))


def point_of(
    edges: Sequence[tuple[int, int]],
    operations: Sequence[str],
    *,
    channels: int = 128,
    stacks: int = 3,
    modules: int = 3,
) -> Point:
    """The point of a module with these edges, in the published network unless said otherwise.

    `operations` are those of vertices 1, 2 and so on; vertex len(operations) + 1 is the output. The point has 7
    vertices.

    >>> point = point_of([(0, 1), (1, 2)], ["conv3x3"])
    >>> point["edge01"], point["edge16"], point["op1"]
    (True, True, 'conv3x3')
    """
    last = len(operations) + 1
    if last >= VERTICES or any(not 0 <= a < b <= last for a, b in edges):
        raise SpaceError(
            f"{SPACE}: expected at most {VERTICES - 2} operations and edges from lower to higher ones of "
            f"vertices 0 to {last}, got {list(edges)}"
        )
    checks.among(SPACE, "operations", [*operations, OPERATIONS[0]], OPERATIONS)
    around = {"channels": channels, "stacks": stacks, "modules": modules}
    return {**_written(Module(tuple(edges), tuple(operations)), VERTICES, OPERATIONS[0]), **around}


def module_hash(graph: Module) -> str:
    """The benchmark's name of a module in 32 hexadecimal digits, equal for equal meaning: the key of its tables.

    A vertex starts as the number of its edges out and in and its label (-1 input, -2 output, else the place of its
    operation in OPERATIONS); as often as there are vertices, each takes in its neighbours, in no order.
    """
    labels = [-1, *(OPERATIONS.index(operation) for operation in graph.operations), -2]
    vertices = range(graph.vertices)
    names = [_md5(str((len(graph.after(v)), len(graph.before(v)), labels[v]))) for v in vertices]
    for _ in vertices:
        names = [
            _md5("|".join([_joined(names, graph.before(v)), _joined(names, graph.after(v)), names[v]]))
            for v in vertices
        ]
    return _md5(str(sorted(names)))


def features(point: Mapping[str, Scalar]) -> list[float]:
    """What is seen of the module that counts, in 11 numbers: vertices, edges, how often each operation is there (3),
    operations on the longest and on the shortest path, 3x3 convolutions on the longest, paths from input to
    output, edges into the output, whether input and output touch."""
    graph = module(point)
    end = graph.vertices - 1
    longest, shortest, convolutions, paths = [0.0], [0.0], [0.0], [1.0]
    for vertex in range(1, end + 1):
        before = graph.before(vertex)
        own = graph.operations[vertex - 1] if vertex < end else ""
        longest.append(max(longest[v] for v in before) + bool(own))
        shortest.append(min(shortest[v] for v in before) + bool(own))
        convolutions.append(max(convolutions[v] for v in before) + (own == "conv3x3"))
        paths.append(sum(paths[v] for v in before))
    counts = [float(graph.operations.count(operation)) for operation in OPERATIONS]
    of_paths = [longest[-1], shortest[-1], convolutions[-1], paths[-1]]
    ends = [float(len(graph.before(end))), float((0, end) in graph.edges)]
    return [float(graph.vertices), float(len(graph.edges)), *counts, *of_paths, *ends]


# ---- modules that mean the same


@dataclass(frozen=True)
class Merged:
    """Fold: modules that mean the same become one of them; vertices that it lacks have no edges and do `rest`."""

    rest: str

    def __call__(self, point: Point) -> Point:
        vertices = _vertices(point)
        return {**point, **_written(module(point), vertices, self.rest)}


@functools.lru_cache(maxsize=2**16)
def representative(graph: Module) -> Module:
    """The module that stands for all that mean the same: pruned, repaired where the benchmark has no such module,
    and with its vertices in the order that sorts first."""
    graph = repaired(pruned(graph))
    inner = range(1, graph.vertices - 1)
    orders = itertools.permutations(inner)
    return min(like for order in orders if (like := _renumbered(graph, (0, *order, graph.vertices - 1))))


def pruned(graph: Module) -> Module:
    """`graph` less the vertices that are on no path from input to output; those two alone, and no edge, if there
    is no path."""
    end = graph.vertices - 1
    ahead, back = {0}, {end}
    for a, b in sorted(graph.edges):
        if a in ahead:
            ahead.add(b)
    for a, b in sorted(graph.edges, reverse=True):
        if b in back:
            back.add(a)
    if end not in ahead:
        return Module((), ())
    kept = sorted(ahead & back)
    new = {vertex: place for place, vertex in enumerate(kept)}
    edges = tuple(sorted((new[a], new[b]) for a, b in graph.edges if a in new and b in new))
    return Module(edges, tuple(graph.operations[vertex - 1] for vertex in kept[1:-1]))


def repaired(graph: Module) -> Module:
    """The valid module that a pruned `graph` is read as: itself if it is one (see the head of this file).

    Taking the longest edge of 10 or more away never cuts input from output: an edge that all paths take joins
    neighbours, as each vertex of a pruned graph is before or after it, and 10 edges cannot all join neighbours.
    """
    if not graph.edges:
        return Module(((0, 1),), ())
    while len(graph.edges) > MOST_EDGES:
        longest = max(graph.edges, key=lambda edge: (edge[1] - edge[0], -edge[0]))
        graph = pruned(Module(tuple(edge for edge in graph.edges if edge != longest), graph.operations))
    return graph


def _renumbered(graph: Module, order: tuple[int, ...]) -> Module | None:
    """`graph` with its vertices in this order; None if an edge would lead back."""
    new = {vertex: place for place, vertex in enumerate(order)}
    edges = tuple(sorted((new[a], new[b]) for a, b in graph.edges))
    if any(a > b for a, b in edges):
        return None
    return Module(edges, tuple(graph.operations[vertex - 1] for vertex in order[1:-1]))


# ---- what a point says


def _edge_names(vertices: int) -> list[str]:
    return [f"edge{a}{b}" for a, b in itertools.combinations(range(vertices), 2)]


def _vertices(point: Mapping[str, Scalar]) -> int:
    return 2 + sum(re.fullmatch(r"op\d", name) is not None for name in point)


def _read(point: Mapping[str, Scalar]) -> Module:
    vertices = _vertices(point)
    edges = tuple(
        (int(name[-2]), int(name[-1]))
        for name in _edge_names(vertices)
        if checks.said_option(POINT, point, name, (False, True))
    )
    operations = tuple(
        str(checks.said_option(POINT, point, f"op{vertex}", OPERATIONS)) for vertex in range(1, vertices - 1)
    )
    return Module(edges, operations)


def _written(graph: Module, vertices: int, rest: str) -> Point:
    """`graph` as a point of a space with so many vertices, whose last one is the output."""
    last = graph.vertices - 1
    edges = {(a, vertices - 1 if b == last else b) for a, b in graph.edges}
    operations = [*graph.operations, *[rest] * (vertices - graph.vertices)]
    point: Point = {name: (int(name[-2]), int(name[-1])) in edges for name in _edge_names(vertices)}
    return point | {f"op{vertex}": operation for vertex, operation in enumerate(operations, start=1)}


def _joined(names: Sequence[str], vertices: Sequence[int]) -> str:
    return "".join(sorted(names[vertex] for vertex in vertices))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
