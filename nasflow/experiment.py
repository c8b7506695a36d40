"""Experiment files: what a run is to do, checked in full before any of it is done.

An experiment is plain YAML. `load` reads one, applies `--set key=value` overrides and gives an `Experiment`;
`dump` writes one back with every default spelt out, so that a run's folder says by itself what was done.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    PlainSerializer,
    model_serializer,
    model_validator,
)

from nasflow import names, yamlfile
from nasflow.data import DataSettings
from nasflow.study import Objective
from nasflow.target import EXPECTED as TARGET
from nasflow.target import METRICS as TARGETED
from nasflow.target import Target
from nasflow.yamlfile import FileError

METRICS = {
    "compute_intensity": "multiply-adds per byte that convolutions, linear layers and matrix products move",
    "energy_mj": "millijoules of one answer above idling, measured on a device that can",
    "error": "share of wrong answers on the validation data, 0 to 1",
    "flops": "multiply-adds of one answer",
    "latency_ms": "median milliseconds of one answer, measured on a device",
    "params": "number of weights",
    "peak_memory_kb": "most memory held at once during one answer, in kilobytes",
    "size_kb": "weights as stored, in kilobytes",
    "sparsity": "share of the weights that compression removed or left as zeros, 0 to 1",
    "throughput_per_s": "answers a second when asked for many at once, measured on a device",
}
PER_DEVICE = ("energy_mj", "latency_ms", "throughput_per_s")  # the others are the same on every device
MORE_IS_BETTER = (
    "compute_intensity",
    "sparsity",
    "throughput_per_s",
)  # so their limits are the least that is allowed


def _expects(text: str) -> Any:
    """What an error says was expected, where the type alone would not tell a newcomer."""
    return Field(json_schema_extra={"expected": text})


Count = Annotated[int, Field(strict=True, ge=1)]
Whole = Annotated[int, Field(strict=True, ge=0)]
Flag = Annotated[bool, Field(strict=True)]
Positive = Annotated[float, Field(strict=True, gt=0)]
NotNegative = Annotated[float, Field(strict=True, ge=0)]
BelowOne = Annotated[float, Field(strict=True, ge=0, lt=1)]
Share = Annotated[float, Field(strict=True, ge=0, le=1)]
Text = Annotated[str, Field(strict=True, min_length=1)]
Auto = Literal["auto"]
Scalar = str | int | float | bool | None


class Settings(BaseModel):
    """Base of every section: unknown keys are refused, and nothing changes afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Named(Settings):
    """Something by its name, with arguments if it takes any: `tpe`, or `{name: nsga2, population: 40}`."""

    name: Text
    arguments: dict[str, JsonValue] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value.strip()}
        if isinstance(value, Mapping) and "arguments" not in value:
            if "name" not in value:
                raise ValueError(
                    f"expected {{name: ..., ...its arguments}}, got no name beside {', '.join(value)}"
                )
            return {"name": value["name"], "arguments": {k: v for k, v in value.items() if k != "name"}}
        return value

    @model_serializer
    def _to_short(self) -> Any:
        return {"name": self.name, **self.arguments} if self.arguments else self.name


def _known(kind: str) -> Callable[[Named], Named]:
    def check(value: Named) -> Named:
        names.check(kind, value.name)
        return value

    return check


def _known_criterion(name: str) -> str:
    names.check("criterion", name)
    return name


def _factors(value: Any) -> Any:
    """`mobile * training`, or one part, or a list of parts -> list of parts."""
    if isinstance(value, str):
        return [part.strip() for part in value.split("*")]
    return [value] if isinstance(value, Mapping) else value


def _product(parts: tuple[Named, ...]) -> Any:
    if any(part.arguments for part in parts):
        return [part.model_dump() for part in parts]
    return " * ".join(part.name for part in parts) or None


def _known_pruner(value: Named) -> Named:
    names.check(pruner_kind(value.name), value.name)
    return value


def pruner_kind(name: str) -> str:
    """Among which names a strategy for pruning is found: those for nothing else, or all strategies."""
    return "pruner" if name in names.TABLES["pruner"] else "strategy"


