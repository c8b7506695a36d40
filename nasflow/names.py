"""Turns the names in experiment files into Python objects: the only place that does.

A built-in name stands in a table below and costs nothing until it is asked for. Something of one's own is
named by where it lives, seen from the current folder: `my_module:thing`, `my_package.my_module`,
`my_file.py:thing`.
"""

import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from nasflow.errors import NasflowError

T = TypeVar("T")

TABLES: dict[str, dict[str, str]] = {
    "strategy": {
        "aging-evolution": "nasflow.strategies.evolution:aging_evolution",
        "area": "nasflow.strategies.evolution:area",
        "asha": "nasflow.strategies.asha:asha",
        "auto": "nasflow.strategies.auto:auto",
        "bohb": "nasflow.strategies.bohb:bohb",
        "ehvi": "nasflow.strategies.ehvi:ehvi",
        "hype": "nasflow.strategies.hype:hype",
        "hyperband": "nasflow.strategies.hyperband:hyperband",
        "ibea": "nasflow.strategies.ibea:ibea",
        "localsearch": "nasflow.strategies.local_search:local_search",
        "mo-asha": "nasflow.strategies.asha:mo_asha",
        "nehvi": "nasflow.strategies.ehvi:nehvi",
        "nsga2": "nasflow.strategies.nsga2:nsga2",
        "optuna-cmaes": "nasflow.strategies.optuna_cmaes:cmaes",
        "optuna-gp": "nasflow.strategies.optuna_samplers:gp",
        "optuna-grid": "nasflow.strategies.grid:grid",
        "optuna-nsga2": "nasflow.strategies.optuna_samplers:nsga2",
        "optuna-nsga3": "nasflow.strategies.optuna_samplers:nsga3",
        "optuna-qmc": "nasflow.strategies.optuna_samplers:qmc",
        "optuna-tpe": "nasflow.strategies.optuna_samplers:tpe_univariate",
        "optuna-tpe-mv": "nasflow.strategies.optuna_samplers:tpe",
        "parego": "nasflow.strategies.parego:parego",
        "pbi": "nasflow.strategies.scalarised:pbi",
        "pymoo-agemoea": "nasflow.strategies.pymoo_algorithms:agemoea",
        "pymoo-moead": "nasflow.strategies.pymoo_algorithms:moead",
        "pymoo-nsga2": "nasflow.strategies.pymoo_algorithms:nsga2",
        "pymoo-nsga3": "nasflow.strategies.pymoo_algorithms:nsga3",
        "pymoo-rvea": "nasflow.strategies.pymoo_algorithms:rvea",
        "pymoo-smsemoa": "nasflow.strategies.pymoo_algorithms:smsemoa",
        "racing": "nasflow.strategies.racing:racing",
        "random": "nasflow.strategies.random:random_search",
        "successive-halving": "nasflow.strategies.successive_halving:successive_halving",
        "tchebycheff": "nasflow.strategies.scalarised:tchebycheff",
        "tpe": "nasflow.strategies.optuna_samplers:tpe",
        "weighted-sum": "nasflow.strategies.scalarised:weighted_sum",
    },
    "pruner": {  # strategies that know of nothing but a network's channels
        "amc": "nasflow.compression.amc:amc",
    },
    "space": {
        "compression": "nasflow.compression.joint",
        "darts": "nasflow.spaces.darts",
        "mobile": "nasflow.spaces.mobile",
        "nasbench101": "nasflow.spaces.nasbench101",
        "nasbench201": "nasflow.spaces.nasbench201",
        "nats-size": "nasflow.spaces.nats",
        "ofa-mobilenetv3": "nasflow.spaces.ofa",
        "training": "nasflow.spaces.training",
    },
    "criterion": {
        "bn-scale": "nasflow.compression.criteria:bn_scale",
        "fpgm": "nasflow.compression.criteria:fpgm",
        "group-magnitude": "nasflow.compression.criteria:group_magnitude",
        "group-taylor": "nasflow.compression.criteria:group_taylor",
        "hessian": "nasflow.compression.criteria:hessian",
        "l1": "nasflow.compression.criteria:l1",
        "l2": "nasflow.compression.criteria:l2",
        "lamp": "nasflow.compression.criteria:lamp",
        "random": "nasflow.compression.criteria:random",
        "taylor": "nasflow.compression.criteria:taylor",
    },
    "penalty": {
        "bn-scales": "nasflow.compression.sparse:bn_scales",
        "group-norms": "nasflow.compression.sparse:group_norms",
    },
    "data": {},  # data.py knows its own formats; a function of the user's own is named like everything else
    "model": {},  # always the user's own
}


class UnknownName(NasflowError, ValueError):
    """A name that stands for nothing; the message lists what there is."""


