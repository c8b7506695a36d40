import pytest

from nasflow.hardware.board.environment import Clocks, afterwards, environment, interruptions, quota, turbo
from nasflow.hardware.board.machine import Machine

CPU = "sys/devices/system/cpu"


@pytest.fixture
def write(tmp_path):
    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{text}\n")

    return write


@pytest.fixture
def board(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {2, 3})
    return Machine(str(tmp_path))


def test_what_a_time_depends_on_is_told(board, write):
    write("proc/cpuinfo", "processor : 0\nmodel name : Fast 9\nflags : fpu avx2 fma")
    write("proc/loadavg", "0.25 0.5 1.0 1/80 99")
    write(f"{CPU}/cpu2/cpufreq/scaling_governor", "performance")
    write(f"{CPU}/cpu2/cpufreq/scaling_cur_freq", "2400000")
    write(f"{CPU}/cpu3/cpufreq/scaling_cur_freq", "1200000")
    write("sys/class/thermal/thermal_zone0/type", "cpu-thermal")
    write("sys/class/thermal/thermal_zone0/temp", "51250")
    write("sys/class/thermal/thermal_zone1/type", "gpu-thermal")
    write("sys/class/thermal/thermal_zone1/temp", "48000")
    write("sys/fs/cgroup/cpu.max", "150000 100000")
    told = environment(board, 2, "onnxruntime 1")
    assert told["cpu"] == "Fast 9" and told["flags"] == ["avx2", "fma"] and told["threads"] == 2
    assert told["governor"] == "performance" and told["affinity"] == [2, 3]
    assert told["frequencies_khz"] == {"2": 2400000, "3": 1200000} and told["frequency_khz"] == 2400000
    assert told["temperatures_c"] == {"cpu-thermal": 51.25, "gpu-thermal": 48.0}
    assert told["temperature_c"] == 51.25
    assert told["quota_cores"] == 1.5 and told["load_average"] == [0.25, 0.5, 1.0]
    assert told["runtime"] == "onnxruntime 1" and told["date"].endswith("Z")
    write("sys/class/thermal/thermal_zone0/temp", "60000")
    assert afterwards(board)["temperatures_c_after"]["cpu-thermal"] == 60.0
    assert afterwards(board)["frequencies_khz_after"] == {"2": 2400000, "3": 1200000}


def test_what_cannot_be_told_is_left_out(board):
    told = environment(board, 1, "onnxruntime 1")
    assert None not in told.values() and "" not in told.values()
    assert (
        not {"governor", "turbo", "temperatures_c", "temperature_c", "frequency_khz", "quota_cores"}
        & told.keys()
    )
    assert afterwards(board) == {} and Clocks(board).told() == {}


def test_a_phone_behind_a_shell_is_not_taken_for_this_machine():
    told = environment(Machine(shell=("false",)), 1, "benchmark_model")
    assert told.keys() == {"threads", "runtime", "date"}


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("intel_pstate/no_turbo", "0", True),
        ("intel_pstate/no_turbo", "1", False),
        ("cpufreq/boost", "1", True),
        ("cpufreq/boost", "0", False),
    ],
)
def test_turbo_is_told_whichever_driver_tells_it(board, write, file, text, said):
    assert turbo(board) is None
    write(f"{CPU}/{file}", text)
    assert turbo(board) is said


def test_older_control_groups_have_a_quota_too(board, write):
    assert quota(board) is None
    write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000")
    write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    assert quota(board) == 0.5


def test_what_took_the_core_away_is_counted(board, write):
    write("proc/stat", "cpu  1 2 3 4 5 6 7 88 0 0\ncpu0 1 2 3 4 5 6 7 88 0 0")
    write("sys/fs/cgroup/cpu.stat", "usage_usec 9\nnr_periods 5\nnr_throttled 3")
    write(f"{CPU}/cpu2/thermal_throttle/core_throttle_count", "4")
    write(f"{CPU}/cpu3/thermal_throttle/core_throttle_count", "5")
    counts = interruptions(board)
    assert counts.pop("preemptions") >= 0
    assert counts == {"stolen_ticks": 88, "quota_throttled": 3, "heat_throttled": 9}


def test_changes_of_a_clock_are_counted_and_its_jitter_is_not(board, write):
    clock = f"{CPU}/cpu2/cpufreq/scaling_cur_freq"
    write(clock, "2000000")
    clocks = Clocks(board)
    for khz in (2040000, 1990000, 1000000, 1000000, 2000000):
        write(clock, khz)
        clocks.look()
    assert clocks.told() == {"clock_changes": 2}
