import numpy as np
import pytest

from nasflow.hardware import networks
from nasflow.hardware.fusion import UNFUSED, kernels
from nasflow.hardware.graph import operators
from nasflow.hardware.predictor import Correction
from nasflow.testing.devices import Simulated, Staircase
from nasflow.testing.predictors import chain


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("networks")
    return [chain(folder / f"{seed}.onnx", seed) for seed in range(60)]


def fitted(device, files):
    known = [kernels(operators(file), UNFUSED) for file in files]
    return networks.fit(known, [one.p50_ms for one in device.latencies(files)], UNFUSED)


def test_a_device_that_adds_up_is_learnt_almost_exactly(files):
    device = Simulated()
    predictor = fitted(device, files[:40])
    off = [
        one.p50_ms / device.true_ms(file) - 1
        for file, one in zip(files[40:], predictor.predict(files[40:]), strict=True)
    ]
    assert np.mean(np.abs(off)) < 0.03


def test_deviations_fit_the_errors_and_grow_with_noise(files):
    told = {}
    for noise in (0.0, 0.2):
        device = Simulated(formula=Staircase(step=12), noise=noise)
        predictions = fitted(device, files[:40]).predict(files[40:])
        errors = [
            one.p50_ms - device.true_ms(file) for file, one in zip(files[40:], predictions, strict=True)
        ]
        z = [error / one.deviation_ms for error, one in zip(errors, predictions, strict=True)]
        assert np.mean(np.abs(z) < 2) > 0.7
        told[noise] = np.mean([one.deviation_ms / one.p50_ms for one in predictions])
    assert told[0.2] > told[0.0]


def test_no_prediction_is_much_shorter_than_what_was_ever_measured(files):
    device = Simulated()
    predictor = fitted(device, files[:20])
    assert predictor.floor_ms == pytest.approx(0.5 * min(map(device.true_ms, files[:20])))
    flipped = networks.Networks(**{**vars(predictor), "weights": -predictor.weights})
    assert flipped.predict(files[:1])[0].p50_ms == predictor.floor_ms


def test_one_network_is_enough_for_a_predictor_of_some_kind(files):
    assert fitted(Simulated(), files[:1]).predict(files[:1])[0].p50_ms > 0


def test_broken_weights_are_refused(files):
    value = fitted(Simulated(), files[:10]).to_json()
    for broken in ([], [[1.0]], [[float("nan")] * len(value["weights"][0])]):
        with pytest.raises(ValueError, match="finite weights"):
            networks.Networks.from_json({**value, "weights": broken})
    with pytest.raises(ValueError, match="above 0"):
        networks.Networks.from_json({**value, "floor_ms": 0.0})


def test_a_refitted_one_keeps_its_correction(files):
    predictor = fitted(Simulated(), files[:10])
    once = predictor.refitted(
        [(file, 2 * one.p50_ms) for file, one in zip(files[:10], predictor.predict(files[:10]), strict=True)]
    )
    assert once.correction != Correction()
    assert networks.Networks.from_json(once.to_json()).correction == once.correction
