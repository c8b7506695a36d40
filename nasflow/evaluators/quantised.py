"""The error of a network in simulated bits: rounded as a policy says, trained a little if that is wanted, judged.

No file of it runs on a processor, so nothing of it is measured, and the name of its metric says so: what is simulated
never enters a front as if a device had answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from nasflow.data import Data
from nasflow.space import Scalar, point_key
from nasflow.study import Metrics, Trial
from nasflow.training import Recipe, error, train


@dataclass(frozen=True)
class Simulated:
    """Gives the `error_simulated` of a trial's bits on the validation images (share of wrong answers).

    `build` makes the rounded network of a policy: fakequant.simulate with all but its policy given. With a `recipe`
    it is trained before it is judged, learning from `teacher` if there is one; the trial's fidelity scales the epochs.
    The order of images follows from `seed` and the point, not from the trial's number.
    """

    build: Callable[[Mapping[str, Scalar]], nn.Module]
    data: Data
    recipe: Recipe | None = None
    seed: int = 0
    teacher: nn.Module | None = None

    def __call__(self, trial: Trial) -> Metrics:
        network = self.build(trial.point)
        if self.recipe is not None:
            epochs = max(1, round(self.recipe.epochs * trial.fidelity))
            order = np.random.SeedSequence((self.seed, int(point_key(trial.point), 16))).generate_state(
                1, np.uint64
            )
            train(
                network,
                self.data,
                replace(self.recipe, epochs=epochs),
                seed=int(order[0]),
                teacher=self.teacher,
            )
        return {"error_simulated": error(network, self.data.validation, self.data.preprocess)}
