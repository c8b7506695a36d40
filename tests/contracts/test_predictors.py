"""Every predictor of latency keeps the contract of predictors."""

import pytest

from nasflow.hardware import networks
from nasflow.hardware.fusion import UNFUSED, kernels
from nasflow.hardware.graph import operators
from nasflow.testing.predictors import PredictorContract, PredictorUnderTest


def fitted_on_networks(device, files):
    known = [kernels(operators(file), UNFUSED) for file in files]
    return networks.fit(known, [one.p50_ms for one in device.latencies(files)], UNFUSED)


PREDICTORS = {"network": PredictorUnderTest(fitted_on_networks)}


class TestBuiltIn(PredictorContract):
    @pytest.fixture(params=PREDICTORS, scope="class")
    @classmethod
    def predictor(cls, request):
        return PREDICTORS[request.param]
