import json

import pytest

from nasflow.hardware import probes, roofline
from nasflow.hardware.graph import operators
from nasflow.hardware.predictor import CannotPredict
from nasflow.hardware.roofline import Roofline
from nasflow.testing.devices import Simulated, Speeds

BOARD = Roofline(gmacs=10, memory_gbs=5, cache_gbs=50, call_ms=0.02)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "network.onnx"
    path.write_bytes(probes.probe("Conv+Relu", {"height": 14.0, "channels_in": 16.0}))
    return path


def test_the_bound_is_work_or_bytes_of_each_kernel_and_the_call(file):
    conv, relu = operators(file)
    work_ms = conv.macs / 10e6
    bytes_ms = (relu.bytes_in + relu.bytes_out) / 50e6
    [told] = BOARD.predict([file])
    assert told.p50_ms == BOARD.bound_ms(file) == pytest.approx(0.02 + work_ms + bytes_ms)
    assert [ms for _, ms in told.parts] == pytest.approx([work_ms, bytes_ms])


def test_rates_come_from_five_files_and_a_large_one():
    device = Simulated(Speeds(gmacs=30, gbytes=8, start_us=0.0))
    found = roofline.measured(device)
    assert device.asked == 6
    assert found.gmacs == pytest.approx(30, rel=0.05) and found.memory_gbs == pytest.approx(8, rel=0.01)
    assert found.cache_gbs == pytest.approx(8, rel=0.01) and found.call_ms == pytest.approx(device.call_ms)


def test_it_survives_json_and_refitted_it_is_an_estimate(file):
    assert Roofline.from_json(json.loads(json.dumps(BOARD.to_json()))) == BOARD
    fitted = BOARD.refitted([(file, 3 * BOARD.bound_ms(file))] * 4)
    assert fitted.predict([file])[0].p50_ms > 2 * BOARD.bound_ms(file)
    assert fitted.bound_ms(file) == pytest.approx(BOARD.bound_ms(file))


def test_what_is_no_roofline_or_no_network_is_said(tmp_path):
    with pytest.raises(ValueError, match="rates above 0"):
        Roofline(gmacs=0, memory_gbs=1, cache_gbs=1, call_ms=1)
    with pytest.raises(CannotPredict, match="no file"):
        BOARD.predict([tmp_path / "missing.onnx"])
