import pytest

from nasflow.hardware.board.cores import busy_ticks, fast_cores, least_busy, settle
from nasflow.hardware.board.machine import Machine


def test_it_runs_on_the_least_busy_core_and_does_not_count_itself():
    before, after = {0: 100, 1: 100, 2: 100}, {0: 130, 1: 109, 2: 110}
    assert least_busy(before, after, {}, [0, 1, 2]) == [1, 2, 0]
    assert least_busy(before, after, {2: 10.0}, [0, 1, 2]) == [2, 1, 0]
    assert least_busy(before, before, {}, [0, 1, 2]) == [2, 1, 0], "the first core serves interrupts"
    assert least_busy({}, {}, {}, [0, 1]) == [1, 0]


def test_slow_cores_of_a_board_that_mixes_them_are_left_alone(tmp_path):
    cpu = tmp_path / "sys/devices/system/cpu"
    for core, (file, speed) in enumerate(
        [("cpu_capacity", 300), ("cpu_capacity", 1024), ("cpufreq/cpuinfo_max_freq", 1024)]
    ):
        (cpu / f"cpu{core}" / file).parent.mkdir(parents=True)
        (cpu / f"cpu{core}" / file).write_text(f"{speed}\n")
    assert fast_cores(Machine(str(tmp_path)), [0, 1, 2]) == [1, 2]
    assert fast_cores(Machine(str(tmp_path / "nothing")), [0, 1]) == [0, 1]


def test_idling_and_waiting_for_a_disk_is_no_work(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text("cpu  9 9 9 9 9\ncpu0 1 2 3 400 500 6 0 0 0 0\nintr 5\n")
    assert busy_ticks(Machine(str(tmp_path))) == {0: 12}


def test_a_core_that_is_not_there_is_an_error(monkeypatch):
    monkeypatch.setattr("os.setpriority", lambda *arguments: (_ for _ in ()).throw(PermissionError))
    monkeypatch.setattr("os.environ", {})
    with pytest.raises(SystemExit, match="cannot run on core 4096, only on"):
        settle(1, 4096, lambda: None)
