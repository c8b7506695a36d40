"""One's own function as data: any common arrays are taken, and what cannot be is said."""

import importlib
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from nasflow.data import DataError, DataSettings, load, load_test
from nasflow.names import UnknownName

MODULE = """
import numpy as np
rng = np.random.default_rng(0)
x = rng.integers(0, 256, (20, 5, 4), dtype=np.uint8)
y = np.arange(20) % 2

def two(): return x, y
def four(): return x, y, x[:6], y[:6]
def texts(): return x, np.where(y == 0, "cat", "dog"), x[:6], ["dog"] * 6
def objects(): return x, np.where(y == 0, "cat", "dog").astype(object)
def lists(): return x.tolist(), y.tolist()
def floats(): return x / 255, y.astype(float)
def last(): return np.repeat(x[..., None], 3, axis=3), y
def nan():
    bad = x / 255
    bad[3, 2, 1] = np.nan
    bad[4, 0, 0] = np.inf
    return bad, y
def all_nan(): return np.full((20, 5, 4), np.nan), y
def none(): return np.zeros((0, 5, 4)), np.zeros(0)
def one_class(): return x, np.zeros(20, int)
def rare(): return x, np.where(np.arange(20) == 7, 2, y)
def flat(): return x.reshape(20, 20), y
def uneven(): return [[[1, 2]], [[1, 2], [3, 4]]], [0, 1]
def scalar(): return 3, y
def fewer(): return x, y[:-1]
def one_hot(): return x, np.eye(2)[y]
def regression(): return x, np.linspace(0, 1, 20)
def three(): return x, y, x
def generator(): return (image for image in x)
def unknown(): return x, y, x[:6], y[:6] + 1
constant = 3
"""


@pytest.fixture(scope="module", autouse=True)
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_images.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.chdir(folder)
        yield
    sys.modules.pop("own_images", None)


def settings(name: str, **more) -> DataSettings:
    return DataSettings(name=f"own_images:{name}", **more)


@pytest.mark.parametrize("name", ["two", "objects", "lists", "floats", "last"])
def test_any_common_arrays_are_taken_and_a_share_is_held_back(name):
    data, test = load(settings(name)), load_test(settings(name))
    assert (len(data.train), len(data.validation), len(test)) == (13, 3, 4)
    assert data.shape == ((3, 5, 4) if name == "last" else (1, 5, 4))
    assert data.classes == (("cat", "dog") if name == "objects" else ("0", "1"))
    assert data.train.x.dtype == (np.float32 if name == "floats" else np.uint8)


def test_a_test_part_is_kept_as_given():
    data, test = load(settings("four")), load_test(settings("four"))
    assert len(data.train) + len(data.validation) == 20 and len(test) == 6


def test_test_labels_are_numbered_as_in_training():
    assert load(settings("texts")).classes == ("cat", "dog")
    assert load_test(settings("texts")).y.tolist() == [1] * 6


def test_a_file_can_be_named_instead_of_a_module():
    assert load(DataSettings(name="own_images.py:two")).sha256 == load(settings("two")).sha256


def test_bytes_are_scaled_to_one_and_floats_left_alone():
    raw = {"normalise": False}
    assert load(settings("two", **raw)).preprocess.scale == 1 / 255
    assert load(settings("floats", **raw)).preprocess.scale == 1.0
    assert load(settings("two", scale=0.5, **raw)).preprocess.scale == 0.5


def test_images_with_nan_are_left_out_and_counted():
    own_images = importlib.import_module("own_images")
    data, test = load(settings("nan")), load_test(settings("nan"))
    assert len(data.train) + len(data.validation) + len(test) == 18
    assert sum([*data.skipped.values(), *test.skipped.values()]) == 2
    assert set(data.skipped) | set(test.skipped) == {"pixels that are not numbers (NaN or infinite)"}
    label = {
        (image / 255).astype(np.float32).tobytes(): y
        for image, y in zip(own_images.x, own_images.y, strict=True)
    }
    for part in (data.train, data.validation, test):
        assert np.isfinite(part.x).all()
        assert [label[image.tobytes()] for image in part.x[:, 0]] == part.y.tolist()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("all_nan", r"16 of 16 are not \(16 pixels that are not numbers"),
        ("none", "expected images, got none"),
        ("one_class", "expected at least two classes to tell apart, got 1"),
        ("rare", "expected at least 3 images of every class.*'2' has 1"),
        ("flat", r"got \(20, 20\); reshape them"),
        ("uneven", "lists of uneven lengths"),
        ("scalar", r"got images of shape \(\)"),
        ("fewer", r"images of shape \(20, 5, 4\) and 19 labels"),
        ("one_hot", r"take y.argmax\(axis=1\)"),
        ("regression", "expected labels that are whole numbers or texts, got float64"),
        ("three", "got a tuple of 3"),
        ("generator", "got generator"),
        ("unknown", "expected test labels that training has too .*, got 2"),
        ("constant", r"expected a function that returns \(x, y\), got int"),
    ],
)
def test_what_cannot_be_used_is_an_error_that_says_why(name, message):
    with pytest.raises(DataError, match=message):
        load(settings(name))
        load_test(settings(name))


def test_a_function_that_does_not_exist_is_an_error_that_names_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'four'"):
        load(settings("fourr"))
