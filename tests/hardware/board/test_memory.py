import os
import signal
import sys

import pytest

from nasflow.hardware.board.memory import trial
from nasflow.hardware.board.network import CannotRun, Network

linux = pytest.mark.skipif(sys.platform != "linux", reason="the peak is told by Linux only")


def network(megabytes):
    def load():
        kept = bytearray(os.urandom(1)) * (megabytes << 20)
        return Network(lambda calls: [len(kept)] * calls, 1, memory_kb=lambda: 17.0)

    return load


@linux
def test_the_peak_is_what_the_network_takes_above_idle():
    found = trial(network(40), network(1), apart=True)
    assert found.error is None and 38_000 < found.peak_kb < 50_000


@linux
def test_what_any_network_takes_is_not_counted():
    held = []

    def idle():
        held.append(bytearray(b"x") * (30 << 20))

    assert trial(network(1), idle, apart=True).peak_kb < 10_000


def test_a_network_that_cannot_run_is_told_why():
    def load():
        raise CannotRun("no operator Frob")

    for apart in (True, False):
        assert trial(load, lambda: None, apart).error == "no operator Frob"


@linux
def test_a_runtime_that_crashes_takes_nothing_along():
    def load():
        os.kill(os.getpid(), signal.SIGSEGV)

    found = trial(load, lambda: None, apart=True)
    assert found.error.startswith("the runtime was ended by signal 11") and found.peak_kb is None


def test_in_this_process_only_what_the_runtime_tells_is_known():
    assert trial(network(1), lambda: None, apart=False) == (None, 17.0)
