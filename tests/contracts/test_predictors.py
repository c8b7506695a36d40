"""Every predictor of latency that learns from a device keeps the contract of predictors."""

import pytest

from nasflow.hardware import kernels, networks, roofline, table
from nasflow.hardware.fusion import UNFUSED
from nasflow.hardware.fusion import kernels as grouped
from nasflow.hardware.graph import operators
from nasflow.testing.predictors import PredictorContract, PredictorUnderTest


def fitted_on_networks(device, files):
    known = [grouped(operators(file), UNFUSED) for file in files]
    return networks.fit(known, [one.p50_ms for one in device.latencies(files)], UNFUSED)


def fitted_on_kernels(device, files):
    times, call_ms = table.measured(device, table.wanted(files, UNFUSED))
    return kernels.fit(times, call_ms)


PREDICTORS = {
    "kernels": PredictorUnderTest(fitted_on_kernels, within=0.15),
    "network": PredictorUnderTest(fitted_on_networks),
    "roofline": PredictorUnderTest(
        lambda device, files: roofline.measured(device), within=0.9, everything=True
    ),
}


class TestBuiltIn(PredictorContract):
    @pytest.fixture(params=PREDICTORS, scope="class")
    @classmethod
    def predictor(cls, request):
        return PREDICTORS[request.param]