def nearest(name: str, options: Iterable[str]) -> str:
    """What to say after an unknown name: the likeliest meant ones, then all there are.

    >>> nearest("ranodm", ["random", "tpe"])
    "did you mean 'random'? Known: random, tpe"
    >>> nearest("x", ["random", "tpe"])
    'known: random, tpe'
    >>> nearest("x", [])
    'there is none'
    """
    known = sorted(options)
    if not known:
        return "there is none"
    # Compared in lower case, because a capital is the likeliest slip of all.
    spelt = {option.lower(): option for option in known}
    close = [repr(spelt[match]) for match in difflib.get_close_matches(name.lower(), spelt, n=2)]
    listed = ", ".join(known)
    return f"did you mean {' or '.join(close)}? Known: {listed}" if close else f"known: {listed}"


def is_own(name: str) -> bool:
    """Whether a name points at the user's own code instead of into a table.

    >>> is_own("nsga2"), is_own("my_module:thing"), is_own("my_file.py"), is_own("package.module")
    (False, True, True, True)
    """
    return any(mark in name for mark in ":./")


def check(kind: str, name: str) -> None:
    """Raise UnknownName for a name that is in no table; the user's own are only looked for by `resolve`."""
    if not is_own(name) and name not in TABLES[kind]:
        raise UnknownName(
            f"unknown {kind} {name!r}: {nearest(name, TABLES[kind])};"
            f" one of your own is written my_module:{kind} or my_file.py:{kind}"
        )


def resolve(kind: str, name: str) -> Any:
    """The object behind a name: a module where the name has no `:attribute`, else what is called so in it.

    `kind` is a key of TABLES. Raises UnknownName.
    """
    check(kind, name)
    own = is_own(name)
    place, _, attribute = (name if own else TABLES[kind][name]).partition(":")
    if not own:
        found: Any = importlib.import_module(place)
    elif place.endswith(".py") or "/" in place:
        found = _import_file(f"{kind} {name!r}", Path(place))
    else:
        _append_to_path(Path.cwd())
        found = _import_module(f"{kind} {name!r}", place)
    for part in attribute.split(".") if attribute else ():
        if not hasattr(found, part):
            public = [key for key in getattr(found, "__dict__", {}) if not key.startswith("_")]
            raise UnknownName(f"{kind} {name!r}: no {part!r} in {place}: {nearest(part, public)}")
        found = getattr(found, part)
    return found


def call(kind: str, name: str, function: Callable[..., T], *given: Any, **arguments: Any) -> T:
    """`function(*given, **arguments)`, where `arguments` come from an experiment file and are checked first.

    `kind` and `name` say in the error whose arguments they are. Raises UnknownName.
    """
    signature = inspect.signature(function)
    keywords = [
        p for p in signature.parameters.values() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    takes_any = any(p.kind == p.VAR_KEYWORD for p in signature.parameters.values())
    # What nasflow itself gives by position is not for the file to give a second time.
    free = {p.name: p for p in keywords if p.kind == p.KEYWORD_ONLY or p not in keywords[: len(given)]}
    for argument in arguments:
        if argument not in free and not takes_any:
            raise UnknownName(f"{kind} {name!r} takes no argument {argument!r}: {nearest(argument, free)}")
    missing = [p.name for p in free.values() if p.default is p.empty and p.name not in arguments]
    if missing:
        raise UnknownName(f"{kind} {name!r} needs the argument {missing[0]!r}, which is not given")
    return function(*given, **arguments)


def _import_file(asked: str, file: Path) -> ModuleType:
    """The module in a file, under its plain name so that other processes find it again when unpickling."""
    if file.suffix != ".py":
        raise UnknownName(f"{asked}: expected a Python file such as my_file.py, got {file}")
    if not file.is_file():
        around = [str(other) for other in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise UnknownName(f"{asked}: no file {file} in {Path.cwd()}: {nearest(str(file), around)}")
    if not file.stem.isidentifier():
        raise UnknownName(f"{asked}: expected a file named like a variable, got {file.name}; rename it")
    _append_to_path(file.parent.resolve())
    importlib.invalidate_caches()
    spec = importlib.util.find_spec(file.stem)
    origin = spec.origin if spec else None
    if origin is None or not Path(origin).exists() or not Path(origin).samefile(file):
        raise UnknownName(f"{asked}: {file.stem!r} already is the module {origin}; rename {file}")
    return _import_module(asked, file.stem)


def _import_module(asked: str, place: str) -> ModuleType:
    importlib.invalidate_caches()  # the file may have been written a moment ago
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if place == missing or place.startswith(f"{missing}."):
            around = [file.stem for file in Path.cwd().glob("*.py")]
            raise UnknownName(
                f"{asked}: no module {missing!r}, neither installed nor in {Path.cwd()}:"
                f" {nearest(missing, around)}"
            ) from error
        raise UnknownName(f"{asked}: {place} imports {missing!r}, which is not installed") from error
    except SyntaxError as error:
        where = f"{error.filename or place} line {error.lineno}"
        raise UnknownName(f"{asked}: {where} is not valid Python: {error.msg}") from error


def _append_to_path(folder: Path) -> None:
    """Let a folder be imported from, last, so that nothing in it can stand in for an installed module."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
