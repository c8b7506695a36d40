"""Where a file's time goes: every kernel with its work, none of the work twice or lost."""

import pytest

from nasflow.evaluators.layers import _grouped, foretold, profiled
from nasflow.hardware.graph import operators
from nasflow.hardware.roofline import Roofline
from nasflow.testing.predictors import chain


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return chain(tmp_path_factory.mktemp("layers") / "chain.onnx", 0)


def test_all_multiply_adds_of_a_file_are_those_of_its_kernels(file):
    layers = profiled(file)
    assert sum(layer.macs or 0 for layer in layers) == sum(one.macs for one in operators(file))
    assert all(layer.ms >= 0 for layer in layers) and sum(layer.ms for layer in layers) > 0
    assert all(layer.bytes for layer in layers if layer.macs)


def test_a_predictor_of_kernels_says_where_it_expects_the_time_to_go(file):
    roofline = Roofline(gmacs=10.0, memory_gbs=10.0, cache_gbs=20.0, call_ms=0.001)
    layers = foretold(file, roofline)
    assert [layer.kind for layer in layers] == [one.kind for one in operators(file)]
    assert sum(layer.macs or 0 for layer in layers) == sum(one.macs for one in operators(file))


def test_what_the_runtime_rewrote_is_still_known(file):
    whole = operators(file)
    convolutions = [one for one in whole if "Conv" in one.kind]
    names = [f"{one.outputs[0]}_nchwc" for one in convolutions[:1]]
    names += [f"{one.name}_token_{index}" for index, one in enumerate(convolutions[1:])]
    groups = _grouped({**dict.fromkeys(names, "Conv"), "ReorderOutput_token_7": "ReorderOutput"}, whole)
    assert [groups[name][0] for name in names] == convolutions
    assert [groups[name][1].kind for name in names] == ["Relu"] * len(names)
