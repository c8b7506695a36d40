"""Learned clipping of inputs: where activations are cut off is trained with the weights.

Choi et al., 2018 (PACT, arXiv:1805.06085).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nasflow.compression.calibrate import TINY, Grid

DECAY = 2e-4


class PACT(nn.Module):
    """Clips inputs to 0 and a learned `alpha`, and rounds them to the grid, whose end alpha is.

    The gradient of alpha is that of all inputs at or above it (equation 3), that of the inputs 1 below and 0 from
    there on; rounding is passed as if it were not there. The paper starts from one large alpha for all; this from
    what calibration found, as networks come trained. Inputs that can be negative, of which the paper has none,
    are clipped at both ends of their grid, which grow together.
    """

    def __init__(self, alpha: float, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.alpha = nn.Parameter(torch.tensor([alpha]))

    @property
    def step(self) -> Tensor:
        """The step as it is now, (1,); never zero or below."""
        return (self.alpha.abs() + TINY) / self.grid.top

    def forward(self, values: Tensor) -> Tensor:
        alpha = self.alpha.abs() + TINY
        clipped = torch.where(values >= alpha, alpha, values)
        bottom = alpha * (self.grid.low / self.grid.top)
        clipped = torch.where(values <= bottom, bottom, clipped)
        with torch.no_grad():
            step = self.step
            off = (clipped / step).round().clamp(self.grid.low, self.grid.high) * step - clipped
        return clipped + off


@dataclass(frozen=True)
class Decay:
    """The penalty that pulls every alpha of a network towards zero, strength / 2 * alpha^2 each: what training.train
    takes as `penalty`. The paper decays alphas as strongly as weights."""

    strength: float = DECAY

    def __call__(self, model: nn.Module) -> Tensor:
        alphas = [module.alpha for module in model.modules() if isinstance(module, PACT)]
        return self.strength / 2 * torch.cat([torch.zeros(1), *alphas]).square().sum()
