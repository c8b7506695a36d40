import json

import pytest

from nasflow.hardware import probes, table
from nasflow.hardware.predictor import CannotPredict
from nasflow.hardware.table import Table, additivity, build, key, parsed
from nasflow.testing.devices import FUSING, Simulated


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "network.onnx"
    path.write_bytes(probes.probe("Conv+Relu+DepthwiseConv", {"height": 14.0, "channels_in": 16.0}))
    return path


@pytest.fixture
def other(tmp_path):
    path = tmp_path / "other.onnx"
    path.write_bytes(probes.probe("Conv+Relu+Conv", {"height": 7.0, "channels_in": 16.0}))
    return path


def test_a_prediction_is_the_sum_of_its_parts(file):
    built = build(Simulated(), [file])
    [told] = built.predict([file])
    assert len({name for name, _ in told.parts}) == 3
    assert told.p50_ms == pytest.approx(built.call_ms + sum(ms for _, ms in told.parts))
    assert told.deviation_ms > 0


def test_a_kernel_that_was_not_measured_is_named_with_what_to_do(file, other):
    built = build(Simulated(name="board"), [file], FUSING)
    missing = built.missing([file, other])
    assert len(missing) == 2 and built.missing([file]) == []
    with pytest.raises(
        CannotPredict, match=r"no kernel 'Conv\+Relu batch=1 .*': measure|nasflow profile board --build table"
    ):
        built.predict([other])
    assert built.extended(table.measured(Simulated(), missing).ms).predict([other])[0].p50_ms > 0


def test_every_kernel_is_measured_once(file, other):
    device = Simulated()
    built = build(device, [file, file, other], inside=False)
    assert device.asked == len(built.kernels) + 1, "and a call that computes nothing"


def test_a_key_tells_the_kernel():
    features = {"batch": 1.0, "channels_in": 24.0, "1.inputs": 2.0}
    assert parsed(key("Conv+Add", features)) == ("Conv+Add", features)


def test_inside_a_block_comes_out_nearly_the_same_on_an_additive_device(file, other):
    for rules in (FUSING,):
        device = Simulated(rules=rules)
        for path in (file, other):
            [told] = build(device, [file, other], rules).predict([path])
            assert told.p50_ms == pytest.approx(device.true_ms(path), rel=0.05)


def test_a_table_survives_json_and_is_corrected_by_measurements(file, other):
    built = build(Simulated(), [file, other], FUSING)
    assert Table.from_json(json.loads(json.dumps(built.to_json()))) == built
    before = built.predict([file, other])
    slower = built.refitted([(path, 2 * one.p50_ms) for path, one in zip([file, other], before, strict=True)])
    assert slower.predict([file])[0].p50_ms > 1.4 * before[0].p50_ms
    assert built.refitted([]) == built


@pytest.mark.parametrize("change", [{"call_ms": 0}, {"call_ms": float("nan")}, {"kernels": {"Conv": -1.0}}])
def test_what_is_no_table_is_refused(change):
    good = Table("board", {"Conv batch=1": 0.1}, 0.01).to_json()
    with pytest.raises(ValueError, match="expected times"):
        Table.from_json({**good, **change})


def test_what_cannot_be_checked_on_so_few_networks_is_said(file):
    with pytest.raises(ValueError, match="at least three"):
        additivity(Table("board", {}, 0.01), [(file, 1.0)])
