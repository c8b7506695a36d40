"""Layers are measured alone, once each, so that a search can add up milliseconds."""

import onnx
import pytest
from networks import SHAPE, chain, mobile, trained
from tiny import Scripted

from nasflow.compression.layers import layers
from nasflow.compression.prices import LayerTable


def cost(file):
    """A hundredth of a millisecond to begin with, then by the number of weights."""
    weights = [one for one in onnx.load(file).graph.initializer if len(one.dims) > 1]
    return 0.01 + sum(onnx.numpy_helper.to_array(one).size for one in weights) / 1e4


@pytest.mark.parametrize("make", [chain, mobile])
def test_every_layer_has_a_price_that_grows_with_its_channels(make, tmp_path):
    found = layers(trained(make), SHAPE)
    table = LayerTable(Scripted(cost=cost), tmp_path / "table.json")
    for layer in found:
        assert table(layer) == pytest.approx((layer.weights - 1) / 1e4, abs=2e-4)
    narrow = [layer.pruned({layer.makes: 4}) for layer in found if layer.makes and layer.kind == "conv"]
    whole = [layer for layer in found if layer.makes and layer.kind == "conv"]
    assert narrow and all(table(a) < table(b) for a, b in zip(narrow, whole, strict=True))


def test_a_layer_is_measured_once_also_by_another_process(tmp_path):
    asked = []

    def counted(file):
        asked.append(file)
        return cost(file)

    found = layers(trained(chain), SHAPE)
    first = [LayerTable(Scripted(cost=counted), tmp_path / "table.json")(layer) for layer in found]
    times = len(asked)
    assert times <= len(found) + 1
    assert [LayerTable(Scripted(cost=counted), tmp_path / "table.json")(layer) for layer in found] == first
    assert len(asked) == times
