"""What a person fills in to start a flow, in Prefect's page or on its command line, and what it stands for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar

from prefect import Flow, flow
from prefect.runtime import flow_run

from nasflow import runs
from nasflow.errors import NasflowError
from nasflow.experiment import Experiment, load

P = ParamSpec("P")
R = TypeVar("R")

AS_IT_SAYS: Literal["as the experiment says"] = "as the experiment says"
Strategy = Literal["as the experiment says", "nsga2", "tpe", "random", "pymoo-nsga2"]

HELP = {
    "experiment": "A shipped experiment (digits, mnist) or the path of an experiment file, as seen from where"
    " the flow runs.",
    "strategy": "How networks are looked for.",
    "trials": "How many networks are trained during the search; 0: as the experiment says.",
    "overrides": "Any other setting of the experiment, as KEY=VALUE: retrain.epochs=50",
    "folder": "The run's folder; empty: runs/NAME. What is finished there is not done again.",
    "fresh": "Forget what is in the folder and start anew.",
    "wait": "If another run uses the folder, wait for it to end; else the run fails at once.",
    "device": "A device's name (local-cpu), or the path of its profile.",
    "file": "The exported network to measure: a path such as runs/digits/models/trial-3/model.onnx.",
}


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
        return str(given["device"])
    fields = ("experiment", "strategy", "trials", "overrides")
    try:
        return title(asked(**{name: given[name] for name in fields if name in given}))
    except NasflowError:
        return str(given.get("experiment"))


def title(experiment: Experiment) -> str:
    return f"{experiment.name} with {experiment.search.strategy.name}"


def asked(
    experiment: str, strategy: Strategy = AS_IT_SAYS, trials: int = 0, overrides: Sequence[str] = ()
) -> Experiment:
    """The experiment that a filled-in form stands for. Raises NasflowError."""
    chosen = list(overrides)
    if strategy != AS_IT_SAYS:
        chosen.append(f"search.strategy={strategy}")
    if trials:
        chosen.append(f"search.trials={trials}")
    return load(experiment, chosen)


def place(experiment: Experiment, folder: str) -> Path:
    """The folder of a run."""
    return Path(folder) if folder else runs.RUNS / experiment.name
