from nasflow.api import Deployed, Fit, fit
from nasflow.data import Data, DataSettings, Preprocess, Split
from nasflow.errors import NasflowError
from nasflow.experiment import Experiment
from nasflow.experiment import load as load_experiment
from nasflow.loop import Evaluate, Outcome, Strategy, run
from nasflow.pool import InProcess, Processes
from nasflow.record import open_record
from nasflow.space import Choice, Point, Real, Space
from nasflow.strategies.nsga2 import nsga2
from nasflow.strategies.optuna_samplers import tpe
from nasflow.strategies.random import random_search
from nasflow.study import Objective, Proposal, Study, Trial

__version__: str

__all__ = [
    "Choice",
    "Data",
    "DataSettings",
    "Deployed",
    "Evaluate",
    "Experiment",
    "Fit",
    "InProcess",
    "NasflowError",
    "Objective",
    "Outcome",
    "Point",
    "Preprocess",
    "Processes",
    "Proposal",
    "Real",
    "Space",
    "Split",
    "Strategy",
    "Study",
    "Trial",
    "fit",
    "load_experiment",
    "nsga2",
    "open_record",
    "random_search",
    "run",
    "tpe",
]
