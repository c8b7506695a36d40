"""What a person fills in to start a flow, in Prefect's page or on its command line, and what it stands for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

from prefect import Flow, flow
from prefect.runtime import flow_run
from pydantic import Field

from nasflow import hardware, names, runs
from nasflow.errors import NasflowError
from nasflow.experiment import Experiment, load

P = ParamSpec("P")
R = TypeVar("R")

AS_IT_SAYS = "as the experiment says"
FACTORS = ("compression", "training")  # spaces that are no networks, but multiply one
SPACES = (
    *(name for name in names.TABLES["space"] if name not in FACTORS),
    *(f"mobile * {name}" for name in FACTORS),
)


def _one_of(*options: str) -> Any:
    return Field(json_schema_extra={"enum": list(options)})


# The form offers these; from Python, one's own are as good: `my_file.py:strategy`, `boards/my-board.yaml`.
Strategy = Annotated[str, _one_of(AS_IT_SAYS, *names.TABLES["strategy"])]
Space = Annotated[str, _one_of(AS_IT_SAYS, *SPACES)]
Device = Annotated[str, _one_of(*hardware.profiles())]
Trials = Annotated[int, Field(ge=0)]

HELP = {
    "experiment": "A shipped experiment (digits, mnist) or the path of an experiment file, as seen from where"
    " the flow runs; to go on with a run: its own, such as runs/digits/experiment.yaml.",
    "space": "Which networks there are to choose from; one of your own is named in the experiment.",
    "strategy": "How networks are looked for; one of your own is named in the experiment.",
    "trials": "How many networks are trained during the search; 0: as the experiment says.",
    "devices": "Where the networks are measured; none: as the experiment says. A board of your own is given below,"
    " as devices=[boards/my-board.yaml].",
    "overrides": "Any other setting of the experiment, as KEY=VALUE: retrain.epochs=50",
    "folder": "The run's folder; empty: runs/NAME. What is finished there is not done again.",
    "fresh": "Forget what is in the folder and start anew.",
    "wait": "If another run uses the folder, wait for it to end; else the run fails at once.",
    "device": "Where to measure.",
    "board": "A board of your own instead: the path of its profile, such as boards/my-board.yaml.",
    "file": "The exported network to measure: a path such as runs/digits/models/trial-3/model.onnx.",
}
CHOICES = (
    "experiment",
    "space",
    "strategy",
    "trials",
    "devices",
    "overrides",
)  # of which an experiment is made


def form(function: Callable[P, R]) -> Flow[P, R]:
    """Make `function` a flow of its name, whose parameters are explained in Prefect's form and whose runs are
    named after their experiment and strategy."""
    what = inspect.getdoc(function) or ""
    told = [f"    {name}: {HELP[name]}" for name in inspect.signature(function).parameters]
    function.__doc__ = "\n".join([what, "", "Args:", *told])
    return flow(
        name=function.__name__.replace("_", "-"),
        description=" ".join(what.split()),
        flow_run_name=_run_name,
    )(function)


def _run_name() -> str:
    """Which experiment a run is about and how it searches: `digits with nsga2`; the device of a profile."""
    given = flow_run.parameters
    if "device" in given:
        return str(given.get("board") or given["device"])
    try:
        return title(asked(**{name: given[name] for name in CHOICES if name in given}))
    except NasflowError:
        return str(given.get("experiment"))


def title(experiment: Experiment) -> str:
    return f"{experiment.name} with {experiment.search.strategy.name}"


def asked(
    experiment: str,
    space: Space = AS_IT_SAYS,
    strategy: Strategy = AS_IT_SAYS,
    trials: int = 0,
    devices: Sequence[Device] = (),
    overrides: Sequence[str] = (),
) -> Experiment:
    """The experiment that a filled-in form stands for. Raises NasflowError."""
    chosen = list(overrides)
    if space != AS_IT_SAYS:
        chosen.append(f"space={space}")
    if strategy != AS_IT_SAYS:
        chosen.append(f"search.strategy={strategy}")
    if trials:
        chosen.append(f"search.trials={trials}")
    if devices:
        chosen.append(f"devices=[{', '.join(devices)}]")
    return load(experiment, chosen)


def place(experiment: Experiment, folder: str) -> Path:
    """The folder of a run."""
    return Path(folder) if folder else runs.RUNS / experiment.name
