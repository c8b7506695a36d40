"""Learned step sizes: rounding to few bits whose steps are trained with the weights.

Esser et al., 2020 (LSQ, arXiv:1902.08153). As there: the gradient of the step that knows of the rounding error, its
scale, the start from the mean magnitude. Beyond: a step for each output channel of the weights, which costs a processor
nothing, and inputs that can be negative use the grid that fits their range instead of a symmetric one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nasflow.compression.calibrate import TINY, Grid


def rounded(values: Tensor, step: Tensor, grid: Grid) -> Tensor:
    """`values` on the grid: step * round(clip(values / step)). The step broadcasts with the values.

    Gradients (equations 3 and 5): of the values 1 inside the grid and 0 outside, as if not rounded; of the step
    round(v / s) - v / s inside, outside the end of the grid.

    >>> v = torch.tensor([-3.0, -0.26, -0.24, 0.1, 0.6, 5.0])
    >>> [at + 0.0 for at in rounded(v, torch.tensor(0.5), Grid.signed(3)).tolist()]
    [-2.0, -0.5, 0.0, 0.0, 0.5, 1.5]
    """
    scaled = (values / step).clamp(grid.low, grid.high)
    return (scaled + (scaled.round() - scaled).detach()) * step


def first_step(mean: Tensor, grid: Grid) -> Tensor:
    """The step to start from, 2 mean|v| / sqrt(Q_P) (section 2.1), from the mean magnitude of the values."""
    return (2 * mean / math.sqrt(grid.top)).clamp_min(TINY)


class LSQ(nn.Module):
    """Rounds values with learned steps: one for each channel along `axis`, or one for all where that is None. `samples`
    says that the first dimension is that of a batch, as it is of inputs and not of weights.

    What is learned is `share`, the step as a share of the one it started from: optimizers that move all parameters
    by like amounts, as Adam does, then change small steps as carefully as large ones. Its gradient is scaled such
    that gradient descent moves the step itself exactly as in the paper, by the step's gradient / sqrt(N Q_P),
    N values sharing it; of a batch, those of one sample. A share has one dimension, so training does not decay it.
    """

    start: Tensor

    def __init__(self, start: Tensor, grid: Grid, axis: int | None = None, *, samples: bool = True) -> None:
        super().__init__()
        self.grid, self.axis, self.samples = grid, axis, samples
        self.register_buffer("start", start.detach().reshape(-1).clone())
        self.share = nn.Parameter(torch.ones_like(self.start))

    @property
    def step(self) -> Tensor:
        """The steps as they are now, (channels,) or (1,); never zero or below."""
        return self.start * (self.share.abs() + TINY)

    def forward(self, values: Tensor) -> Tensor:
        count = values.numel() // (len(values) if self.samples else len(self.start))
        scale = 1 / math.sqrt(count * self.grid.top)
        share = self.share.abs()
        # Worth exactly the step; its gradient is that of the share alone.
        step = self.step.detach() + (share - share.detach()) * (scale / self.start)
        return rounded(values, along(step, values, self.axis), self.grid)


def along(step: Tensor, values: Tensor, axis: int | None) -> Tensor:
    """Steps (channels,) shaped to multiply `values`, whose channels are along `axis`; (1,) where that is None."""
    if axis is None:
        return step
    return step.view([-1 if at == axis else 1 for at in range(values.ndim)])
