"""The run as Prefect flows, tracked in MLflow: thin decorations of the plain functions in nasflow.stages."""

import os

from flows.environment import prepare

prepare(os.environ)  # before Prefect or MLflow is imported, by whichever of these modules comes first
