"""What every runtime of the board program promises, as tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from nasflow.hardware.board.network import CannotRun, Network
from nasflow.hardware.board.runtimes import Runtime


@dataclass(frozen=True)
class RuntimeUnderTest:
    """`open` gives the runtime, with whatever stands in for what is not installed; `file` is a tiny network of one
    that it reads, whose first axis is free where `any_batch`."""

    open: Callable[[], Runtime]
    file: Path
    any_batch: bool = True


class RuntimeContract:
    """Subclass it and override the fixture `runtime`."""

    @pytest.fixture
    def runtime(self) -> RuntimeUnderTest:
        raise NotImplementedError("override this fixture: return a RuntimeUnderTest")

    def test_tells_its_version(self, runtime: RuntimeUnderTest) -> None:
        one = runtime.open()
        assert one.version() == one.version() and " " in one.version().strip()
        assert one.reads and all(suffix.startswith(".") for suffix in one.reads)
        assert runtime.file.suffix in one.reads

    def test_times_calls_in_nanoseconds(self, runtime: RuntimeUnderTest) -> None:
        network = _load(runtime.open(), runtime.file)
        times = network.block(3)
        assert 1 <= len(times) <= 3, "one time a call, or one for all of them"
        assert all(isinstance(ns, int) and 0 < ns < 60 * 10**9 for ns in times)
        assert network.batch == 1

    def test_every_load_is_a_network_of_its_own(self, runtime: RuntimeUnderTest) -> None:
        one = runtime.open()
        first, second = _load(one, runtime.file), _load(one, runtime.file)
        assert first.block(1) and second.block(1) and first.block(1)

    def test_takes_the_threads_it_is_given(self, runtime: RuntimeUnderTest) -> None:
        assert _load(runtime.open(), runtime.file, threads=2).block(1)

    def test_another_batch_is_run_or_refused_and_never_ignored(self, runtime: RuntimeUnderTest) -> None:
        if runtime.any_batch:
            network = _load(runtime.open(), runtime.file, batch=3)
            assert network.batch == 3 and network.block(1)
            return
        try:
            assert _load(runtime.open(), runtime.file, batch=3).batch == 1
        except CannotRun as error:
            assert "got 3" in str(error)

    def test_a_file_that_is_no_network_is_refused(self, runtime: RuntimeUnderTest, tmp_path: Path) -> None:
        broken = tmp_path / f"broken{runtime.file.suffix}"
        broken.write_bytes(b"not a network, but long enough to be looked at by those who look at sizes first")
        with pytest.raises(CannotRun) as refused:
            _load(runtime.open(), broken).block(1)
        assert str(refused.value), "the reason is said"

    def test_a_file_that_is_not_there_is_refused(self, runtime: RuntimeUnderTest, tmp_path: Path) -> None:
        with pytest.raises(CannotRun):
            _load(runtime.open(), tmp_path / f"none{runtime.file.suffix}").block(1)


def _load(runtime: Runtime, file: Path, threads: int = 1, batch: int = 1) -> Network:
    return runtime.load(str(file), threads, batch, np.random.default_rng(0))
