"""Bar: a ResNet-20 in 4 bits, trained with learned steps (LSQ) against plain rounding, for equally many epochs.

    python benchmarks/compression_lsq.py --data FOLDER_OR_ARCHIVE [--seeds 3] [--epochs 2] [--images 5000]

All begin with the same trained network (_cifar.py), first and last layer in 8 bits, and learn from the same images with
the same recipe. The bar is against plain fake quantisation as frameworks do it and as papers compare with: one step a
layer for weights, one for inputs, from ranges that hold everything, those of inputs following the training (Jacob et
al., 2018). Beside it stand ranges of least squared error, with their steps as they are and as what LSQ starts from
(its paper starts from mean magnitudes), and steps for each channel of the weights. Errors are of all validation images.
What is done is kept in `--out`, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import _cifar
import numpy as np
import torch
from _results import write
from torch import Tensor, nn

from nasflow.compression import precision
from nasflow.compression.fakequant import simulate
from nasflow.data import Data
from nasflow.files import read_json, write_json
from nasflow.space import Point
from nasflow.training import Recipe, error, train

BITS, GOAL = 4, 0.01
SHAPE = (3, _cifar.PIXELS, _cifar.PIXELS)
CALIBRATION = 128  # images

Simulate = Callable[[Point, nn.Module, Tensor], nn.Module]


def _rounded(policy: Point, model: nn.Module, images: Tensor, **how: Any) -> nn.Module:
    return simulate(policy, model, SHAPE, images, **how)


WAYS: dict[str, dict[str, str]] = {
    "plain, a step per layer": {"step_per": "layer"},
    "LSQ, a step per layer": {"step_per": "layer", "qat": "lsq"},
    "plain of least error, a step per layer": {"step_per": "layer", "method": "mse"},
    "LSQ from least error, a step per layer": {"step_per": "layer", "qat": "lsq", "method": "mse"},
    "plain, a step per channel": {},
    "LSQ, a step per channel": {"qat": "lsq"},
}
METHODS: dict[str, Simulate] = {name: partial(_rounded, **how) for name, how in WAYS.items()}
BAR = ("plain, a step per layer", "LSQ, a step per layer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=5000, help="that are learned from")
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar"), help="of the trained network")
    parser.add_argument("--out", type=Path, default=Path("runs/compression-lsq"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(epochs=given.epochs, batch_size=64, learning_rate=2e-3)
    whole = _cifar.data(given.data, cache=given.runs)
    data = _fewer(whole, given.images)
    network = _cifar.base("resnet20", whole, given.runs)
    policy = precision.uniform(precision.space(network, SHAPE, bits=(BITS,)), BITS)
    folder = given.out / f"{given.images}-images-{given.epochs}-epochs"
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in METHODS}
    for seed in range(given.seeds):
        for name, make in METHODS.items():
            kept = folder / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}.json"
            if not kept.exists():
                write_json(kept, _run(make, policy, network, data, recipe, seed))
            found[name].append(read_json(kept))
            print(f"seed {seed}, {name}: {found[name][-1]}", flush=True)
    errors = {name: statistics.fmean(run["error"] for run in runs) for name, runs in found.items()}
    plain, learned = BAR
    gain = errors[plain] - errors[learned]
    write(
        "compression-lsq",
        goal=f"error of plain fake quantisation in {BITS} bits less that of LSQ, equally many epochs, at least {GOAL}",
        value=gain,
        holds=gain >= GOAL,
        error_in_floats=error(network, data.validation, data.preprocess),
        errors=errors,
        runs=found,
        validation_images=len(data.validation),
    )


def _run(
    make: Simulate, policy: Point, network: nn.Module, data: Data, recipe: Recipe, seed: int
) -> dict[str, Any]:
    """The error in few bits before and after training, and the seconds that training took."""
    picked = np.random.default_rng(seed).choice(len(data.train), CALIBRATION, replace=False)
    images = torch.from_numpy(data.preprocess(data.train.x[np.sort(picked)]))
    rounded = make(policy, network, images)
    before = error(rounded, data.validation, data.preprocess)
    epochs = train(rounded, data, recipe, seed=seed)
    return {
        "untrained_error": before,
        "error": epochs[-1].error,
        "epochs": [epoch.error for epoch in epochs],
        "seconds": round(sum(epoch.seconds for epoch in epochs), 1),
    }


def _fewer(data: Data, images: int) -> Data:
    chosen = np.sort(np.random.default_rng(0).permutation(len(data.train))[:images])
    return replace(data, train=replace(data.train, x=data.train.x[chosen], y=data.train.y[chosen]))


if __name__ == "__main__":
    main()
