"""Pictures in class folders: both layouts, packed or not; what is broken or off-size is counted, not fatal."""

import io
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasflow.data import Data, DataError, DataSettings, digest, load, load_test

SHARED = Path(__file__).parents[3] / "../shared/data"
MNIST = SHARED / "mnist_png/mnist_png.tar.gz"
CIFAR = SHARED / "cifar10_jpg/cifar10_jpg.tar.gz"


def picture(path: Path, value: int = 0, size: tuple[int, int] = (6, 5), mode: str = "L", **options) -> None:
    """Write a picture of (width, height) in the format of its suffix, its first pixel telling which one it is."""
    pixels = np.full((size[1], size[0]), 100, np.uint8)
    pixels[0, 0] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path, **options)


def flat(root: Path, each: int = 10, classes: tuple[str, ...] = ("cat", "dog"), **options) -> Path:
    for label, name in enumerate(classes):
        for index in range(each):
            picture(root / name / f"{index}.png", label * each + index, **options)
    return root


def parted(root: Path, **options) -> Path:
    flat(root / "train", 10, **options)
    flat(root / "test", 4, **options)
    return root


def packed(root: Path) -> Path:
    archive = root.with_suffix(".tar.gz")
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root, arcname=".")
    return archive


def settings(path: Path, **more) -> DataSettings:
    return DataSettings(name="folder", path=path, **more)


def values(*splits) -> list[int]:
    return sorted(int(value) for split in splits for value in split.x[:, 0, 0, 0])


def everything(data: Data) -> int:
    return len(data.train) + len(data.validation)


