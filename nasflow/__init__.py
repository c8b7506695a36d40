"""nasflow: from a dataset and a list of devices to a certified Pareto set of deployable networks.

What scripts and notebooks need is here by name. A name costs its imports when it is first used, so that
`import nasflow` itself costs nothing; __init__.pyi says the same to type checkers.
"""

import importlib as _importlib

__version__ = "0.1.0"

_HOMES = {
    "api": ("Deployed", "Fit", "fit"),
    "data": ("Data", "DataSettings", "Preprocess", "Split"),
    "errors": ("NasflowError",),
    "experiment": ("Experiment", "load_experiment"),
    "loop": ("Evaluate", "Outcome", "Strategy", "run"),
    "pool": ("InProcess", "Processes"),
    "record": ("open_record",),
    "space": ("Choice", "Point", "Real", "Space"),
    "strategies.nsga2": ("nsga2",),
    "strategies.optuna_samplers": ("tpe",),
    "strategies.random": ("random_search",),
    "study": ("Objective", "Proposal", "Study", "Trial"),
}
_CALLED_AT_HOME = {"load_experiment": "load"}

__all__ = sorted(name for names in _HOMES.values() for name in names)


def __getattr__(name: str) -> object:
    for home, names in _HOMES.items():
        if name in names:
            module = _importlib.import_module(f"nasflow.{home}")
            found = getattr(module, _CALLED_AT_HOME.get(name, name))
            globals()[name] = found
            return found
    raise AttributeError(f"module 'nasflow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
