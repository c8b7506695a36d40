"""NumPy files of images and labels under the usual names, never running what is in them."""

from pathlib import Path

import numpy as np
import pytest

from nasflow.data import DataError, DataSettings, load, load_test


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 5, 4), dtype=np.uint8)


def labels(n: int) -> np.ndarray:
    return np.arange(n) % 2


def settings(path: Path, **more) -> DataSettings:
    return DataSettings(name="npz", path=path, **more)


def saved(tmp_path: Path, **arrays) -> Path:
    np.savez(tmp_path / "set.npz", **arrays)
    return tmp_path / "set.npz"


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
def test_the_usual_names_are_found(tmp_path, names):
    arrays = (images(20), labels(20), images(6, 1), labels(6))
    path = saved(tmp_path, **dict(zip(names, arrays, strict=True)))
    data, test = load(settings(path)), load_test(settings(path))
    assert data.shape == (1, 5, 4) and data.classes == ("0", "1")
    assert (len(data.train), len(data.validation), len(test)) == (16, 4, 6)
    assert {image.tobytes() for image in test.x} == {image.tobytes() for image in images(6, 1)}


@pytest.mark.parametrize("names", [("x", "y"), ("X", "y"), ("images", "labels")])
def test_without_a_test_part_a_share_is_held_back(tmp_path, names):
    path = saved(tmp_path, **{names[0]: images(20), names[1]: labels(20)})
    assert len(load_test(settings(path))) == 4


def test_validation_images_join_training(tmp_path):
    path = saved(
        tmp_path,
        train_images=images(20),
        train_labels=labels(20)[:, None],
        val_images=images(10, 1),
        val_labels=labels(10)[:, None],
        test_images=images(6, 2),
        test_labels=labels(6)[:, None],
    )
    data = load(settings(path))
    assert len(data.train) + len(data.validation) == 30


def test_loading_never_opens_the_test_arrays(tmp_path):
    path = saved(tmp_path, x=images(20), y=labels(20), x_test=np.array([{}], object), y_test=labels(1))
    load(settings(path))
    with pytest.raises(DataError, match="save numbers, not Python objects"):
        load_test(settings(path))


def test_python_objects_are_refused(tmp_path):
    path = saved(tmp_path, x=np.array([{}] * 4, object), y=labels(4))
    with pytest.raises(DataError, match="expected plain arrays in x and y"):
        load(settings(path))


def test_unknown_names_are_listed(tmp_path):
    with pytest.raises(
        DataError, match=r"expected arrays called x_train and y_train, .*, got pictures, truth"
    ):
        load(settings(saved(tmp_path, pictures=images(4), truth=labels(4))))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"\x93NUMPY", b"text"])
def test_a_file_that_is_no_npz_is_an_error(tmp_path, content):
    (tmp_path / "set.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"expected an \.npz file"):
        load(settings(tmp_path / "set.npz"))


def test_one_array_is_not_enough(tmp_path):
    np.save(tmp_path / "set.npy", images(4))
    with pytest.raises(DataError, match=r"got one array in .*; use np\.savez"):
        load(settings(tmp_path / "set.npy"))


def test_a_damaged_array_is_an_error(tmp_path):
    path = saved(tmp_path, x=images(200), y=labels(200))
    content = bytearray(path.read_bytes())
    content[1000:1100] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(DataError, match="expected plain arrays in x and y"):
        load(settings(path))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"does not exist; correct data\.path"):
        load(settings(tmp_path / "missing.npz"))


def test_a_folder_is_no_npz(tmp_path):
    with pytest.raises(DataError, match=r"expected an \.npz file"):
        load(settings(tmp_path))


def test_validation_images_of_another_size_are_an_error(tmp_path):
    path = saved(tmp_path, x=images(20), y=labels(20), x_val=images(4)[:, :4], y_val=labels(4))
    with pytest.raises(DataError, match=r"expected validation images of \(5, 4\), got \(4, 4\)"):
        load(settings(path))
