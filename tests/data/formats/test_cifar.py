"""CIFAR batches as Python 2 and 3 wrote them; a pickle that asks for more than plain data is refused, not run."""

import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from nasflow.data import DataError, DataSettings, digest, load, load_test
from nasflow.data.formats.cifar import unpickle

NAMES = ["ant", "bee", "cow"]


def pixels(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3072), dtype=np.uint8)


def by_python_2(data: np.ndarray, labels: list[int]) -> bytes:
    """The very bytes that Python 2's cPickle wrote into the batches of the original archive."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01btR"
        b"(K\x01J" + struct.pack("<i", data.shape[0]) + b"M\x00\x0c\x86cnumpy\ndtype\n(U\x02u1K\x00K\x01tR"
        b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + struct.pack("<i", data.nbytes)
        + data.tobytes()
        + b"tb"
    )
    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    return (
        b"\x80\x02}(U\x0bbatch_labelU\x15training batch 1 of 5U\x06labels]("
        + numbers
        + b"eU\x04data"
        + array
        + b"u."
    )


def by_python_3(data: np.ndarray, labels: list[int], protocol: int = 2, fine: bool = False) -> bytes:
    key = b"fine_labels" if fine else b"labels"
    return pickle.dumps({b"data": data, key: labels, b"filenames": [b"a.png"] * len(labels)}, protocol)


def cifar(root: Path, write=by_python_2) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES, "num_vis": 3072}, 2))
    for index in (1, 2):
        (root / f"data_batch_{index}").write_bytes(write(pixels(15, index), [k % 3 for k in range(15)]))
    (root / "test_batch").write_bytes(write(pixels(6), [k % 3 for k in range(6)]))
    (root / "readme.html").write_text("<p>")
    return root


def settings(path: Path, **more) -> DataSettings:
    return DataSettings(name="cifar", path=path, **more)


@pytest.mark.parametrize("write", [by_python_2, by_python_3])
def test_batches_give_the_images_and_labels_in_them(tmp_path, write):
    data = load(settings(cifar(tmp_path, write)))
    test = load_test(settings(tmp_path))
    assert data.classes == tuple(NAMES) and data.shape == (3, 32, 32)
    assert (len(data.train), len(data.validation), len(test)) == (24, 6, 6)
    label = {row.tobytes(): k % 3 for seed in (1, 2) for k, row in enumerate(pixels(15, seed))}
    for part in (data.train, data.validation):
        assert [label[image.tobytes()] for image in part.x] == part.y.tolist()
    assert {image.tobytes() for image in test.x} == {row.tobytes() for row in pixels(6)}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol_is_read(protocol):
    batch = unpickle(by_python_3(pixels(4), [0, 1, 2, 0], protocol), "x")
    assert np.array_equal(batch["data"], pixels(4)) and batch["labels"] == [0, 1, 2, 0]


def test_cifar_100_uses_the_fine_labels(tmp_path):
    (tmp_path / "meta").write_bytes(pickle.dumps({"fine_label_names": NAMES, "coarse_label_names": ["x"]}, 2))
    (tmp_path / "train").write_bytes(by_python_3(pixels(15), [k % 3 for k in range(15)], fine=True))
    (tmp_path / "test").write_bytes(by_python_3(pixels(6), [k % 3 for k in range(6)], fine=True))
    data = load(settings(tmp_path))
    assert data.classes == tuple(NAMES) and len(data.train) + len(data.validation) == 15
    assert len(load_test(settings(tmp_path))) == 6


def test_the_archive_gives_the_same(tmp_path):
    root = cifar(tmp_path / "set")
    with tarfile.open(tmp_path / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(root, arcname="cifar-10-batches-py")
    one, other = settings(root), settings(tmp_path / "cifar-10-python.tar.gz")
    assert load(one).sha256 == load(other).sha256
    assert digest(load_test(one)) == digest(load_test(other))


def test_a_second_load_reads_the_cache_and_gives_the_same(tmp_path):
    root = cifar(tmp_path / "set")
    one, test = load(settings(root), tmp_path / "cache"), load_test(settings(root), tmp_path / "cache")
    for file in root.iterdir():
        times = file.stat()
        file.write_bytes(bytes(times.st_size))
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert load(settings(root), tmp_path / "cache").sha256 == one.sha256
    assert digest(load_test(settings(root), tmp_path / "cache")) == digest(test)


def test_loading_never_opens_the_test_batch(tmp_path):
    cifar(tmp_path)
    (tmp_path / "test_batch").write_bytes(b"broken")
    load(settings(tmp_path))
    with pytest.raises(DataError, match="test_batch"):
        load_test(settings(tmp_path))


class Malice:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return (Path.touch, (self.file,))


def test_a_pickle_that_would_run_something_is_refused_and_not_run(tmp_path):
    cifar(tmp_path)
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": Malice(tmp_path / "ran")}))
    with pytest.raises(
        DataError, match=r"data_batch_1: expected plain arrays and lists, but it asks for pathlib"
    ):
        load(settings(tmp_path))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "name",
    ["os\nsystem", "builtins\neval", "builtins\ngetattr", "numpy\nload", "numpy.core.multiarray\nfromfile"],
)
def test_no_other_name_can_be_reached(name):
    with pytest.raises(DataError, match="it asks for"):
        unpickle(b"c" + name.encode() + b"\n(S'x'\ntR.", "x")


@pytest.mark.parametrize(
    "content",
    [b"", b"\x80\x02", b"junk", by_python_3(pixels(3), [0, 1, 2])[:-500], b"\x80\x02U\x01b0.", b"(lp0\n."],
)
def test_a_pickle_that_is_not_whole_or_no_dict_is_an_error(content):
    with pytest.raises(DataError, match=r"^x"):
        unpickle(content, "x")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"labels": [0]}, "expected data of uint8"),
        ({"data": pixels(3)[:, :100], "labels": [0, 1, 2]}, r"got uint8 \(3, 100\)"),
        ({"data": pixels(3).astype(float), "labels": [0, 1, 2]}, "got float64"),
        ({"data": pixels(3), "labels": [0, 1]}, "expected 3 labels"),
        ({"data": pixels(3)}, "expected 3 labels"),
        ({"data": pixels(3), "labels": [0, 1, 3]}, "expected labels 0 to 2"),
        ({"data": pixels(3), "labels": [0, -1, 2]}, "expected labels 0 to 2"),
        ({"data": pixels(3), "labels": ["a", "b", "c"]}, "expected labels 0 to 2"),
    ],
)
def test_a_batch_of_another_form_is_an_error(tmp_path, batch, message):
    cifar(tmp_path)
    (tmp_path / "data_batch_2").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(DataError, match=message):
        load(settings(tmp_path))


def test_missing_batches_are_an_error(tmp_path):
    cifar(tmp_path)
    for file in tmp_path.glob("data_batch_*"):
        file.unlink()
    with pytest.raises(
        DataError, match=r"expected data_batch_1, .*, got batches.meta, readme.html, test_batch"
    ):
        load(settings(tmp_path))


def test_a_class_without_images_is_an_error(tmp_path):
    cifar(tmp_path)
    (tmp_path / "batches.meta").write_bytes(pickle.dumps({"label_names": [*NAMES, "emu"]}, 2))
    with pytest.raises(DataError, match="'emu' has 0"):
        load(settings(tmp_path))
