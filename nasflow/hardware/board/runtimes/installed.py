"""The modules of runtimes, which a board may lack."""

from __future__ import annotations

import importlib
from typing import Any

from ..network import CannotRun


def installed(module: str, package: str) -> Any:
    """A module of a package for pip. Raises CannotRun, saying what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise CannotRun(
            f"{error}; install it where the networks are to run: pip install {package}"
        ) from error
