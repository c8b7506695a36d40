"""Random changes to training images, so that a network learns what does not matter.

Every image of a batch draws its own change. Amounts are shares of the image's side or of the pixel values' spread,
so that one setting suits 8x8 and 224x224 pixels: "crop:0.125" moves a 32-pixel image by up to 4. Zeros fill what
comes into view, which is the mean colour of images that were normalised.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional

from nasflow.data.settings import parse_augmentation


def augment(names: Sequence[str], batch: Tensor, generator: Generator) -> Tensor:
    """Apply the named changes one after the other; the batch given stays as it is.

    `batch` is (n, channels, height, width) of floats. A name may carry its amount, as in "rotate:10"; which names
    there are, and their usual amounts, stands in `nasflow.data.AUGMENTATIONS`. ValueError for any other.
    """
    for name in names:
        kind, amount = parse_augmentation(name)
        batch = OPERATIONS[kind](batch, 0.0 if amount is None else amount, generator)
    return batch


def flip(batch: Tensor, _: float, generator: Generator) -> Tensor:
    """Mirror left and right, every second image."""
    return torch.where(_coins(batch, generator), batch.flip(3), batch)


def vflip(batch: Tensor, _: float, generator: Generator) -> Tensor:
    """Turn upside down, every second image."""
    return torch.where(_coins(batch, generator), batch.flip(2), batch)


def crop(batch: Tensor, share: float, generator: Generator) -> Tensor:
    """Pad with zeros by `share` of the side and cut the old size out anywhere (He et al., 2015, arXiv:1512.03385)."""
    return _window(batch, share, generator, mode="constant")


def shift(batch: Tensor, share: float, generator: Generator) -> Tensor:
    """Move by up to `share` of the side; what comes into view repeats the edge, for backgrounds that are not grey."""
    return _window(batch, share, generator, mode="replicate")


def cutout(batch: Tensor, share: float, generator: Generator) -> Tensor:
    """Blank a square of `share` of the side around any point (DeVries and Taylor, 2017, arXiv:1708.04552)."""
    n, _, height, width = batch.shape
    size = _pixels(share, min(height, width))
    inside = []
    for axis, length in ((2, height), (3, width)):
        first = _integers(0, length, n, batch, generator) - size // 2
        offset = torch.arange(length, device=batch.device) - first[:, None]
        inside.append(((offset >= 0) & (offset < size)).unsqueeze(1).unsqueeze(5 - axis))
    return batch.masked_fill(inside[0] & inside[1], 0.0)


def rotate(batch: Tensor, degrees: float, generator: Generator) -> Tensor:
    """Turn around the middle by up to `degrees` either way."""
    angle = _uniform(batch, generator) * math.radians(degrees)
    return _warp(batch, angle, torch.ones_like(angle))


def zoom(batch: Tensor, share: float, generator: Generator) -> Tensor:
    """Enlarge or shrink around the middle by up to a factor of 1 + `share`."""
    factor = (1 + share) ** _uniform(batch, generator)
    return _warp(batch, torch.zeros_like(factor), factor)


def brightness(batch: Tensor, amount: float, generator: Generator) -> Tensor:
    """Add up to `amount`, one number an image, either way; in standard deviations if images are normalised."""
    return batch + amount * _uniform(batch, generator)[:, None, None, None]


def contrast(batch: Tensor, share: float, generator: Generator) -> Tensor:
    """Stretch or shrink the distance to the image's own mean by up to `share`."""
    mean = batch.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (batch - mean) * (1 + share * _uniform(batch, generator)[:, None, None, None])


def noise(batch: Tensor, amount: float, generator: Generator) -> Tensor:
    """Add Gaussian noise of that standard deviation to every pixel."""
    drawn = torch.randn(batch.shape, generator=generator, device=generator.device, dtype=batch.dtype)
    return batch + amount * drawn.to(batch.device)


OPERATIONS: dict[str, Callable[[Tensor, float, Generator], Tensor]] = {
    "brightness": brightness,
    "contrast": contrast,
    "crop": crop,
    "cutout": cutout,
    "flip": flip,
    "noise": noise,
    "rotate": rotate,
    "shift": shift,
    "vflip": vflip,
    "zoom": zoom,
}


def _window(batch: Tensor, share: float, generator: Generator, mode: str) -> Tensor:
    """Each image seen through a window of its own size that is off by up to `share` of the side."""
    n, channels, height, width = batch.shape
    top, left = _pixels(share, height), _pixels(share, width)
    padded = functional.pad(batch, (left, left, top, top), mode=mode)
    rows = _integers(0, 2 * top + 1, n, batch, generator)[:, None] + torch.arange(height, device=batch.device)
    columns = _integers(0, 2 * left + 1, n, batch, generator)[:, None] + torch.arange(
        width, device=batch.device
    )
    image = torch.arange(n, device=batch.device)[:, None, None, None]
    channel = torch.arange(channels, device=batch.device)[None, :, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _warp(batch: Tensor, angle: Tensor, factor: Tensor) -> Tensor:
    """Turn by `angle` (radians) and enlarge by `factor`, each (n,), around the middle; between pixels, blend."""
    height, width = batch.shape[2:]
    cosine, sine, nought = torch.cos(angle) / factor, torch.sin(angle) / factor, torch.zeros_like(angle)
    # The grid counts from -1 to 1 along either side, so turning a picture that is not square needs their ratio.
    rows = [
        torch.stack([cosine, -sine * height / width, nought], dim=1),
        torch.stack([sine * width / height, cosine, nought], dim=1),
    ]
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(batch.shape), align_corners=False)
    return functional.grid_sample(batch, grid, align_corners=False)


def _pixels(share: float, side: int) -> int:
    return max(1, round(share * side))


def _coins(batch: Tensor, generator: Generator) -> Tensor:
    """(n, 1, 1, 1) of True or False."""
    return (_integers(0, 2, len(batch), batch, generator) == 1)[:, None, None, None]


def _integers(low: int, high: int, n: int, batch: Tensor, generator: Generator) -> Tensor:
    # Drawn where the generator lives, so that a batch on another device gets the same changes.
    return torch.randint(low, high, (n,), generator=generator, device=generator.device).to(batch.device)


def _uniform(batch: Tensor, generator: Generator) -> Tensor:
    """(n,) numbers between -1 and 1."""
    drawn = torch.rand(len(batch), generator=generator, device=generator.device, dtype=batch.dtype)
    return (2 * drawn - 1).to(batch.device)