Pruner = Annotated[
    Named, AfterValidator(_known_pruner), _expects("a strategy such as nsga2 or amc, or {name: amc, ...}")
]
Strategy = Annotated[
    Named, AfterValidator(_known("strategy")), _expects("a strategy such as nsga2, or {name: nsga2, ...}")
]
Part = Annotated[
    Named, AfterValidator(_known("space")), _expects("a space such as mobile, or {name: mobile, ...}")
]
Space = Annotated[
    tuple[Part, ...],
    BeforeValidator(_factors),
    PlainSerializer(_product),
    _expects("a space such as mobile, a product such as mobile * training, or a list of {name: mobile, ...}"),
]


def _targets(value: Any) -> Any:
    """One target, or a list of them; written back as nasflow says them."""
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list | tuple):
        raise ValueError(f"expected {TARGET}, or a list of them, got {value!r}")
    return tuple(str(Target.parse(str(one))) for one in listed)


class ModelSettings(Settings):
    """A network of the user's own: a function that returns it, and a file of trained weights if there is one."""

    name: Text
    weights: Text | None = None
    arguments: dict[str, JsonValue] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_short(cls, value: Any) -> Any:
        return {"name": value.strip()} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _is_own(self) -> Self:
        names.check("model", self.name)
        return self


def _goal(metric: str) -> Literal["min", "max"]:
    return "max" if metric.partition("@")[0] in MORE_IS_BETTER else "min"


class ObjectiveSettings(Settings):
    """A metric to make small (or large) and a hard limit if it has one: `flops`, `{metric: flops, limit: 2e6}`.

    The goal is `max` where more is better, unless it is said otherwise.
    """

    metric: Text
    goal: Literal["min", "max"] = "min"
    limit: Positive | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_short(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"metric": value.strip()}
        if isinstance(value, Mapping) and "goal" not in value and _goal(str(value.get("metric"))) == "max":
            value = {**value, "goal": "max"}
        return value

    @model_serializer
    def _to_short(self) -> Any:
        return dict(self) if self.model_fields_set - {"metric"} else self.metric


class RecipeSettings(Settings):
    """How networks are trained, where it is to differ from nasflow's own recipe (`Recipe` in training.py)."""

    learning_rate: Positive | None = None
    weight_decay: NotNegative | None = None
    batch_size: Count | None = None
    label_smoothing: BelowOne | None = None
    optimizer: Literal["adamw", "sgd"] | None = None
    warmup: BelowOne | None = None
    clip: Positive | None = None
    distillation: Share | None = None
    temperature: Positive | None = None


class SearchSettings(Settings):
    """How networks are looked for: by which strategy, how many are trained and for how long each; and whether the
    latency of each is measured, or predicted where the device's predictor is sure enough (the front is measured)."""

    strategy: Strategy = Named(name="auto")
    trials: Count = 24
    epochs: Count = 8
    latency: Literal["measured", "predicted"] = "measured"
    workers: Count | Auto = "auto"
    batch: Count | Auto = "auto"
    deadline_s: Positive = 600.0
    memory_mb: Count | Auto = "auto"
    recipe: RecipeSettings = RecipeSettings()


class SparseSettings(Settings):
    """Training before pruning with a penalty that pulls channels towards zero, so that they are missed less."""

    penalty: Annotated[
        Named,
        AfterValidator(_known("penalty")),
        _expects("a penalty such as group-norms, or {name: group-norms, strength: 0.001}"),
    ] = Named(name="group-norms")
    epochs: Count = 3


