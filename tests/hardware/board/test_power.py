import contextlib
import sys

import pytest

from nasflow.hardware.board import power
from nasflow.hardware.board.machine import Machine
from nasflow.hardware.board.power import Idle, Unavailable


class World:
    """A clock, and a machine in files whose power is `idle` watts, and `busy` watts while something is called."""

    def __init__(self, root):
        self.root, self.now, self.energy, self.idle, self.busy, self.update = (
            root,
            0,
            0.0,
            4.0,
            10.0,
            lambda: None,
        )

    def clock(self):
        return self.now

    def pass_(self, seconds, watts):
        self.now += round(1e9 * seconds)
        self.energy += seconds * watts
        self.watts = watts
        self.update()

    def sleep(self, seconds):
        self.pass_(seconds, self.idle)

    def block(self, calls):
        self.pass_(0.002 * calls, self.busy)
        return [2_000_000] * calls

    def write(self, path, text):
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(f"{text}\n")

    @property
    def machine(self):
        return Machine(str(self.root))

    def measure(self, meter):
        rest = power.idle(meter, self.clock, self.sleep)
        return power.energy(self.block, 2e6, meter, rest, self.clock)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def rapl(world, span, start=0):
    zone = "sys/class/powercap/intel-rapl:0"
    world.write(f"{zone}/name", "package-0")
    world.write(f"{zone}/max_energy_range_uj", span)
    world.update = lambda: world.write(f"{zone}/energy_uj", round(start + 1e6 * world.energy) % span)
    world.update()


@pytest.mark.parametrize("start", [0, 259_999_000], ids=["from zero", "over the end of the counter"])
def test_the_counter_of_a_processor_gives_what_calls_take_above_idle(world, start):
    rapl(world, 260_000_000, start)
    found = world.measure(power.rapl(world.machine, world.clock))
    assert (
        found.source == "RAPL package-0"
        and found.idle_w == pytest.approx(4.0)
        and found.active_w == pytest.approx(10.0)
    )
    assert found.mj == pytest.approx(6.0 * 2.0)  # 6 W above idle for 2 ms
    assert found.seconds >= 1.0 and found.calls >= 500 and found.hz == pytest.approx(50, rel=0.05)


def test_memory_with_a_counter_of_its_own_is_added_and_parts_of_a_package_are_not(world):
    for zone, name in (("0", "package-0"), ("0:0", "core"), ("0:1", "dram"), ("1", "psys")):
        world.write(f"sys/class/powercap/intel-rapl:{zone}/name", name)
        world.write(f"sys/class/powercap/intel-rapl:{zone}/max_energy_range_uj", 10**9)
        world.write(f"sys/class/powercap/intel-rapl:{zone}/energy_uj", 5)
    meter = power.rapl(world.machine, world.clock)
    assert meter.source == "RAPL package-0+dram"
    for zone in ("0", "0:0", "0:1", "1"):
        world.write(f"sys/class/powercap/intel-rapl:{zone}/energy_uj", 1_000_005)
    assert meter.joules() == pytest.approx(2.0)


def test_counters_that_only_administrators_may_read_are_unavailable(world):
    world.write("sys/class/powercap/intel-rapl:0/name", "package-0")
    with pytest.raises(Unavailable, match=r"only administrators may read .*energy_uj"):
        power.rapl(world.machine, world.clock)


def test_too_little_above_idle_is_unavailable_with_the_reason(world):
    rapl(world, 260_000_000)
    world.busy = 4.02
    with pytest.raises(
        Unavailable, match=r"RAPL package-0 rose by 0\.02 W over 4 W of idling, .* above 0\.04 W"
    ):
        world.measure(power.rapl(world.machine, world.clock))


def test_an_unsteady_idle_power_asks_for_more(world):
    rapl(world, 260_000_000)
    meter = power.rapl(world.machine, world.clock)
    assert power.energy(world.block, 2e6, meter, Idle(4.0, 1.9), world.clock).mj > 0
    with pytest.raises(Unavailable):
        power.energy(world.block, 2e6, meter, Idle(4.0, 2.1), world.clock)


