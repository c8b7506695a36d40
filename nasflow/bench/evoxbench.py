"""The test suites of EvoXBench (Lu et al., IEEE TEVC 2023, arXiv:2208.04321): what to search for, and how it is judged.

A suite names a space and up to eight objectives, the first being the error, all minimised. Its hypervolume is that of
objectives scaled from the utopia point (0) to the nadir point (1), with the nadir as reference: the ends of a front
count nothing. Both points are those of the true front where it is known, estimates otherwise. A search sees a noisy
error, the accuracy of one training on validation images; what it found is judged by the mean accuracy on test images.

- A suite of a tabulated space runs on any table with the columns of `Suite.columns`: `Suite.problem(table)`. C-10/MOP5
  to 7 are columns of NAS-Bench-201 (Dong and Yang, ICLR 2020) and HW-NAS-Bench (Li et al., ICLR 2021).
- Every suite runs with EvoXBench's own package and database, where they are installed: `Suite.official()`.

Here an evaluation is another architecture each time, and all that were evaluated are judged; EvoXBench's tables count
repeated ones too, and judge the last population.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from nasflow import names
from nasflow.bench.genomes import ENCODINGS, Encoding
from nasflow.bench.problem import BenchError, Problem
from nasflow.evaluators.tabular import Table
from nasflow.loop import Evaluate
from nasflow.space import Choice, Space
from nasflow.study import Metrics, Objective, Trial

NADIR = 1.0  # reference of the hypervolume, in scaled objectives

Range = tuple[float, float]


@dataclass(frozen=True)
class Terrain:
    """A space of EvoXBench: how long its genomes are, and what is known of its objectives."""

    name: str
    genes: int
    space: str | None = None  # as nasflow names it
    columns: Mapping[str, str] = field(
        default_factory=dict
    )  # of a table, by objective; accuracies end with :max
    seen: str | None = None  # the column that a search sees as its error
    ranges: Mapping[str, Range] = field(default_factory=dict)  # utopia and nadir, where they are fixed


@dataclass(frozen=True)
class Suite:
    """One problem: objectives over a terrain, and whether EvoXBench scales them before a search sees them."""

    name: str
    terrain: Terrain
    objectives: tuple[str, ...]
    normalised: bool

    @property
    def encoding(self) -> Encoding | None:
        """The genomes, None where nasflow lacks the space."""
        return ENCODINGS.get(self.terrain.space or "")

    @property
    def columns(self) -> Mapping[str, str]:
        """What a table must hold: a column for each objective, :max after it if large is good. None in it if there
        is no such table."""
        known = self.terrain.columns
        return MappingProxyType({name: known[name] for name in self.objectives} if known else {})

    @property
    def utopia(self) -> tuple[float, ...] | None:
        """The best of each objective where it is fixed; None where that of the true front counts."""
        return self._ends(0)

    @property
    def nadir(self) -> tuple[float, ...] | None:
        """The worst of each objective on a front where it is fixed; None where that of the true front counts."""
        return self._ends(1)

    def problem(self, table: Table) -> Problem:
        """The suite on a table of the user's, see `columns`. Raises BenchError if no table will do."""
        if not self.columns:
            raise BenchError(
                f"{self.name} has no table: its {self.terrain.name} networks are judged by surrogate models; with the "
                f"package evoxbench and its database, search it through suite({self.name!r}).official()"
            )
        objectives = tuple(_objective(column) for column in self.columns.values())
        needed = [*(objective.metric for objective in objectives), self.terrain.seen or ""]
        missing = [column for column in needed if column not in table.columns]
        if missing:
            raise BenchError(
                f"{self.name} needs a table of {self.terrain.name} with the columns {', '.join(needed)}; "
                f"{table.name} lacks {', '.join(missing)}"
            )
        return Problem(table, objectives, seen=self.terrain.seen, reference=NADIR)

    def official(self) -> Official:
        """The suite as EvoXBench's own package evaluates it. Raises BenchError without the package or its database."""
        family, _, number = self.name.partition("/MOP")
        maker = {"C-10": "c10mop", "IN-1K": "in1kmop", "CitySeg": "citysegmop"}[family]
        try:
            suites = importlib.import_module("evoxbench.test_suites")
            benchmark = getattr(suites, maker)(int(number))
        except Exception as error:  # without its database the package fails in many ways
            raise BenchError(
                f"{self.name} needs the package evoxbench (pip install evoxbench) and its two archives, database and "
                "data, unpacked and made known once by evoxbench.database.init.config(DATABASE, DATA); it said: "
                f"{type(error).__name__}: {error}"
            ) from error
        return Official(self, benchmark)

    def _ends(self, which: int) -> tuple[float, ...] | None:
        ranges = self.terrain.ranges
        return tuple(ranges[name][which] for name in self.objectives) if ranges else None


@dataclass(frozen=True)
class Official:
    """A suite in EvoXBench's own hands. Points are genomes: `gene01` and so on."""

    suite: Suite
    benchmark: Any  # evoxbench.modules.Benchmark

    @property
    def space(self) -> Space:
        low, high = self.benchmark.search_space.lb, self.benchmark.search_space.ub
        return Space(
            tuple(
                Choice(f"gene{number:02}", tuple(range(int(a), int(b) + 1)))
                for number, (a, b) in enumerate(zip(low, high, strict=True), start=1)
            )
        )

    @property
    def objectives(self) -> tuple[Objective, ...]:
        return tuple(Objective(name) for name in self.suite.objectives)

    def evaluate(self) -> Evaluate:
        """What a search sees: noisy errors, and objectives scaled where the suite says so."""
        return Evaluate(self._look_up)

    def hypervolume(self, points: Sequence[Mapping[str, Any]]) -> float:
        """What EvoXBench makes of these points, by their true errors."""
        genomes = np.array([list(point.values()) for point in points])
        return float(self.benchmark.calc_perf_indicator(genomes, "hv"))

    def _look_up(self, trial: Trial) -> Metrics:
        values = self.benchmark.evaluate(np.array([list(trial.point.values())]))[0]
        return {name: float(value) for name, value in zip(self.suite.objectives, values, strict=True)}


