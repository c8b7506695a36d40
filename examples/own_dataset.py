"""Your own data in a few lines: a function that returns images and labels, named in the settings.

Here: 16x16 patches of the two photographs that ship with scikit-learn. Which one is a patch from? In an experiment
file the same is `data: examples/own_dataset.py:patches`, the path being seen from where nasflow is started.

    python examples/own_dataset.py
"""

import numpy as np
from sklearn.datasets import load_sample_images

from nasflow.data import DataSettings, digest, load, load_test


def patches():
    """(x, y): images (n, height, width, 3) of bytes and what each shows; add (x, y) of a test part if you have one."""
    cut = [
        photo[:416].reshape(26, 16, 40, 16, 3).swapaxes(1, 2).reshape(-1, 16, 16, 3)
        for photo in load_sample_images().images
    ]
    return np.concatenate(cut), np.repeat(["temple", "flower"], [len(part) for part in cut])


def main() -> None:
    settings = DataSettings(name="own_dataset:patches", augment=("flip", "crop"))
    data = load(settings)
    print(
        f"{data.classes}, images {data.shape}: {len(data.train)} to train on, {len(data.validation)} to choose by"
    )
    print(
        f"mean {np.round(data.preprocess.mean, 3)}, std {np.round(data.preprocess.std, 3)} of the training images"
    )
    test = load_test(settings)  # nasflow does this once, after it has chosen what to ship
    print(f"{len(test)} to test on, sha256 {digest(test)[:12]}")


if __name__ == "__main__":
    main()