def test_train_and_test_folders_are_the_parts(tmp_path):
    data = load(settings(parted(tmp_path / "set")))
    test = load_test(settings(tmp_path / "set"))
    assert data.classes == ("cat", "dog") and data.shape == (1, 5, 6)
    assert values(data.train, data.validation) == list(range(20))
    assert (len(data.train), len(data.validation), len(test)) == (16, 4, 8)
    for split in (data.train, data.validation):
        assert split.x.dtype == np.uint8
        assert np.array_equal(split.y, split.x[:, 0, 0, 0] // 10)


def test_without_a_test_folder_a_share_is_held_back(tmp_path):
    data = load(settings(flat(tmp_path / "set")))
    test = load_test(settings(tmp_path / "set"))
    assert len(test) == 4
    assert values(data.train, data.validation, test) == list(range(20))


@pytest.mark.parametrize("make", [flat, parted])
def test_an_archive_gives_the_same_as_its_folder(tmp_path, make):
    root = make(tmp_path / "set")
    one, other = load(settings(root)), load(settings(packed(root)))
    assert one.sha256 == other.sha256
    assert digest(load_test(settings(root))) == digest(load_test(settings(packed(root))))


@pytest.mark.parametrize("make", [flat, parted])
def test_folders_around_do_not_matter(tmp_path, make):
    root = make(tmp_path / "outer" / "inner" / "set")
    (tmp_path / "outer" / "README.md").write_text("notes")
    assert load(settings(tmp_path / "outer")).sha256 == load(settings(root)).sha256


def test_loading_never_opens_a_test_picture(tmp_path):
    parted(tmp_path / "set")
    before = load(settings(tmp_path / "set"))
    for file in (tmp_path / "set/test").rglob("*.png"):
        file.write_bytes(b"broken")
    assert load(settings(tmp_path / "set")).sha256 == before.sha256
    with pytest.raises(DataError, match="that cannot be decoded"):
        load_test(settings(tmp_path / "set"))


def test_a_validation_folder_joins_training(tmp_path):
    flat(tmp_path / "train", 6)
    flat(tmp_path / "val", 4)
    flat(tmp_path / "test", 2)
    assert everything(load(settings(tmp_path))) == 20


def test_test_labels_are_numbered_as_in_training(tmp_path):
    flat(tmp_path / "train", 5, ("ant", "bee", "cow"))
    flat(tmp_path / "test", 3, ("bee", "cow"))
    assert sorted(load_test(settings(tmp_path)).y) == [1, 1, 1, 2, 2, 2]


def test_a_class_that_only_test_has_is_an_error(tmp_path):
    parted(tmp_path)
    picture(tmp_path / "test/emu/0.png")
    with pytest.raises(DataError, match="expected the classes of training in test, got emu"):
        load(settings(tmp_path))


def test_png_and_jpeg_of_any_colour_mode_become_colour_if_one_is(tmp_path):
    modes = {"png": ("L", "RGB", "RGBA", "LA", "P", "1"), "jpg": ("L", "RGB", "CMYK"), "JPEG": ("RGB",)}
    for name in ("cat", "dog"):
        for suffix, kinds in modes.items():
            for mode in kinds:
                picture(tmp_path / name / f"{mode}.{suffix}", mode=mode)
    data = load(settings(tmp_path))
    assert data.shape == (3, 5, 6) and not data.skipped
    assert everything(data) + len(load_test(settings(tmp_path))) == 20
    middle = data.train.x[:, :, 2, 2].astype(int)
    assert set(middle[np.abs(middle - 100).max(axis=1) > 10].ravel()) <= {0, 255}  # the black and white ones


@pytest.mark.parametrize("which", ["cat/0.png", "dog/3.png", "dog/9.png"])
def test_one_colour_picture_makes_all_colour(tmp_path, which):
    picture(flat(tmp_path) / which, mode="RGB")
    assert load(settings(tmp_path)).shape == (3, 5, 6)


def test_palette_pictures_with_transparency_load_without_a_warning(tmp_path):
    for name in ("cat", "dog"):
        for index in range(4):
            picture(tmp_path / name / f"{index}.png", index, mode="P", transparency=bytes([0, 128, 255]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(settings(tmp_path)).shape == (3, 5, 6)


def test_sixteen_bit_pictures_keep_their_upper_eight_bits(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        for index in range(5):
            pixels = np.full((4, 4), 256 * (40 + label) + 77, np.uint16)
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    data = load(settings(tmp_path))
    assert data.shape == (1, 4, 4)
    assert np.array_equal(data.train.x[:, 0, 0, 0], 40 + data.train.y)


def test_channels_can_be_asked_for(tmp_path):
    assert load(settings(flat(tmp_path / "grey"), channels=3)).shape == (3, 5, 6)
    assert load(settings(flat(tmp_path / "colour", mode="RGB"), channels=1)).shape == (1, 5, 6)


def test_broken_pictures_are_left_out_and_counted(tmp_path):
    flat(tmp_path, 10)
    whole = (tmp_path / "cat/3.png").read_bytes()
    (tmp_path / "cat/3.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "dog/4.png").write_bytes(b"")
    (tmp_path / "dog/5.png").write_bytes(b"GIF89a and so on")
    data, test = load(settings(tmp_path)), load_test(settings(tmp_path))
    lost = data.skipped.get("that cannot be decoded", 0) + test.skipped.get("that cannot be decoded", 0)
    assert lost == 3
    assert everything(data) + len(test) == 17
    assert values(data.train, data.validation, test) == sorted(set(range(20)) - {3, 14, 15})
    for split in (data.train, data.validation, test):
        assert np.array_equal(split.y, split.x[:, 0, 0, 0] // 10)  # labels stay with their pictures


def test_cut_jpegs_are_left_out(tmp_path):
    for name in ("cat", "dog"):
        for index in range(8):
            picture(tmp_path / name / f"{index}.jpg", index, size=(64, 64))
    whole = (tmp_path / "cat/0.jpg").read_bytes()
    (tmp_path / "cat/0.jpg").write_bytes(whole[:-200])
    data, test = load(settings(tmp_path)), load_test(settings(tmp_path))
    assert everything(data) + len(test) == 15


def test_pictures_of_another_size_are_left_out_and_counted(tmp_path):
    flat(tmp_path, 10)
    picture(tmp_path / "cat/odd.png", size=(7, 5))
    picture(tmp_path / "dog/odd.png", size=(5, 6))
    data, test = load(settings(tmp_path)), load_test(settings(tmp_path))
    reason = "of another size than 5x6"
    assert data.shape == (1, 5, 6) and test.x.shape[1:] == (1, 5, 6)
    assert data.skipped.get(reason, 0) + test.skipped.get(reason, 0) == 2


def test_test_pictures_have_the_size_and_colour_of_the_training_ones(tmp_path):
    flat(tmp_path / "train", 10, mode="RGB")
    flat(tmp_path / "test", 3, size=(6, 5))
    picture(tmp_path / "test/cat/odd.png", size=(9, 9))
    test = load_test(settings(tmp_path))
    assert test.x.shape == (6, 3, 5, 6)
    assert test.skipped == {"of another size than 5x6": 1}


def test_pictures_that_are_mostly_of_other_sizes_need_resize(tmp_path):
    for name in ("cat", "dog"):
        for index in range(8):
            picture(tmp_path / name / f"{index}.png", size=(10 + index, 10))
    with pytest.raises(
        DataError, match=r"of another size than 10x10\); bring them to one size with data.resize"
    ):
        load(settings(tmp_path))
    assert load(settings(tmp_path, resize=8)).shape == (1, 8, 8)


def test_a_limit_takes_so_many_of_every_class_and_reads_no_others(tmp_path):
    flat(tmp_path / "train", 40)
    flat(tmp_path / "test", 20)
    data = load(settings(tmp_path, train_limit=10))
    assert np.bincount(np.concatenate([data.train.y, data.validation.y])).tolist() == [5, 5]
    assert np.bincount(load_test(settings(tmp_path, test_limit=6)).y).tolist() == [3, 3]
    # Break every picture that is not among the chosen: nobody notices, so nobody reads them.
    chosen = set(values(data.train, data.validation))
    for label, name in enumerate(("cat", "dog")):
        for index in set(range(40)) - {value - 40 * label for value in chosen}:
            (tmp_path / "train" / name / f"{index}.png").write_bytes(b"broken")
    again = load(settings(tmp_path, train_limit=10, channels=1, resize=(5, 6)))
    assert again.sha256 == data.sha256 and not again.skipped


@pytest.mark.parametrize("pack", [False, True])
def test_an_empty_class_folder_is_an_error_that_names_it(tmp_path, pack):
    root = flat(tmp_path / "set")
    (root / "emu").mkdir()
    with pytest.raises(DataError, match=r"'emu' has 0; add images or remove the class"):
        load(settings(packed(root) if pack else root))


def test_a_folder_of_other_things_is_no_class(tmp_path):
    flat(tmp_path)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/0.xml").write_text("<x/>")
    assert load(settings(tmp_path)).classes == ("cat", "dog")


def test_a_class_that_loses_all_its_pictures_is_an_error(tmp_path):
    flat(tmp_path, 20, ("cat", "dog"))
    for index in range(4):
        path = tmp_path / "emu" / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"without those that cannot be used: .*'emu' has 0"):
        load(settings(tmp_path))


def test_one_class_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"expected at least two classes to tell apart, got 1 \(cat\)"):
        load(settings(flat(tmp_path, classes=("cat",))))


def test_a_class_too_small_to_part_is_an_error(tmp_path):
    flat(tmp_path)
    picture(tmp_path / "emu/0.png")
    with pytest.raises(DataError, match=r"expected at least 3 images of every class.*'emu' has 1"):
        load(settings(tmp_path))


def test_no_pictures_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match="expected PNG or JPEG files in one folder a class, got none"):
        load(settings(tmp_path))


def test_only_broken_pictures_is_an_error(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(5):
            (tmp_path / name / f"{index}.png").write_bytes(b"broken")
    with pytest.raises(DataError, match="none of 10 can be opened"):
        load(settings(tmp_path))


def test_what_lies_about_is_counted(tmp_path):
    parted(tmp_path)
    picture(tmp_path / "train/loose.png")
    picture(tmp_path / "samples/cat/0.png")
    picture(tmp_path / "train/cat/0.bmp")
    (tmp_path / "train/cat/notes.txt").write_text("")
    data = load(settings(tmp_path))
    assert everything(data) == 20
    assert data.skipped == {"in no class folder of a part": 2, "that are neither PNG nor JPEG": 1}
    assert not load_test(settings(tmp_path)).skipped


def test_folders_within_a_class_belong_to_it(tmp_path):
    flat(tmp_path, 5)
    for index in range(5):
        picture(tmp_path / "cat" / "more" / f"{index}.png", index)
    data = load(settings(tmp_path))
    assert data.classes == ("cat", "dog")
    assert everything(data) + len(load_test(settings(tmp_path))) == 15


def test_a_class_may_be_called_test(tmp_path):
    assert load(settings(flat(tmp_path, classes=("control", "test")))).classes == ("control", "test")


def test_resizing_matches_pillow(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(3):
            pixels = rng.integers(0, 256, (12, 10, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    data = load(settings(tmp_path, resize=(6, 5), train_limit=4))
    with Image.open(tmp_path / "cat/0.png") as one:
        expected = {np.asarray(one.resize((5, 6), Image.Resampling.BILINEAR)).transpose(2, 0, 1).tobytes()}
    got = {image.tobytes() for part in (data.train, data.validation) for image in part.x}
    got |= {image.tobytes() for image in load_test(settings(tmp_path, resize=(6, 5))).x}
    assert expected <= got


def test_a_picture_that_would_unpack_to_a_giant_is_left_out(tmp_path, monkeypatch):
    flat(tmp_path, 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    stream = io.BytesIO()
    Image.new("L", (500, 500)).save(stream, "png")
    (tmp_path / "cat/giant.png").write_bytes(stream.getvalue())
    data, test = load(settings(tmp_path)), load_test(settings(tmp_path))
    assert {**data.skipped, **test.skipped} == {"that cannot be decoded": 1}


@pytest.mark.skipif(
    not MNIST.exists(), reason=f"needs {MNIST.name} in the folder shared/ beside the checkout"
)
@pytest.mark.long
def test_real_mnist_loads_with_its_known_mean_and_std():
    data = load(settings(MNIST, train_limit=5000, test_limit=500))
    assert data.shape == (1, 28, 28) and data.classes == tuple("0123456789") and not data.skipped
    assert abs(data.preprocess.mean[0] - 0.1307) < 0.005
    assert abs(data.preprocess.std[0] - 0.3081) < 0.005
    test = load_test(settings(MNIST, train_limit=5000, test_limit=500))
    assert len(test) == 500 and np.bincount(test.y).min() >= 40


@pytest.mark.skipif(
    not CIFAR.exists(), reason=f"needs {CIFAR.name} in the folder shared/ beside the checkout"
)
@pytest.mark.long
def test_real_cifar_pictures_load_whole():
    data = load(settings(CIFAR))
    assert data.shape == (3, 32, 32) and data.classes[:3] == ("airplane", "automobile", "bird")
    assert everything(data) == 50_000 and not data.skipped
    assert np.bincount(data.validation.y).tolist() == [1000] * 10
    assert len(load_test(settings(CIFAR))) == 10_000
