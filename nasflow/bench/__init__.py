"""Search strategies compared on tables of architectures that are trained already; needs no torch."""

from nasflow.bench.comparison import Comparison, Paired, Result, compare
from nasflow.bench.problem import BenchError, Judge, Problem
from nasflow.bench.runs import Contender, Run

__all__ = ["BenchError", "Comparison", "Contender", "Judge", "Paired", "Problem", "Result", "Run", "compare"]
