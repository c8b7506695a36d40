import json

import onnx
import pytest

from nasflow.hardware.fusion import FusionRules, detect, kernels, pairs
from nasflow.hardware.graph import operators
from nasflow.testing.devices import FUSING, Simulated


@pytest.fixture
def residual(tmp_path):
    """A convolution whose result two others read, and a sum of both ways."""
    text = """<ir_version: 8, opset_import: ["" : 17]> graph (float[1,4,6,6] x) => (float[1,4,6,6] y)
        <float[4,4,1,1] w = {0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1,0.1}>
        { a = Conv(x, w) b = Relu(a) c = Conv(b, w) d = Relu(c) e = Add(d, b) y = Relu(e) }"""
    path = tmp_path / "residual.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return operators(path)


RULES = FusionRules(frozenset({("Conv", "Relu"), ("Relu", "Add"), ("Add", "Relu")}))


def kinds(operators, rules):
    return [one.kind for one in kernels(operators, rules)]


def test_kernels_are_grouped_depth_first_and_a_result_of_several_readers_ends_one(residual):
    assert kinds(residual, FusionRules()) == ["Conv", "Relu", "Conv", "Relu", "Add", "Relu"]
    assert kinds(residual, RULES) == ["Conv+Relu", "Conv+Relu+Add+Relu"]
    shared = FusionRules(RULES.pairs, shared=True)
    assert kinds(residual, shared) == ["Conv+Relu+Add+Relu", "Conv+Relu"], "the first to come takes the sum"


def test_a_kernel_has_the_work_of_its_operators_and_moves_no_results_between_them(residual):
    _, second = kernels(residual, RULES)
    size = 4 * 4 * 6 * 6
    assert second.macs == 6 * 6 * 16
    assert (second.bytes_in, second.bytes_out, second.bytes_weights) == (2 * size, size, 4 * 16)
    assert second.features["2.inputs"] == 2 and second.features["kernel"] == 1


def test_every_operator_is_in_one_kernel(residual):
    for rules in (FusionRules(), RULES, FusionRules(RULES.pairs, shared=True), FUSING):
        found = [one.name for kernel in kernels(residual, rules) for one in kernel.operators]
        assert sorted(found) == sorted(one.name for one in residual)


def test_rules_are_found_by_measuring_pairs_on_a_device(residual):
    asked = pairs([residual])
    assert asked == [("Add", "Relu"), ("Conv", "Relu"), ("Relu", "Add")]
    assert detect(Simulated(rules=FUSING), asked).pairs == {("Conv", "Relu")}
    assert detect(Simulated(), asked).pairs == frozenset()
    sums = FusionRules(frozenset({("Conv", "Add"), ("Add", "Relu")}))
    assert detect(Simulated(rules=sums), [("Conv", "Add"), ("Conv", "Relu"), ("Add", "Relu")]) == sums


def test_rules_survive_json():
    assert FusionRules.from_json(json.loads(json.dumps(RULES.to_json()))) == RULES
