"""nasflow: from a dataset and a list of devices to a certified Pareto set of deployable networks."""

__version__ = "0.1.0"
