"""IDX files as MNIST comes in, packed or not; files that are not whole are said to be."""

import gzip
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nasflow.data import DataError, DataSettings, digest, load, load_test

TYPES = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, TYPES[array.dtype.str[1:]], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def images(n: int, dtype: str = "u1") -> np.ndarray:
    return np.random.default_rng(n).integers(0, 100, (n, 5, 4)).astype(dtype)


def mnist(root: Path, suffix: str = "", dtype: str = "u1", dots: bool = False) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for part, n in (("train", 20), ("t10k", 6)):
        for kind, array in (("images", images(n, dtype)), ("labels", (np.arange(n) % 2).astype("u1"))):
            content = idx(array)
            name = f"{part}-{kind}{'.' if dots else '-'}idx{array.ndim}-ubyte{suffix}"
            (root / name).write_bytes(gzip.compress(content) if suffix else content)
    return root


def settings(path: Path, **more) -> DataSettings:
    return DataSettings(name="idx", path=path, **more)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("dots", [False, True])
def test_mnist_files_give_the_images_and_labels_in_them(tmp_path, suffix, dots):
    data = load(settings(mnist(tmp_path, suffix, dots=dots)))
    test = load_test(settings(tmp_path))
    assert data.shape == (1, 5, 4) and data.classes == ("0", "1")
    assert (len(data.train), len(data.validation), len(test)) == (16, 4, 6)
    label = {image.tobytes(): index % 2 for index, image in enumerate(images(20))}
    for part in (data.train, data.validation):
        assert [label[image.tobytes()] for image in part.x] == part.y.tolist()
    assert {image.tobytes() for image in test.x} == {image.tobytes() for image in images(6)}


def test_an_archive_gives_the_same(tmp_path):
    root = mnist(tmp_path / "set", ".gz")
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as tar:
        tar.add(root, arcname="mnist/raw")
    one, other = settings(root), settings(tmp_path / "set.tar.gz")
    assert load(one).sha256 == load(other).sha256
    assert digest(load_test(one)) == digest(load_test(other))


@pytest.mark.parametrize("dtype", ["i2", "i4", "f4", "f8"])
def test_every_number_type_is_read(tmp_path, dtype):
    data = load(settings(mnist(tmp_path, dtype=dtype)))
    assert data.train.x.dtype == (np.float32 if dtype[0] == "f" else np.uint8)
    expected = {image.astype(data.train.x.dtype).tobytes() for image in images(20)}
    assert {image.tobytes() for image in data.train.x} <= expected


def test_loading_never_opens_the_test_files(tmp_path):
    mnist(tmp_path)
    for file in tmp_path.glob("t10k*"):
        file.write_bytes(b"broken")
    load(settings(tmp_path))
    with pytest.raises(DataError, match="expected an IDX file"):
        load_test(settings(tmp_path))


def test_without_test_files_a_share_is_held_back(tmp_path):
    mnist(tmp_path)
    for file in tmp_path.glob("t10k*"):
        file.unlink()
    data, test = load(settings(tmp_path)), load_test(settings(tmp_path))
    assert len(test) == 4
    together = [image.tobytes() for part in (data.train, data.validation, test) for image in part.x]
    assert sorted(together) == sorted(image.tobytes() for image in images(20))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected an IDX file"),
        (b"<html>not found</html>", "expected an IDX file"),
        (idx(images(20))[:-1], r"expected 416 bytes for an array of \(20, 5, 4\), got 415"),
        (idx(images(20)) + b"x", "expected 416 bytes .* got 417"),
        (idx(images(20))[:9], r"expected a header of 16 bytes, got 9"),
        (idx(images(19)), "expected one label an image"),
        (idx(images(20).reshape(20, 20)), "reshape them"),
    ],
)
def test_a_file_that_is_not_whole_is_an_error_that_says_so(tmp_path, content, message):
    mnist(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(content)
    with pytest.raises(DataError, match=message):
        load(settings(tmp_path))


def test_a_packed_file_cut_short_is_an_error(tmp_path):
    mnist(tmp_path, ".gz")
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"cannot be unpacked .*; fetch it again"):
        load(settings(tmp_path))


def test_missing_files_are_named(tmp_path):
    mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no training labels there, only t10k-images-idx3-ubyte"):
        load(settings(tmp_path))


def test_two_data_sets_in_one_folder_are_not_mixed(tmp_path):
    mnist(tmp_path / "digits")
    mnist(tmp_path / "fashion")
    with pytest.raises(DataError, match="put each data set into a folder of its own"):
        load(settings(tmp_path))
