"""Arrays of images brought to one form: channels first, uint8 or float32, one size, grey or colour."""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]


def channels_first(x: Array) -> Array:
    """A view of any common array of images as (n, channels, height, width); ValueError says why there is none.

    Taken: (n, height, width); (n, height, width, 1 or 3); anything else with four axes is channels first.
    """
    if x.ndim not in (3, 4) or 0 in x.shape[1:]:
        raise ValueError(
            f"expected images (n, height, width) or (n, channels, height, width), got {x.shape}; reshape them"
        )
    if x.ndim == 3:
        return x[:, None]
    return x.transpose(0, 3, 1, 2) if x.shape[3] in (1, 3) and x.shape[1] not in (1, 3) else x


def storable(x: Array) -> Array:
    """The same numbers as uint8, if they are whole, or else float32; ValueError for others than 0..255."""
    if x.dtype.kind == "f":
        with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which the reader counts
            return np.ascontiguousarray(x, dtype=np.float32)
    if x.dtype.kind not in "iu":
        raise ValueError(f"expected pixels of uint8 or float32, got {x.dtype}; convert them")
    if x.dtype != np.uint8 and x.size and (x.min() < 0 or x.max() > 255):
        raise ValueError(
            f"expected whole numbers in 0..255, got {x.dtype} in {x.min()}..{x.max()}; convert them to float32"
        )
    return np.ascontiguousarray(x, dtype=np.uint8)


def with_channels(x: Array, channels: int) -> Array:
    """Grey (1) or colour (3) images from either; ValueError from anything else. (n, c, h, w) -> the same."""
    if x.shape[1] == channels:
        return x
    if (x.shape[1], channels) == (1, 3):
        return np.repeat(x, 3, axis=1)
    if (x.shape[1], channels) == (3, 1):
        weights = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601, as Pillow weighs them
        grey: Array = np.einsum("nchw,c->nhw", x, weights, dtype=np.float32)[:, None]
        return np.rint(grey).astype(np.uint8) if x.dtype == np.uint8 else grey
    raise ValueError(
        f"expected images of 1 or 3 channels to make {channels} of, got {x.shape[1]}; leave channels out"
    )


def resized(x: Array, size: tuple[int, int]) -> Array:
    """Images stretched to (height, width): bilinear, averaging over what falls together where they shrink."""
    if x.shape[2:] == size:
        return x
    height, width = size
    kind = np.uint8 if x.dtype == np.uint8 else np.float32
    out = np.empty((*x.shape[:2], height, width), dtype=kind)
    for index in np.ndindex(*x.shape[:2]):
        plane = Image.fromarray(x[index].astype(kind, copy=False))
        out[index] = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
    return out
