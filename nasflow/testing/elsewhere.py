"""Calls a function in a process of its own, to see what it does there or how it dies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import cloudpickle

PROGRAM = "import sys, cloudpickle; cloudpickle.load(sys.stdin.buffer)()"


def call(
    function: Callable[[], object], *, timeout_s: float = 120.0, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    """How the process ended and what `function` printed; it imports from where this process does."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=cloudpickle.dumps(function),
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        check=False,
        timeout=timeout_s,
    )
