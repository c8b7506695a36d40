"""What all tests share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tiny import Finished

# A slow example on a busy machine is no failure.
settings.register_profile("nasflow", deadline=None)
settings.load_profile("nasflow")


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A whole run, carried out once for all tests; those that change something take a copy of its folder."""
    import tiny  # loads torch, which most tests do without

    return tiny.finish(tmp_path_factory.mktemp("finished"))


@pytest.fixture(autouse=True)
def tiny_numbers() -> Iterator[None]:
    """What measures a network makes tiny numbers zero, for good and in all of its process: not for the next test."""
    yield
    if "onnxruntime" in sys.modules or "torch" in sys.modules:
        import torch

        torch.set_flush_denormal(False)