def suite(name: str) -> Suite:
    """The suite of this name.

    >>> suite("C-10/MOP5").objectives
    ('err', 'params', 'flops', 'edgegpu_latency', 'edgegpu_energy')
    >>> suite("IN-1K/MOP7").nadir
    (0.29796, 10197992.0)
    """
    if name not in SUITES:
        raise BenchError(f"no suite {name!r}: {names.nearest(name, SUITES)}")
    return SUITES[name]


def _objective(column: str) -> Objective:
    name, _, goal = column.partition(":")
    return Objective(name, "max") if goal == "max" else Objective(name)


def _cifar10(epochs: int, **costs: str) -> dict[str, str]:
    """Columns of a table of CIFAR-10 networks, for the test accuracy after so many epochs and these costs."""
    costs = {"params": "params_M", "flops": "flops_M"} | costs
    named = {name: f"cifar10_{column}" for name, column in costs.items()}
    return {"err": f"cifar10_test_acc_{epochs}:max", **named}


NB101 = Terrain("NAS-Bench-101", 26, "nasbench101", _cifar10(108), "cifar10_val_acc_108")
NATS = Terrain("NATS-Bench sizes", 5, "nats-size", _cifar10(90, latency="latency_ms"), "cifar10_val_acc_90")
NB201 = Terrain(
    "NAS-Bench-201",
    6,
    "nasbench201",
    _cifar10(
        200,
        edgegpu_latency="edgegpu_latency_ms",
        edgegpu_energy="edgegpu_energy_mJ",
        eyeriss_latency="eyeriss_latency_ms",
        eyeriss_energy="eyeriss_energy_mJ",
        eyeriss_arithmetic_intensity="eyeriss_arithmetic_intensity",
    ),
    "cifar10_val_acc_200",
)
DARTS = Terrain(
    "DARTS",
    32,
    "darts",
    ranges={
        "err": (0.0527, 0.275),
        "params": (392_426.0, 1_672_426.0),
        "flops": (79_733_440.0, 270_342_848.0),
    },
)
RESNET = Terrain(
    "ResNet-50D",
    25,
    ranges={
        "err": (0.1987, 0.31242),
        "params": (6.542624e6, 4.4114544e7),
        "flops": (6.69461472e8, 1.45769615e10),
    },
)
TRANSFORMER = Terrain(
    "Transformer",
    34,
    ranges={
        "err": (0.1765, 0.18322),
        "params": (43_480_888.0, 74_134_144.0),
        "flops": (9_223_839_636.0, 15_402_946_152.0),
    },
)
MNV3 = Terrain(
    "MobileNetV3",
    21,
    "ofa-mobilenetv3",
    ranges={
        "err": (0.20918, 0.29796),
        "params": (4.610136e6, 1.0197992e7),
        "flops": (2.13223824e8, 1.37679763e9),
        "latency": (10.3589, 70.3806),  # milliseconds
    },
)
MOSEG = Terrain("MoSegNAS", 24)

_EDGEGPU = "edgegpu_latency edgegpu_energy"
_EYERISS = "eyeriss_latency eyeriss_energy eyeriss_arithmetic_intensity"
_BOTH = "h1_latency h2_latency h1_energy_consumption h2_energy_consumption"
_FAMILIES: dict[str, list[tuple[Terrain, str, bool]]] = {
    "C-10": [
        (NB101, "params", True),
        (NB101, "params flops", True),
        (NATS, "params flops", True),
        (NATS, "params flops latency", True),
        (NB201, f"params flops {_EDGEGPU}", True),
        (NB201, f"params flops {_EYERISS}", True),
        (NB201, f"params flops {_EDGEGPU} {_EYERISS}", True),
        (DARTS, "params", False),
        (DARTS, "params flops", False),
    ],
    "IN-1K": [
        *(
            (terrain, costs, False)
            for terrain in (RESNET, TRANSFORMER)
            for costs in ("params", "flops", "params flops")
        ),
        (MNV3, "params", False),
        (MNV3, "params flops", False),
        (MNV3, "params flops latency", False),
    ],
    "CitySeg": [
        (MOSEG, costs, False)
        for costs in (
            "h1_latency",
            "h1_latency flops",
            "h1_latency params",
            "h1_latency h1_energy_consumption flops",
            "h1_latency h1_energy_consumption flops params",
            "h2_latency",
            "h2_latency flops",
            "h2_latency params",
            "h2_latency h2_energy_consumption flops",
            "h2_latency h2_energy_consumption flops params",
            "h1_latency h2_latency",
            _BOTH,
            f"{_BOTH} flops",
            f"{_BOTH} params",
            f"{_BOTH} flops params",
        )
    ],
}
SUITES = {
    f"{family}/MOP{number}": Suite(f"{family}/MOP{number}", terrain, ("err", *costs.split()), normalised)
    for family, suites in _FAMILIES.items()
    for number, (terrain, costs, normalised) in enumerate(suites, start=1)
}
