"""Images and what they show: every kind of data set behind one typed value, its test part kept apart."""

from nasflow.data.loading import load, load_test
from nasflow.data.settings import AUGMENTATIONS, FORMATS, DataSettings
from nasflow.data.values import Data, DataError, Preprocess, Split, digest

__all__ = [
    "AUGMENTATIONS",
    "FORMATS",
    "Data",
    "DataError",
    "DataSettings",
    "Preprocess",
    "Split",
    "digest",
    "load",
    "load_test",
]