class CompressSettings(Settings):
    """How networks of the front are made cheaper: pruned, fine-tuned and stored as 8-bit integers, but for layers which
    those make no faster (`mixed`). `target` says what they may cost at most then."""

    enabled: Flag = True
    target: Annotated[tuple[Text, ...], BeforeValidator(_targets), _expects(TARGET)] = ()
    pick: Annotated[
        Literal["knee", "best", "front"] | Annotated[tuple[Whole, ...], Field(min_length=1)],
        _expects("knee, best, front or a list of trial numbers such as [3, 12]"),
    ] = "knee"
    strategy: Pruner = Named(name="nsga2")
    trials: Count = 8
    epochs: Count = 3
    keep: Annotated[
        tuple[Annotated[float, Field(strict=True, gt=0, le=1)], ...],
        Field(min_length=1),
        _expects("a list of shares such as [0.5, 0.75, 1.0]"),
    ] = (0.5, 0.75, 1.0)
    round_to: Annotated[
        Count | Literal["measured"], _expects("measured, or a number of channels such as 8")
    ] = "measured"
    protect: tuple[Text, ...] = ()
    only: tuple[Text, ...] = ()
    criterion: Annotated[
        Text,
        AfterValidator(_known_criterion),
        _expects("which channels go first: l1, taylor, fpgm or another criterion"),
    ] = "l1"
    sparse: Annotated[
        SparseSettings | None, _expects("{penalty: group-norms, epochs: 3}, or nothing for no such training")
    ] = None
    steps: Count = 1
    reconstruct: Flag = False
    distill: Literal["logits", "features"] = "logits"
    int8: Flag = True
    mixed: Flag = True
    calibration: Literal["minmax", "percentile", "mse", "entropy"] = "minmax"
    accept: Literal["latency", "size"] = "latency"
    max_error_increase: Share = 0.01
    recipe: RecipeSettings = RecipeSettings()


class RetrainSettings(Settings):
    """How survivors are trained in full before one is shipped: the picked ones, then others along the front."""

    networks: Count = 3
    epochs: Count = 30
    seeds: Count = 1
    recipe: RecipeSettings = RecipeSettings()


class ShipRule(Settings):
    """Which network is shipped: `knee`, `best error`, or `fastest within 2 points` (of error, above the best)."""

    rule: Literal["knee", "best error", "fastest"]
    points: Annotated[float, Field(strict=True, ge=0, le=100)] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if fastest := re.fullmatch(r"fastest within (\d+(?:\.\d+)?) points?", value.strip()):
            return {"rule": "fastest", "points": float(fastest[1])}
        if value.strip() in ("knee", "best error"):
            return {"rule": value.strip()}
        raise ValueError(f"expected knee, best error or fastest within 2 points, got {value!r}")

    def __str__(self) -> str:
        points = repr(self.points).removesuffix(".0")
        return f"fastest within {points} points" if self.rule == "fastest" else self.rule

    @model_serializer
    def _to_text(self) -> str:
        return str(self)


class DeploySettings(Settings):
    """Which network is shipped, and how closely its file has to answer like the trained network."""

    ship: Annotated[ShipRule, _expects("knee, best error or fastest within 2 points")] = ShipRule(rule="knee")
    max_difference: Positive = 1e-3
    int8_agreement: Share = 0.98


class MlflowSettings(Settings):
    """Where runs are tracked: by default a file in the folder of all runs, else any MLflow tracking address."""

    uri: Text | None = None
    experiment: Text | None = None


