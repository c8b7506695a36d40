"""How a benchmark leaves its result: one JSON file for each bar, with the command and the machine that made it."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from nasflow.files import write_json

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("nasflow", "numpy", "onnxruntime", "optuna", "pymoo", "torch")


def write(bar: str, *, goal: str | None, value: float | None, holds: bool | None, **details: Any) -> None:
    """Write `results/{bar}.json` and say what it says. `bar` is `topic-bar`; `goal` says units and direction.

    What is a measurement and not a bar has neither goal nor value, and holds nothing: None each.
    """
    result = {
        "bar": bar,
        "goal": goal,
        "value": None if value is None else float(value),
        "holds": None if holds is None else bool(holds),
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *_arguments(sys.argv[1:])]),
        "machine": machine(),
        "date": time.strftime("%Y-%m-%d"),
        **details,
    }
    write_json(RESULTS / f"{bar}.json", result)
    if holds is None:
        print(f"measured: {bar}")
        return
    shown = "nothing" if value is None else f"{value:.4g}"
    print(f"{'holds' if holds else 'FAILS'}: {bar}: {shown} ({goal})")


def _arguments(given: list[str]) -> list[str]:
    """The command line without where the run was kept, which is nobody else's folder."""
    at = given.index("--out") if "--out" in given else len(given)
    return given[:at] + given[at + 2 :]


def machine() -> dict[str, Any]:
    """The machine in words and numbers; no names that lead back to it."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


def _cpu() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
