"""What the compression benchmarks compress: two networks of the kinds that papers prune, trained here on CIFAR-10.

ResNet-20 (He et al., 2016, arXiv:1512.03385, section 4.2) with projections where shapes change, and a MobileNetV2
(Sandler et al., 2018, arXiv:1801.04381) with fewer and narrower stages, both for images scaled to half their size so
that one processor thread trains them in minutes. They are ordinary modules that know nothing of nasflow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from nasflow.data import Data, DataSettings, load
from nasflow.files import replacing
from nasflow.network import load_weights
from nasflow.training import Recipe, seeded, train

PIXELS = 16
IMAGES = 10_000  # a fifth of them to judge by
RECIPE = Recipe(epochs=20, batch_size=64)


def data(path: Path, images: int = IMAGES, cache: Path | None = None) -> Data:
    """CIFAR-10 from `path`, a folder or an archive of pictures, train/CLASS/* and test/CLASS/*."""
    settings = DataSettings(
        name="folder", path=path, resize=(PIXELS, PIXELS), train_limit=images, augment=("flip", "crop")
    )
    return load(settings, cache)


class Residual(nn.Module):
    """Two 3x3 convolutions beside the identity, or beside a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = stride == 1 and inputs == outputs
        self.short: nn.Module = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.short(x))


def resnet20(width: int = 16, classes: int = 10) -> nn.Module:
    """Three stages of three residual blocks, 16, 32 and 64 channels wide."""
    layers: list[nn.Module] = [
        nn.Conv2d(3, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    ]
    inputs = width
    for stage in range(3):
        for block in range(3):
            outputs = width * 2**stage
            layers.append(Residual(inputs, outputs, 2 if stage > 0 and block == 0 else 1))
            inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes)]
    return nn.Sequential(*layers)


class Inverted(nn.Module):
    """An inverted residual: wider by `expand`, a 3x3 convolution of each channel alone, narrow again."""

    def __init__(self, inputs: int, outputs: int, stride: int, expand: int) -> None:
        super().__init__()
        middle = inputs * expand
        self.body = nn.Sequential(
            nn.Conv2d(inputs, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU6(),
            nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU6(),
            nn.Conv2d(middle, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.body(x)
        return x + made if self.adds else made


STAGES = ((24, 1, 1), (32, 2, 2), (64, 2, 2))  # channels, blocks, stride of the first


def mobilenet_v2(classes: int = 10) -> nn.Module:
    """A stem, five inverted residuals that expand six times, a 1x1 convolution to 256 channels."""
    inputs = 16
    layers: list[nn.Module] = [
        nn.Conv2d(3, inputs, 3, 1, 1, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU6(),
    ]
    for outputs, blocks, stride in STAGES:
        for block in range(blocks):
            layers.append(Inverted(inputs, outputs, stride if block == 0 else 1, 6))
            inputs = outputs
    layers += [nn.Conv2d(inputs, 256, 1, bias=False), nn.BatchNorm2d(256), nn.ReLU6()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, classes)]
    return nn.Sequential(*layers)


NETWORKS: dict[str, Callable[[], nn.Module]] = {"resnet20": resnet20, "mobilenet_v2": mobilenet_v2}


def base(name: str, images: Data, folder: Path, recipe: Recipe = RECIPE) -> nn.Module:
    """The network of that name, trained; its weights stay in `folder` and are found there the next time."""
    weights = folder / f"{name}.pt"
    with seeded(0):
        network = NETWORKS[name]()
    if weights.exists():
        load_weights(network, weights)
        return network.eval()
    folder.mkdir(parents=True, exist_ok=True)
    train(
        network,
        images,
        recipe,
        seed=0,
        checkpoint=folder / f"{name}.checkpoint.pt",
        on_epoch=lambda epoch: print(f"{name} epoch {epoch.number}: error {epoch.error:.4f}", flush=True),
    )
    with replacing(weights) as part:
        torch.save(network.state_dict(), part)
    return network


def main() -> None:
    """Train both: python benchmarks/_cifar.py FOLDER_OR_ARCHIVE RUNS."""
    path, folder = Path(sys.argv[1]), Path(sys.argv[2])
    for name in sys.argv[3:] or NETWORKS:
        base(name, data(path, cache=folder), folder)


if __name__ == "__main__":
    main()