def _by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class Experiment(Settings):
    """Everything one run needs to know."""

    name: Annotated[
        str,
        Field(strict=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$"),
        _expects("a name of letters, digits, dots, - and _, since it names the run's folder"),
    ]
    data: Annotated[
        DataSettings,
        BeforeValidator(_by_name),
        _expects("a data set such as digits, or {name: folder, path: FOLDER}"),
    ]
    space: Space = ()
    model: (
        Annotated[ModelSettings, _expects("my_module:function, or {name: my_module:function, weights: FILE}")]
        | None
    ) = None
    point: dict[str, Scalar] | None = None
    devices: Annotated[
        tuple[Text, ...], Field(min_length=1), _expects("a list of devices such as [local-cpu]")
    ] = ("local-cpu",)
    objectives: Annotated[
        tuple[
            Annotated[ObjectiveSettings, _expects("a metric such as error, or {metric: error, limit: 0.05}")],
            ...,
        ],
        Field(min_length=1),
        _expects("a list of at least one metric such as [error, latency_ms, flops]"),
    ] = (
        ObjectiveSettings(metric="error"),
        ObjectiveSettings(metric="latency_ms"),
        ObjectiveSettings(metric="flops"),
    )
    limits: dict[str, Positive] = {}
    search: SearchSettings = SearchSettings()
    compress: CompressSettings = CompressSettings()
    retrain: RetrainSettings = RetrainSettings()
    deploy: DeploySettings = DeploySettings()
    mlflow: MlflowSettings = MlflowSettings()
    seed: Whole = 0

    @model_validator(mode="before")
    @classmethod
    def _leave_out_empty(cls, value: Any) -> Any:
        """A section whose every line is commented out counts as left out, and the space is `mobile` by default."""
        if not isinstance(value, Mapping):
            return value
        filled = {key: part for key, part in value.items() if part is not None}
        return filled if "model" in filled or "space" in filled else {**filled, "space": "mobile"}

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        architectures = [part.name for part in self.space if part.name not in ("compression", "training")]
        if self.model and "mobile" in architectures:
            raise ValueError(
                "model: expected either a model of your own or the space mobile to build from, got both"
            )
        if not self.model and not architectures:
            raise ValueError(
                "space: expected a space of networks, such as mobile * training, got "
                f"{' * '.join(part.name for part in self.space)} alone"
            )
        if self.point is not None and self.model:
            raise ValueError("point: expected either a point of the space or a model of your own, got both")
        called = device_names(self)
        if len(set(called)) < len(called):
            raise ValueError(f"devices: expected each device once, got {', '.join(called)}")
        expanded = objectives(self)
        if not any(objective.metric == "error" for objective in expanded):
            raise ValueError(
                "objectives: expected error among them (or a limit on it):"
                " else the cheapest network wins, whatever it answers"
            )
        targets(self)
        return self


def device_name(device: str) -> str:
    """How a device is called in metrics: a profile by its name, a profile file of the user's own by the file's.

    >>> device_name("local-cpu"), device_name("boards/jetson.yaml")
    ('local-cpu', 'jetson')
    """
    return Path(device).stem if device.endswith((".yaml", ".yml")) else device


def device_names(experiment: Experiment) -> list[str]:
    return [device_name(device) for device in experiment.devices]


def objectives(experiment: Experiment) -> tuple[Objective, ...]:
    """What the search optimises and what has to hold: `latency_ms` and the like once per device, limits without an
    objective last.

    Raises ValueError for a metric that is unknown, given twice or has an impossible limit.
    """
    found: dict[str, Objective] = {}
    for wanted in experiment.objectives:
        for metric in _metrics(experiment, "objectives", wanted.metric):
            if metric in found:
                raise ValueError(f"objectives: expected each metric once, got {metric} twice")
            found[metric] = Objective(metric, wanted.goal, _limit("objectives", metric, wanted.limit))
    for key, limit in experiment.limits.items():
        for metric in _metrics(experiment, "limits", key):
            known = found.get(metric, Objective(metric, _goal(metric), optimise=False))
            if known.limit is not None:
                raise ValueError(f"limits: expected one limit on {metric}, got {known.limit:g} and {limit:g}")
            found[metric] = Objective(metric, known.goal, _limit("limits", metric, limit), known.optimise)
    return tuple(found.values())


def targets(experiment: Experiment) -> tuple[Target, ...]:
    """What compressed networks may cost at most, once per device. Raises ValueError for a metric that is unknown, that
    no compression lowers, or that is given twice."""
    found: dict[str, Target] = {}
    for text in experiment.compress.target:
        said = Target.parse(text)
        if said.metric.partition("@")[0] not in TARGETED:
            raise ValueError(
                f"compress.target: expected one of {', '.join(TARGETED)}, got {said.metric!r}:"
                f" {names.nearest(said.metric, TARGETED)}"
            )
        for metric in _metrics(experiment, "compress.target", said.metric):
            if metric in found:
                raise ValueError(f"compress.target: expected each metric once, got {metric} twice")
            found[metric] = Target(metric, said.amount, said.relative)
    return tuple(found.values())


def _metrics(experiment: Experiment, section: str, key: str) -> list[str]:
    """The metrics a key of the file stands for: `latency_ms` is one on each device."""
    metric, at, device = key.partition("@")
    called = device_names(experiment)
    if metric not in METRICS:
        raise ValueError(f"{section}: unknown metric {key!r}: {names.nearest(metric, METRICS)}")
    if metric not in PER_DEVICE and at:
        raise ValueError(f"{section}: expected {metric}, which is the same on every device, got {key!r}")
    if at and device not in called:
        raise ValueError(
            f"{section}: {key!r} names a device that is not under devices: {names.nearest(device, called)}"
        )
    if metric not in PER_DEVICE:
        return [metric]
    return [f"{metric}@{one}" for one in ([device] if at else called)]


def _limit(section: str, metric: str, limit: float | None) -> float | None:
    if metric == "error" and limit is not None and limit >= 1:
        raise ValueError(
            f"{section}: expected the limit on error as a share below 1 (0.025 is 2.5 %), got {limit:g}"
        )
    return limit


def recipe_settings(
    experiment: Experiment, stage: Literal["search", "compress", "retrain"]
) -> dict[str, Any]:
    """The arguments of a stage's training recipe: the search's, the stage's own on top of them, and its epochs."""
    section = getattr(experiment, stage)
    own = section.recipe.model_dump(exclude_none=True)
    return {**experiment.search.recipe.model_dump(exclude_none=True), **own, "epochs": section.epochs}


def tracking_uri(experiment: Experiment, folder: Path, environ: Mapping[str, str] = os.environ) -> str:
    """Where MLflow keeps the runs: the experiment's own setting first, then MLFLOW_TRACKING_URI, else a database
    beside the run's folder."""
    beside = f"sqlite:///{folder.absolute().parent / 'mlflow.db'}"
    return experiment.mlflow.uri or environ.get("MLFLOW_TRACKING_URI") or beside


def load(path: str | Path, overrides: Iterable[str] = ()) -> Experiment:
    """Read an experiment file, or one of the shipped ones by its name (`digits`), with `key=value` overrides.

    A key is dotted (`search.trials`), a value is YAML (`12`, `[a, b]`, `{name: tpe}`). Raises FileError.
    """
    file, texts = find(path), list(overrides)
    raw = yamlfile.read(file)
    for text in texts:
        yamlfile.override(raw, text)
    if raw.get("name") is None:
        raw["name"] = file.stem
    return from_mapping(raw, yamlfile.shown_path(file), texts)


def from_mapping(raw: Mapping[str, Any], source: str, overrides: Iterable[str] = ()) -> Experiment:
    """The experiment said in a mapping with a file's keys; `source` begins its error messages. Raises FileError."""
    return yamlfile.check(Experiment, raw, source, overrides)


def dump(experiment: Experiment) -> str:
    """The experiment as YAML with every default spelt out; `load` of it gives an equal experiment."""
    return str(
        yaml.safe_dump(experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110)
    )


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """In words, where settings differ from what they were: `search.trials: 24, now 50`."""
    old, new = dict(_leaves(dict(before))), dict(_leaves(dict(after)))
    return [
        f"{key}: {old.get(key)!r}, now {new.get(key)!r}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]


def shipped() -> dict[str, Path]:
    """The experiment files that come with nasflow, by name: beside the package in a checkout, inside it in a wheel."""
    package = Path(__file__).parent
    folder = package / "experiments"
    folder = folder if folder.is_dir() else package.parent / "experiments"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find(path: str | Path) -> Path:
    """The file meant by a path or by the name of a shipped experiment. Raises FileError."""
    file = Path(path)
    if file.is_file():
        return file
    if str(path) in shipped():
        return shipped()[str(path)]
    if file.is_dir():
        raise FileError(
            f"{file}: expected an experiment file, got a folder; to see a run: nasflow show {file}"
        )
    around = [str(other) for other in sorted(file.parent.glob("*.y*ml"))] if file.parent.is_dir() else []
    raise FileError(f"{file}: no such experiment file: {names.nearest(str(file), [*around, *shipped()])}")


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _leaves(part, f"{key}.{name}" if key else name)
    else:
        yield key, value
