"""Gaussian processes over points: what a loss is likely to be where nobody has looked, and how unsure that is.

The covariance of two points is a sum of a linear one (numbers and counts: what adds up, as latency does), the share
of equal categories (what adds up choice by choice, as in a lookup table), and a smooth one of all that differs, in
which every number and category has a weight of its own (Rasmussen and Williams, Gaussian Processes for Machine
Learning, 2006, chapters 2 and 5). Weights are found by maximum a posteriori likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.optimize import minimize

from nasflow.strategies.encoding import Encoded, Numbers

JITTER = 1e-6
STEPS = 60  # of the optimiser
LOWEST, HIGHEST = -12.0, 6.0  # of the logarithm of any parameter
WEIGHTS_SUM = 0.3  # prior median of the smooth part's weights, all together
PARTS = (np.log(0.5), np.log(0.5), np.log(0.5), -4.0)  # prior medians: smooth, linear, additive, noise
PARTS_SPREAD = (1.0, 1.5, 1.5, 1.5)


@dataclass(frozen=True)
class Kernel:
    """Which parts a covariance has: with `additive` all three, without it only the smooth one, of numbers alone."""

    additive: bool = True


SMOOTH, ADDITIVE = Kernel(additive=False), Kernel()


class Gaussian:
    """A Gaussian process fitted to `losses` (points,) of `points`; `start` are the parameters of an earlier fit.
    With `fitted=False` they are taken as they are."""

    def __init__(
        self,
        kernel: Kernel,
        points: Encoded,
        losses: Numbers,
        start: Numbers | None = None,
        *,
        fitted: bool = True,
    ) -> None:
        self.kernel, self.points = kernel, points
        self._mean, self._spread = float(losses.mean()), float(losses.std()) or 1.0
        self._targets = (losses - self._mean) / self._spread
        self._centre = self._straight(points).mean(axis=0)
        weights = points.numbers.shape[1] + (points.categories.shape[1] if kernel.additive else 0)
        prior = np.full(weights, np.log(WEIGHTS_SUM / max(weights, 1)))
        self.parameters = np.concatenate([prior, PARTS]) if start is None else start
        if fitted:
            self.parameters = self._fit(prior)
        covariance = self._covariance(points, points)
        covariance[np.diag_indices(len(points))] += self._parts[3] + JITTER
        self._factor = cho_factor(covariance, lower=True)
        self._solved = cho_solve(self._factor, self._targets)

    def predict(self, points: Encoded, *, noise: bool = True) -> tuple[Numbers, Numbers]:
        """Mean and standard deviation (points,) of what would be observed, or of what is behind it, without noise."""
        across = self._covariance(points, self.points)
        left = solve_triangular(self._factor[0], across.T, lower=True)
        smooth, linear, additive, noisy = self._parts
        variance = np.full(len(points), smooth + (noisy if noise else 0.0))
        if self.kernel.additive:
            variance += linear * np.mean((self._straight(points) - self._centre) ** 2, axis=1)
            variance += additive
        variance -= np.sum(left**2, axis=0)
        deviation = np.sqrt(np.maximum(variance, JITTER))
        mean = np.asarray(across @ self._solved * self._spread + self._mean)
        return mean, np.asarray(deviation * self._spread)

    def draw(self, points: Encoded, count: int, rng: np.random.Generator) -> Numbers:
        """What may be behind observations of `points` all together, without noise; array (count, points)."""
        across = self._covariance(points, self.points)
        left = solve_triangular(self._factor[0], across.T, lower=True)
        variances, axes = np.linalg.eigh(self._covariance(points, points) - left.T @ left)
        steps = rng.normal(size=(count, len(points))) * np.sqrt(np.maximum(variances, 0.0))
        return np.asarray((across @ self._solved + steps @ axes.T) * self._spread + self._mean)

    def believing(self, points: Encoded, losses: Numbers) -> Gaussian:
        """The same process if it had been told these as well."""
        told = self._targets * self._spread + self._mean
        both = Encoded.join([self.points, points]), np.concatenate([told, losses])
        return Gaussian(self.kernel, *both, self.parameters, fitted=False)

    def left_out(self) -> float:
        """Log density of each observation by a process that has all the others (ibid., 5.4.2), their sum."""
        inverse = cho_solve(self._factor, np.eye(len(self.points)))
        variance = 1.0 / np.diag(inverse)
        residual = self._solved * variance
        return float(-0.5 * np.sum(np.log(variance) + residual**2 / variance))

    @property
    def _parts(self) -> NDArray[np.float64]:
        return np.asarray(np.exp(np.clip(self.parameters[-4:], LOWEST, HIGHEST)))

    def _straight(self, points: Encoded) -> Numbers:
        """What the linear part sees; one column of zeros if there is nothing."""
        both = np.hstack([points.numbers, points.counts])
        return both if both.shape[1] else np.zeros((len(points), 1))

    def _covariance(self, a: Encoded, b: Encoded) -> Numbers:
        smooth, linear, additive, _ = self._parts
        weights = np.exp(np.clip(self.parameters[:-4], LOWEST, HIGHEST))
        numbers = a.numbers.shape[1]
        scale = np.sqrt(weights[:numbers])
        left, right = a.numbers * scale, b.numbers * scale
        apart = (left**2).sum(axis=1)[:, None] + (right**2).sum(axis=1)[None, :] - 2.0 * left @ right.T
        apart = np.maximum(apart, 0.0)
        if not self.kernel.additive:
            return np.asarray(smooth * np.exp(-apart))
        equal = np.zeros_like(apart)
        for column, weight in enumerate(weights[numbers:]):
            same = a.categories[:, column][:, None] == b.categories[:, column][None, :]
            apart += weight * ~same
            equal += same
        straight = (self._straight(a) - self._centre) @ (self._straight(b) - self._centre).T
        straight /= len(self._centre)
        return np.asarray(
            smooth * np.exp(-apart) + linear * straight + additive * equal / max(1, a.categories.shape[1])
        )

    def _fit(self, prior: Numbers) -> Numbers:
        """The parameters of the highest posterior density, by gradients."""
        points, targets, count = self.points, self._targets, len(prior)
        apart = [(c[:, None] - c[None, :]) ** 2 for c in points.numbers.T]
        straight = np.zeros((len(points), len(points)))
        equal = np.zeros((len(points), len(points)))
        if self.kernel.additive:
            same = [c[:, None] == c[None, :] for c in points.categories.T]
            apart += [(~one).astype(float) for one in same]
            equal = sum(same, equal) / max(1, len(same))
            centred = self._straight(points) - self._centre
            straight = centred @ centred.T / centred.shape[1]
        distances = np.array(apart).reshape(count, -1)
        identity = np.eye(len(points))
        medians = np.concatenate([prior, PARTS])
        spreads = np.concatenate([np.ones(count), PARTS_SPREAD])

        def loss(parameters: Numbers) -> tuple[float, Numbers]:
            values = np.exp(parameters)
            smooth, linear, additive, noise = values[count:]
            near = smooth * np.exp(-(values[:count] @ distances)).reshape(identity.shape)
            covariance = near + linear * straight + additive * equal + (noise + JITTER) * identity
            factor = cho_factor(covariance, lower=True)
            solved = cho_solve(factor, targets)
            slope = 0.5 * (cho_solve(factor, identity) - np.outer(solved, solved))
            weighted = slope * near
            gradient = np.concatenate(
                [
                    -values[:count] * (distances @ weighted.ravel()),
                    [
                        weighted.sum(),
                        linear * np.sum(slope * straight),
                        additive * np.sum(slope * equal),
                        noise * np.trace(slope),
                    ],
                ]
            )
            away = (parameters - medians) / spreads
            density = 0.5 * targets @ solved + np.log(np.diag(factor[0])).sum() + 0.5 * away @ away
            return float(density), gradient + away / spreads

        bounds = [(LOWEST, HIGHEST)] * len(medians)
        options = {"maxiter": STEPS}
        found = minimize(loss, self.parameters, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        return np.asarray(found.x, dtype=np.float64)


class Model:
    """A Gaussian process with the kernel that foretells the left-out best, kept up to date.

    Its parameters are fitted anew whenever there is a tenth more to learn from, on at most `most` points.
    """

    def __init__(self, described: bool, seed: int, most: int = 200) -> None:
        self._kernels = (ADDITIVE, SMOOTH) if described else (ADDITIVE,)
        self._parameters: list[Numbers | None] = [None] * len(self._kernels)
        self._best, self._fitted, self._most, self._seed = 0, 0, most, seed

    def learn(self, points: Encoded, losses: Numbers) -> Gaussian:
        """The process that knows these observations."""
        count = len(points)
        if count < self._fitted or count > 1.1 * self._fitted:
            some, few = points, losses
            if count > self._most:
                rng = np.random.default_rng((self._seed, count))
                kept = np.sort(rng.choice(count, self._most, replace=False))
                some, few = points[kept], losses[kept]
            fits = [
                Gaussian(kernel, some, few, start)
                for kernel, start in zip(self._kernels, self._parameters, strict=True)
            ]
            self._parameters = [fit.parameters for fit in fits]
            self._best, self._fitted = int(np.argmax([fit.left_out() for fit in fits])), count
        return Gaussian(self._kernels[self._best], points, losses, self._parameters[self._best], fitted=False)
