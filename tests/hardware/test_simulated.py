import pytest

from nasflow.hardware import probes
from nasflow.hardware.fusion import kernels
from nasflow.hardware.graph import operators
from nasflow.testing.devices import FUSING, Simulated, Speeds, Staircase


@pytest.fixture
def files(tmp_path):
    made = []
    for channels in (16.0, 20.0, 24.0):
        made.append(tmp_path / f"{channels:g}.onnx")
        made[-1].write_bytes(probes.probe("Conv+Relu", {"height": 14.0, "channels_out": channels}))
    return made


def test_a_simulated_device_takes_its_call_and_what_the_formula_says_of_each_kernel(files):
    device, speeds = Simulated(), Speeds()
    told = device.latency(files[0]).p50_ms
    assert (
        told
        == device.true_ms(files[0])
        == device.call_ms + sum(speeds(one) for one in kernels(operators(files[0]), device.rules))
    )
    assert Simulated(rules=FUSING).true_ms(files[0]) < told


def test_channels_on_one_step_of_a_staircase_cost_the_same_work(files):
    device = Simulated(Staircase(8, Speeds(gbytes=1e9, start_us=0.0)), FUSING)
    low, between, high = map(device.true_ms, files)
    assert low < between == pytest.approx(high, rel=1e-6)


def test_noise_is_the_same_for_the_same_seed(files):
    first, again = ([one.p50_ms for one in Simulated(noise=0.05, seed=3).latencies(files)] for _ in range(2))
    assert first == again != [one.p50_ms for one in Simulated().latencies(files)]
    assert Simulated(noise=0.01).compare(files[0], files[2]).verdict == "slower"
