"""Which layers run in integers is chosen by what the device measures, and never makes the file slower."""

import doctest
import itertools
import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import SHAPE, chain, convolution, mobile, residual, trained
from tiny import Scripted
from torch import nn

from nasflow import export
from nasflow.compression import mixed
from nasflow.compression.mixed import Mixed, fastest, layer_of, segments
from nasflow.compression.quantize import QuantizeError, in_integers, int8, int8_share, prepared

DATA = np.random.default_rng(0).normal(size=(16, *SHAPE)).astype(np.float32)
LAYERS = ("Conv", "Gemm", "MatMul")


def test_the_examples_in_the_docstrings_are_true():
    assert doctest.testmod(mixed).failed == 0


@pytest.fixture(params=[chain, residual, mobile])
def file(request, tmp_path: Path) -> Path:
    export.to_onnx(trained(request.param), SHAPE, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def integers(file: Path) -> dict[str, bool]:
    """By layer of the file: whether its weights are dequantised, so computed in integers."""
    graph = onnx.load(file).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    return {
        node.name: makers.get(node.input[1]) == "DequantizeLinear"
        for node in graph.node
        if node.op_type in LAYERS
    }


def device(slow: tuple[str, ...] = (), conversion: float = 0.0) -> Scripted:
    """Takes 2 ms for each layer in floats, 1 ms in integers, 4 ms for those of `slow` there; conversions cost too."""

    def cost(file: Path) -> float:
        found = list(integers(file).items())
        changes = sum(a[1] is not b[1] for a, b in itertools.pairwise(found))
        spent = [
            (4.0 if any(name in layer for name in slow) else 1.0) if whole else 2.0 for layer, whole in found
        ]
        return sum(spent) + conversion * changes

    return Scripted(cost=cost)


def choose(file: Path, on: Scripted, **options):
    def quantise(keep, out):
        int8(file, DATA, out, keep=keep)

    return fastest(file, quantise, on, file.parent / "mixed", **options)


# Segments


def test_segments_hold_every_node_once_and_end_where_one_tensor_is_alive(file):
    nodes = [node.name for node in prepared(file).graph.node]
    for most in (1, 3, 8):
        cut = segments(file, most)
        assert [name for one in cut for name in one.nodes] == nodes
        assert 1 <= len(cut) <= most and all(one.layers for one in cut)


def test_a_residual_block_is_never_cut(tmp_path):
    export.to_onnx(trained(residual), SHAPE, tmp_path / "model.onnx")
    for one in segments(tmp_path / "model.onnx", 100):
        for part, other in (("first", "second"), ("second", "first")):
            if any(part in name for name in one.layers):
                assert any(other in name for name in one.layers)


def test_kept_nodes_stay_in_floats_and_others_do_not(file, tmp_path):
    first, *_ = segments(file)
    out = int8(file, DATA, tmp_path / "out.onnx", keep=first.nodes)
    found = integers(out)
    assert not any(found[name] for name in first.layers) and any(found.values())
    with pytest.raises(QuantizeError, match="expected nodes of this file to keep, got nothing"):
        int8(file, DATA, tmp_path / "out.onnx", keep=["nothing"])


def test_what_is_kept_really_runs_in_floats_and_all_else_in_integers(file, tmp_path):
    """ONNX Runtime would round the weights of a layer between two rounded tensors by itself."""
    whole = in_integers(int8(file, DATA, tmp_path / "whole.onnx"))
    cut = segments(file, 100)
    assert whole == {name for one in cut for name in one.layers}
    for one in cut:
        out = int8(file, DATA, tmp_path / "out.onnx", keep=one.nodes)
        assert in_integers(out) == whole - set(one.layers), one.layers


def test_layers_that_are_kept_alone_really_run_in_floats(file, tmp_path):
    nodes = prepared(file).graph.node
    for node in [node for node in nodes if node.op_type in LAYERS][1:]:
        assert node.name not in in_integers(int8(file, DATA, tmp_path / "out.onnx", keep=[node.name]))


def test_names_of_nodes_do_not_depend_on_the_weights(file, tmp_path):
    export.to_onnx(trained(residual, 1), SHAPE, tmp_path / "a.onnx")
    export.to_onnx(trained(residual, 2), SHAPE, tmp_path / "b.onnx")
    a, b = (prepared(tmp_path / name).graph.node for name in ("a.onnx", "b.onnx"))
    assert [node.name for node in a] == [node.name for node in b]


# What is chosen


def test_where_integers_are_faster_everywhere_all_is_in_integers(file):
    found = choose(file, device())
    assert found.keep == () and found.uniform == "int8" and found.ratio == 1.0
    assert set(found.policy.values()) == {"int8"} and found.words.startswith("int8 in all")


def test_where_integers_are_faster_nowhere_all_stays_in_floats(file):
    found = choose(file, device(slow=("",)))
    assert found.file == file and found.uniform == "fp32" and found.ratio == 1.0
    assert set(found.policy.values()) == {"fp32"}
    assert found.words == "fp32 in all layers: int8 does not pay in any"


@pytest.mark.parametrize("start", ["int8", "fp32"])
def test_layers_that_integers_slow_down_are_kept_in_floats(tmp_path, start):
    file = tmp_path / "model.onnx"
    export.to_onnx(trained(partial(narrow, 6)), SHAPE, file)
    names = [one.layers[0] for one in segments(file)]
    slow = names[:1] if start == "int8" else names[:4]  # 4 ms each in integers
    found = choose(file, device(tuple(slow)))
    assert found.uniform == start
    for layer, how in zip(names, found.precisions, strict=True):
        assert how == ("fp32" if layer in slow else "int8")
    assert found.ratio < 1 and "fp32 kept" in found.words
    assert integers(found.file) == {name: name not in slow for name in names}
    assert set(found.ran) == set(names) - set(slow)
    assert 0 < int8_share(found.file) < 1
    assert len(found.flips_ms) == len(names) and found.ms > 0
    said = json.loads(json.dumps(found.to_json(tmp_path / "here")))
    assert Mixed.from_json(said, tmp_path / "here") == found
    moved = Mixed.from_json(said, tmp_path / "moved" / "here")
    assert moved.integers == tmp_path / "moved" / found.integers.relative_to(tmp_path), (
        "files move with their folder"
    )


def test_a_flip_whose_conversions_cost_more_than_it_gains_is_not_made(tmp_path):
    file = tmp_path / "model.onnx"
    export.to_onnx(trained(partial(narrow, 6)), SHAPE, file)
    third = segments(file)[2].layers
    assert choose(file, device(third, conversion=2.0)).keep == ()
    assert choose(file, device(third, conversion=0.5)).keep != ()


def test_what_costs_too_many_right_answers_returns_to_floats(tmp_path):
    file = tmp_path / "model.onnx"
    export.to_onnx(trained(partial(narrow, 6)), SHAPE, file)
    layers = [one.layers[0] for one in segments(file)]
    harm = dict(zip(layers, (0.001, 0.05, 0.002, 0.03, 0.001, 0.001), strict=True))

    def error(quantised: Path) -> float:
        return sum(harm[name] for name, whole in integers(quantised).items() if whole)

    found = choose(file, device(), error=error, allowed=0.01)
    assert found.precisions.count("fp32") == 2
    assert found.policy[f"precision.{layer_of(layers[1])}"] == "fp32"
    assert found.policy[f"precision.{layer_of(layers[3])}"] == "fp32"
    assert error(found.file) <= 0.01


def narrow(count: int) -> nn.Module:
    blocks = [convolution(3, 8), *(convolution(8, 8) for _ in range(count - 2))]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
