"""What spaces of networks ask of their settings and points, with errors that name the space.

`where` begins an error: "darts space" of a setting, "point of the darts space" of a point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nasflow.space import Scalar, SpaceError


def task(where: str, shape: Sequence[int], classes: int) -> None:
    """Raise a SpaceError unless `shape` is (channels, height, width) and there are 2 or more classes."""
    if len(shape) != 3 or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise SpaceError(f"{where}: shape is (channels, height, width), all above 0, got {tuple(shape)}")
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        raise SpaceError(f"{where}: expected at least 2 classes to tell apart, got {classes}")


def whole(where: str, name: str, value: object, least: int, most: float = float("inf")) -> int:
    """`value` if it is a whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        top = "" if most == float("inf") else f" and at most {most}"
        raise SpaceError(f"{where}: {name} is a whole number of at least {least}{top}, got {value!r}")
    return value


def wholes(where: str, name: str, values: object, least: int) -> tuple[int, ...]:
    """`values` as options: whole numbers of at least `least`, ascending, each once."""
    if not isinstance(values, Sequence) or isinstance(values, str) or not values:
        raise SpaceError(f"{where}: {name} is a list of numbers, got {values!r}")
    return tuple(sorted({whole(where, f"each of {name}", value, least) for value in values}))


def among(where: str, name: str, values: object, known: tuple[str, ...]) -> tuple[str, ...]:
    """`values` as options: some of `known`, in their order."""
    if (
        not isinstance(values, Sequence)
        or isinstance(values, str)
        or not values
        or any(value not in known for value in values)
    ):
        raise SpaceError(f"{where}: {name} are among {list(known)}, got {values!r}")
    return tuple(option for option in known if option in values)


def said(where: str, point: Mapping[str, Scalar], name: str) -> Scalar:
    """What `point` says about `name`."""
    if name not in point:
        raise SpaceError(f"{where}: {name!r} is missing, got only {sorted(point)}")
    return point[name]


def said_whole(where: str, point: Mapping[str, Scalar], name: str, least: int) -> int:
    """The whole number of at least `least` that `point` says for `name`."""
    return whole(where, name, said(where, point, name), least)


def said_option(where: str, point: Mapping[str, Scalar], name: str, known: Sequence[Scalar]) -> Scalar:
    """The one of `known` that `point` says for `name`."""
    value = said(where, point, name)
    if not any(value == option and type(value) is type(option) for option in known):
        raise SpaceError(f"{where}: {name} is one of {list(known)}, got {value!r}")
    return value
