"""Nothing leaves the machine unless the user says so, whichever module is imported first."""

from __future__ import annotations

import doctest
import os
import subprocess
import sys

import pytest

from flows import environment
from flows.environment import DEFAULTS

PROGRAM = "import flows.environment, os, sys; print(*(os.environ[name] for name in sys.argv[1:]))"


def seen(names: list[str], **environ: str) -> list[str]:
    """What a process finds in its environment once it has imported anything of flows."""
    clean = {key: value for key, value in os.environ.items() if key not in DEFAULTS}
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, *names],
        env={**clean, **environ},
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout.split()


def test_examples_in_docstrings_hold() -> None:
    assert doctest.testmod(environment).failed == 0


def test_telemetry_is_off_before_prefect_or_mlflow_can_be_imported() -> None:
    assert seen(["DO_NOT_TRACK", "PREFECT_SERVER_ANALYTICS_ENABLED", "MLFLOW_DISABLE_TELEMETRY"]) == [
        "true",
        "false",
        "true",
    ]


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_the_user_set_stays(name: str) -> None:
    environ = {name: "7"}
    environment.prepare(environ)
    assert environ == {**DEFAULTS, name: "7"}
