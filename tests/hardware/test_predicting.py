import pytest

from nasflow.hardware import DeviceError, Latency, Profile, Reach
from nasflow.hardware.fusion import UNFUSED
from nasflow.hardware.predicting import Predicting
from nasflow.hardware.predictor import Accuracy, Built
from nasflow.hardware.table import Table
from nasflow.testing.predictors import chain

PROFILE = Profile(name="my-board", description="a test", reach=Reach(backend="none"))


@pytest.fixture
def device():
    table = Table("my-board", {}, 0.1, UNFUSED)
    return Predicting(PROFILE, Built(table, "my-board", {}, "2026-01-01", Accuracy.of([1.0], [1.0]), 0.05))


class Known:
    """Predicts the same for all."""

    kind = "known"

    def predict(self, files):
        from nasflow.hardware.predictor import Prediction

        return [Prediction(2.0, 0.1) for _ in files]


def test_a_prediction_is_a_latency_that_says_so(device, tmp_path):
    file = chain(tmp_path / "net.onnx", 0)
    device = Predicting(PROFILE, Built(Known(), "my-board", {}, "2026-01-01", device.built.accuracy, 0.05))
    told = device.latency(file)
    assert (told.source, told.p50_ms, told.samples_ms) == ("predicted", 2.0, ())
    assert told.ci == pytest.approx((2 - 0.196, 2 + 0.196))
    assert Latency.from_json(told.to_json()) == told


def test_what_cannot_be_predicted_is_an_error_of_the_device(device, tmp_path):
    with pytest.raises(DeviceError, match=r"my-board: .*no kernel"):
        device.latency(chain(tmp_path / "net.onnx", 0))
    with pytest.raises(DeviceError, match="no file"):
        device.latency(tmp_path / "absent.onnx")


def test_predictions_are_not_compared(device, tmp_path):
    with pytest.raises(DeviceError, match="only measurements can"):
        device.compare(tmp_path / "a.onnx", tmp_path / "b.onnx")
