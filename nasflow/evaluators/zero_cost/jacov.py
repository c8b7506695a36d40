"""Jacobian covariance, the score of version 1 of "Neural Architecture Search without Training" (Mellor et al., 2020,
arXiv:2006.04647v1), which later comparisons (Abdelfattah et al., ICLR 2021) call jacov or jacob_cov: how little the
gradients of different images have in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nasflow.evaluators.zero_cost.scratch import WORST, gradients, scratch

SMALL = 1e-5  # k of the authors' code: keeps the logarithm of an eigenvalue of zero finite


def jacov(model: nn.Module, images: Tensor, labels: Tensor, seed: int) -> float:
    """-sum(log(v + k) + 1 / (v + k)) over the eigenvalues v of the correlation matrix of the images' gradients.

    The gradient is that of the sum of all answers. Highest, -images * (log(1 + k) + 1 / (1 + k)), when no two of
    them correlate. With more images than pixels, eigenvalues of zero add a large constant to every network's.
    -inf if the answers do not depend on some image.
    """
    with scratch(model, seed) as network:
        x = images.clone().requires_grad_(True)
        rows = gradients(network(x).sum(), [x])[0].flatten(1).double()
    rows = rows - rows.mean(1, keepdim=True)
    lengths = rows.norm(dim=1, keepdim=True)
    if not bool((lengths.isfinite() & (lengths > 0)).all()):
        return WORST
    rows = rows / lengths
    values = torch.linalg.eigvalsh(rows @ rows.T).clamp(min=0) + SMALL
    return -float((values.log() + 1 / values).sum())
