"""The first stage: data read and counted, space opened, devices asked whether they answer."""

from __future__ import annotations

import math
from typing import Any

from nasflow.evaluators.counts import Counts
from nasflow.space import Choice
from nasflow.stages.run import Run


def define(run: Run) -> dict[str, Any]:
    """Find out whether the run is possible before anything is trained, and write down what it is about."""
    return run.carry_out("define", lambda: _define(run))


def _define(run: Run) -> dict[str, Any]:
    data, space = run.data, run.architecture.space()
    for device in run.devices:
        device.check()
    smallest, largest = (
        Counts(run.architecture)(
            {p.name: p.options[at] if isinstance(p, Choice) else p.at(-at) for p in space.parameters}
        )
        for at in (0, -1)
    )
    size = space.size
    points = "infinitely many points" if math.isinf(size) else f"{int(size):,} points"
    return {
        "message": f"{len(data.train.y):,} training images of {'x'.join(map(str, data.shape))}, {points}",
        "data": {
            "name": data.name,
            "sha256": data.sha256,
            "shape": list(data.shape),
            "classes": len(data.classes),
            "train": len(data.train.y),
            "validation": len(data.validation.y),
            "skipped": dict(data.skipped),
        },
        "space": {
            "size": None if math.isinf(size) else int(size),
            "parameters": len(space.parameters),
            "first": dict(smallest),
            "last": dict(largest),
        },
    }
