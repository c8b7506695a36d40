"""A search space of your own: the choices, and what a point of them means. Here plain convolutional networks.

    nasflow run examples/own_space.yaml

or `nasflow.fit("digits", settings={"space": "examples/own_space.py"})`, the path being seen from where nasflow is
started.
"""

from torch import nn

from nasflow import Choice, Space


def space(shape: tuple[int, int, int], classes: int, *, layers: int = 3) -> Space:
    """Up to `layers` convolutions; arguments such as `layers` may be set in the experiment file."""
    return Space(
        (
            Choice("layers", tuple(range(1, layers + 1)), ordered=True),
            Choice("width", (8, 16, 24, 32), ordered=True),
            Choice("kernel", (1, 3, 5), ordered=True),
            Choice("pooling", ("mean", "max")),
        )
    )


def build(point: dict, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """The network of a point for images of `shape` (channels, height, width), with fresh weights."""
    channels, width, kernel = shape[0], point["width"], point["kernel"]
    parts: list[nn.Module] = []
    for i in range(point["layers"]):
        inputs = width if i else channels
        parts += [nn.Conv2d(inputs, width, kernel, 1, kernel // 2), nn.BatchNorm2d(width), nn.ReLU()]
    pool = nn.AdaptiveAvgPool2d(2) if point["pooling"] == "mean" else nn.AdaptiveMaxPool2d(2)
    return nn.Sequential(*parts, pool, nn.Flatten(), nn.Linear(4 * width, classes))
