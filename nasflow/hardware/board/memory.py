"""A first try of a network in a process of its own: whether it runs, and the memory it takes above the idle runtime.

The peak resident set as Linux keeps it, VmHWM of /proc/self/status (man 5 proc). The child comes from this process
by fork, with the runtime imported and no network loaded; `idle` is done in it first, so that what a runtime needs
for any network is not counted.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import NamedTuple

from .network import Network

CALLS = 2


class Trial(NamedTuple):
    """`error` is why it does not run; `peak_kb` None where it is not known."""

    error: str | None
    peak_kb: float | None


def trial(load: Callable[[], Network], idle: Callable[[], object], apart: bool) -> Trial:
    """Load a network and call it. `apart` is whether it may be done in a child: not where a device that was opened
    before would be shared with it, and not where no resident set is told."""
    if not apart or sys.platform != "linux":
        try:
            network = load()
            network.block(CALLS)
        except Exception as error:  # a file can be wrong in ways that only show when it is run
            return Trial(str(error), None)
        return Trial(None, network.memory_kb())
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _child(load, idle, writing)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if told:
        return Trial(**json.loads(told))
    by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    how = (
        f"was ended by signal {by} ({signal.strsignal(by)})"
        if by
        else f"exited with {os.WEXITSTATUS(status)}"
    )
    return Trial(f"the runtime {how}" + (": out of memory?" if by == signal.SIGKILL else ""), None)


def _child(load: Callable[[], Network], idle: Callable[[], object], writing: int) -> None:
    try:
        try:
            idle()
            before = _resident("VmRSS")
            with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
                file.write(
                    "5"
                )  # the peak begins anew; a kernel that cannot keeps that of `idle`, which is small
            load().block(CALLS)
            after = _resident("VmHWM")
            peak = max(1.0, after - before) if before is not None and after is not None else None
            told = Trial(None, peak)
        except Exception as error:
            told = Trial(str(error) or type(error).__name__, None)
        with os.fdopen(writing, "w") as pipe:
            json.dump(told._asdict(), pipe)
    finally:
        os._exit(0)


def _resident(name: str) -> float | None:
    """A line of /proc/self/status in kB; None where it has no such line."""
    with open("/proc/self/status") as file:
        found = re.search(rf"^{name}:\s*(\d+) kB$", file.read(), re.MULTILINE)
    return float(found[1]) if found else None
