"""The error of compressed networks before any training, or after a little: what a search over policies can afford."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from nasflow.data import Data
from nasflow.space import Point
from nasflow.study import Trial
from nasflow.training import error


@dataclass(frozen=True)
class Pruned:
    """Gives the `error` on the validation images of what `apply` makes of a trained network by a trial's policy, for
    loop.Evaluate. Nothing is kept, and nothing is trained but by `finetune`, if given, which gets the network.

        images = torch.from_numpy(data.preprocess(data.train.x[:256]))
        again = reconstruct.reconstruction(model, images)  # as AMC judges policies
        apply = functools.partial(prune.apply, model=model, shape=data.shape, compensate=again)
        evaluate = loop.Evaluate(Pruned(apply, data))
    """

    apply: Callable[[Point], nn.Module]
    data: Data
    finetune: Callable[[nn.Module], object] | None = None

    def __call__(self, trial: Trial) -> dict[str, float]:
        network = self.apply(trial.point)
        if self.finetune is not None:
            self.finetune(network)
        return {"error": error(network, self.data.validation, self.data.preprocess)}
