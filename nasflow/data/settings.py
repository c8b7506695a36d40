"""What an experiment file says about data: which set, how it is parted, prepared and varied."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from nasflow.names import is_own, nearest

# Name -> whether `path` says where it lies.
FORMATS = {"cifar": True, "digits": False, "folder": True, "idx": True, "npz": True}

# Name -> default amount, None where there is none to set; what they do is said in augment.py.
AUGMENTATIONS: dict[str, float | None] = {
    "brightness": 0.2,
    "contrast": 0.2,
    "crop": 0.125,
    "cutout": 0.5,
    "flip": None,
    "noise": 0.1,
    "rotate": 15.0,
    "shift": 0.125,
    "vflip": None,
    "zoom": 0.2,
}

Share = Annotated[float, Field(strict=True, gt=0, lt=1)]
Count = Annotated[int, Field(strict=True, ge=1)]
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]


class DataSettings(BaseModel):
    """Which data, and how it is parted, prepared and varied.

    Where a data set brings no test part, the share `test` is split off first and stays unseen until deploy. From
    the rest (at most `train_limit` images) the share `validation` is split off. All parts hold every class in its
    proportion and depend on `seed` alone.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(
        "digits", description=f"{', '.join(FORMATS)}, or a function of yours: my_module:function"
    )
    path: Path | None = Field(None, description="where it lies: a folder or a file")
    resize: tuple[Count, Count] | None = Field(
        None,
        description="height and width, or one number for both",
        json_schema_extra={"expected": "a number of pixels such as 32, or [height, width]"},
    )
    channels: Literal[1, 3] | None = Field(None, description="1: grey, 3: colour")
    scale: Finite | None = Field(
        None, description="what pixels are multiplied with; 1/255 for bytes, 1 for floats"
    )
    normalise: Flag = Field(True, description="subtract the mean of the training images, divide by their std")
    mean: tuple[Finite, ...] | None = Field(
        None, description="a mean for each channel instead, after scaling"
    )
    std: tuple[Annotated[Finite, Field(gt=0)], ...] | None = Field(
        None, description="and a std for each channel"
    )
    augment: tuple[str, ...] = Field((), description=f"while training: {', '.join(AUGMENTATIONS)}; crop:0.25")
    test: Share = Field(0.2, description="share to test on, if the data set has no test part")
    validation: Share = Field(0.2, description="share of the rest to judge candidates by")
    folds: Count = Field(1, description="estimate errors by that many folds; 1: by the validation share")
    train_limit: Count | None = Field(None, description="use at most so many images, validation included")
    test_limit: Count | None = Field(None, description="test on at most so many images")
    seed: Annotated[int, Field(strict=True, ge=0)] = Field(0, description="of how the parts are drawn")

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in FORMATS and not is_own(name):
            raise ValueError(
                f"unknown data {name!r}: {nearest(name, FORMATS)};"
                " a function of your own is written my_module:function or my_file.py:function"
            )
        return name

    @field_validator("resize", mode="before")
    @classmethod
    def _square(cls, size: Any) -> Any:
        return (size, size) if type(size) is int else size

    @field_validator("augment")
    @classmethod
    def _parsed(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            parse_augmentation(name)
        return names

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        needs_path = FORMATS.get(self.name, False)
        if needs_path and self.path is None:
            raise ValueError(f"path: expected the folder or file that data {self.name} lies in, got none")
        if not needs_path and self.path is not None:
            raise ValueError(f"path: expected none, since data {self.name} takes none, got {self.path}")
        if (self.mean is None) != (self.std is None) or len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean: expected mean and std with one number a channel each, or neither")
        if self.mean is not None and not self.normalise:
            raise ValueError("normalise: expected true beside mean and std, got false")
        return self


def parse_augmentation(name: str) -> tuple[str, float | None]:
    """(name, amount) of "crop" or "crop:0.25"; ValueError says what is wrong.

    >>> parse_augmentation("crop:0.25"), parse_augmentation("cutout"), parse_augmentation("flip")
    (('crop', 0.25), ('cutout', 0.5), ('flip', None))
    """
    kind, colon, text = name.partition(":")
    if kind not in AUGMENTATIONS:
        raise ValueError(f"unknown augmentation {kind!r}: {nearest(kind, AUGMENTATIONS)}")
    amount = AUGMENTATIONS[kind]
    if not colon:
        return kind, amount
    try:
        given = float(text)
    except ValueError:
        given = -1.0
    if amount is None or not 0 < given < float("inf"):
        wanted = "no amount" if amount is None else f"a number above 0, such as {kind}:{amount:g}"
        raise ValueError(f"augmentation {kind!r} takes {wanted}, got {text!r}")
    return kind, given