def test_the_sensor_of_a_jetson_is_summed_up_over_time(world):
    chip = "sys/class/hwmon/hwmon3"
    world.write(f"{chip}/name", "ina3221")
    for i, label in enumerate(("VDD_IN", "VDD_CPU_GPU_CV", "NC"), start=1):
        world.write(f"{chip}/in{i}_label", label)
        world.write(f"{chip}/in{i}_input", 5000)
        world.write(f"{chip}/curr{i}_input", 1)
    world.watts = world.idle
    world.update = lambda: world.write(f"{chip}/curr1_input", round(200 * world.watts))
    world.update()
    found = world.measure(power.tegra(world.machine, world.clock))
    assert found.source == "INA3221 VDD_IN" and found.mj == pytest.approx(12.0, rel=0.05)


def test_rails_without_a_total_are_added(world):
    for i, (label, milliwatts) in enumerate([("VDD_GPU_SOC", 2000), ("VDD_CPU_CV", 1000)]):
        world.write(f"sys/bus/i2c/drivers/ina3221x/1-0040/iio:device0/rail_name_{i}", label)
        world.write(f"sys/bus/i2c/drivers/ina3221x/1-0040/iio:device0/in_power{i}_input", milliwatts)
    meter = power.tegra(world.machine, world.clock)
    world.now += 10**9
    assert meter.source == "INA3221 VDD_CPU_CV+VDD_GPU_SOC" and meter.joules() == pytest.approx(3.0)


def battery(world, **values):
    for name, value in {"type": "Battery", "status": "Discharging", **values}.items():
        world.write(f"sys/class/power_supply/battery/{name}", value)


def test_a_battery_tells_power_whichever_sign_its_maker_gave_the_current(world):
    for values in ({"voltage_now": 4_000_000, "current_now": -500_000}, {"power_now": 2_000_000}):
        battery(world, **values)
        meter = power.battery(world.machine, world.clock)
        world.now += 10**9
        assert meter.joules() == pytest.approx(2.0)


def test_a_battery_that_is_charged_tells_nothing(world):
    battery(world, status="Charging", power_now=1)
    with pytest.raises(Unavailable, match="being charged"):
        power.battery(world.machine, world.clock)


def program(tmp_path, name, text):
    file = tmp_path / name
    file.write_text(f"#!{sys.executable}\n{text}")
    file.chmod(0o755)


@pytest.mark.parametrize(
    ("look", "name", "says", "watts"),
    [
        (power.nvidia, "nvidia-smi", "61.5", 61.5),
        (power.tegra, "tegrastats", "RAM 1/2MB CPU [5%@1] VDD_IN 4220mW/4100mW VDD_SOC 1mW/1mW", 4.22),
        (power.tegra, "tegrastats", "RAM 1/2MB POM_5V_IN 2532/2532 POM_5V_GPU 0/0", 2.532),
    ],
    ids=["nvidia-smi", "tegrastats", "tegrastats before JetPack 5"],
)
def test_a_program_that_goes_on_telling_is_listened_to(world, tmp_path, monkeypatch, look, name, says, watts):
    program(
        tmp_path,
        name,
        f"print('hello', flush=True)\nprint('{says}', flush=True)\nimport time\ntime.sleep(60)",
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    meter = look(world.machine, world.clock)
    world.now += 2 * 10**9
    assert meter.joules() == pytest.approx(2 * watts)
    meter.close()


def test_a_program_that_stops_telling_is_not_believed(world, tmp_path, monkeypatch):
    program(tmp_path, "nvidia-smi", "print('60.0')")
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        contextlib.ExitStack() as stack,
        pytest.raises(Unavailable, match="has stopped telling"),  # at once, or after its first answer
    ):
        meter = power.nvidia(world.machine, world.clock)
        stack.callback(meter.close)
        while True:
            meter.joules()


def test_the_battery_of_a_phone_that_forbids_its_files_is_asked_through_its_shell(world, tmp_path):
    program(
        tmp_path, "adb",
        "import sys\nassert sys.argv[1] == 'shell'\n"
        "print('  status: 3\\n  voltage: 4000\\n  current now: -500') if sys.argv[2] == 'dumpsys' else sys.exit(1)",
    )  # fmt: skip
    meter = power.find(Machine(shell=(str(tmp_path / "adb"), "shell")), clock=world.clock)
    world.now += 10**9
    assert meter.source == "battery (dumpsys)" and meter.joules() == pytest.approx(2.0)


def test_without_a_meter_the_reason_says_what_was_looked_for(world, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match="no RAPL counters; no INA3221; no battery"):
        power.find(world.machine)
    with pytest.raises(Unavailable, match="no INA3221; no nvidia-smi"):
        power.find(world.machine, "cuda")
