"""nasflow: from a dataset and a list of devices to a certified Pareto set of deployable networks."""
