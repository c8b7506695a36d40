"""Every predictor of latency that learns from a device keeps the contract of predictors."""

import pytest

from nasflow.hardware import fewshot, kernels, networks, roofline, store, table
from nasflow.hardware.fusion import UNFUSED
from nasflow.hardware.fusion import kernels as grouped
from nasflow.hardware.graph import operators
from nasflow.testing.devices import Simulated, Speeds
from nasflow.testing.predictors import NEW, PredictorContract, PredictorUnderTest, chain


def fitted_on_networks(device, files):
    known = [grouped(operators(file), UNFUSED) for file in files]
    return networks.fit(known, [one.p50_ms for one in device.latencies(files)], UNFUSED)


def fitted_on_kernels(device, files):
    told = table.measured(device, table.wanted(files, UNFUSED))
    return kernels.fit(told.ms, told.call_ms)


def all_in_a_table(device, files):
    """A table holds what it was told of and nothing else, so it is told of the new files' kernels too."""
    new = [chain(files[0].parent / f"table{seed}.onnx", seed) for seed in NEW]
    return table.build(device, [*files, *new])


def told_of_ten(device, files):
    known = Simulated(Speeds(gmacs=25.0, gbytes=10.0, start_us=3.0))
    others = [[known.true_ms(file) for file in files]]
    chosen = fewshot.choose(fewshot.encoded(files)[1], others, 10)
    return fewshot.Transfer.of(files, others, {i: device.true_ms(files[i]) for i in chosen})


PREDICTORS = {
    "kernels": PredictorUnderTest(fitted_on_kernels, within=0.15),
    "network": PredictorUnderTest(fitted_on_networks),
    "roofline": PredictorUnderTest(
        lambda device, files: roofline.measured(device), within=0.9, everything=True
    ),
    "table": PredictorUnderTest(all_in_a_table),
    "transfer": PredictorUnderTest(told_of_ten, within=0.3),
}


class TestBuiltIn(PredictorContract):
    @pytest.fixture(params=PREDICTORS, scope="class")
    @classmethod
    def predictor(cls, request):
        return PREDICTORS[request.param]


def test_no_predictor_is_missing_from_the_contract():
    assert set(PREDICTORS) == set(store.KINDS)
