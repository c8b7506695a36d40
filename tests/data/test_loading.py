"""Parts stay apart, depend on the seed alone, and are found again in the cache until something changes."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nasflow.data import FORMATS, Data, DataError, DataSettings, Split, digest, load, load_test


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """An .npz of 120 images, each with its number in its first two pixels, of three classes of uneven size."""
    x = np.random.default_rng(0).integers(0, 256, (120, 4, 4), dtype=np.uint8)
    x[:, 0, 0] = np.arange(120)
    np.savez(tmp_path / "set.npz", x=x, y=np.repeat([5, 7, 9], [70, 35, 15]))
    return tmp_path / "set.npz"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for index in range(10):
            pixels = np.random.default_rng(index + len(name)).integers(0, 256, (4, 4), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def numbers(*splits: Split) -> list[int]:
    return sorted(int(number) for split in splits for number in split.x[:, 0, 0, 0])


def npz(path: Path, **more) -> DataSettings:
    return DataSettings(name="npz", path=path, **more)


def folder(path: Path, **more) -> DataSettings:
    return DataSettings(name="folder", path=path, **more)


@pytest.mark.parametrize("seed", [0, 1])
def test_train_validation_and_test_are_disjoint_and_everything(numbered, seed):
    data, test = load(npz(numbered, seed=seed)), load_test(npz(numbered, seed=seed))
    assert numbers(data.train, data.validation, test) == list(range(120))
    for part, share in ((test, 0.2), (data.validation, 0.16), (data.train, 0.64)):
        assert np.abs(np.bincount(part.y) - np.array([70, 35, 15]) * share).max() <= 1.5


def test_the_seed_alone_decides_what_is_in_which_part(numbered):
    one, same, other = (load(npz(numbered, seed=seed)) for seed in (0, 0, 1))
    assert one.sha256 == same.sha256 != other.sha256
    tests = [digest(load_test(npz(numbered, seed=seed))) for seed in (0, 0, 1)]
    assert tests[0] == tests[1] != tests[2]


@pytest.mark.parametrize(
    "more", [{"validation": 0.4}, {"train_limit": 30}, {"folds": 5}, {"augment": ("flip",)}]
)
def test_the_test_part_does_not_depend_on_how_the_rest_is_used(numbered, more):
    assert digest(load_test(npz(numbered))) == digest(load_test(npz(numbered, **more)))


def test_shares_are_what_was_asked_for(numbered):
    data = load(npz(numbered, test=0.5, validation=0.25))
    assert (len(data.train), len(data.validation)) == (45, 15)
    assert len(load_test(npz(numbered, test=0.5))) == 60


def test_limits_are_stratified_and_train_limit_counts_validation_too(numbered):
    settings = npz(numbered, train_limit=24, test_limit=12)
    data, test = load(settings), load_test(settings)
    assert len(data.train) + len(data.validation) == 24 and len(test) == 12
    assert np.bincount(test.y).tolist() == [7, 3, 2] or np.bincount(test.y).tolist() == [7, 4, 1]
    assert not set(numbers(data.train, data.validation)) & set(numbers(test))
    assert set(data.train.y) == set(data.validation.y) == {0, 1, 2}


def test_limits_larger_than_the_data_change_nothing(numbered):
    assert load(npz(numbered, train_limit=1000)).sha256 == load(npz(numbered)).sha256


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"train_limit": 5}, r"a limit of 5 images is too small for 3 classes .*; set it to 6 or more"),
        ({"train_limit": 10, "folds": 5}, r"with at least 5 images each; set it to 15 or more"),
        ({"folds": 15}, r"expected at least 16 images of every class.*'9' has 15"),
        ({"mean": (0.5, 0.5, 0.5), "std": (1, 1, 1)}, r"expected mean and std of 1 numbers, .* got 3"),
    ],
)
def test_what_cannot_be_parted_or_prepared_is_an_error_that_says_why(numbered, more, message):
    with pytest.raises(DataError, match=message):
        load(npz(numbered, **more))


def test_a_test_limit_too_small_for_all_classes_is_an_error(numbered):
    with pytest.raises(DataError, match="too small for 3 classes"):
        load_test(npz(numbered, test_limit=2))


def test_as_many_folds_as_asked_for_can_be_made_of_what_is_loaded(numbered):
    settings = npz(numbered, folds=10, test=0.4)
    assert len(load(settings).folds(settings.folds, seed=0)) == 10


def test_mean_and_std_are_those_of_the_training_images_alone(numbered):
    data = load(npz(numbered))
    assert data.preprocess.mean[0] == pytest.approx(float(data.train.x.mean()) / 255)
    assert data.preprocess.std[0] == pytest.approx(float(data.train.x.std()) / 255)
    pool = np.concatenate([data.train.x, data.validation.x])
    assert data.preprocess.mean[0] != pytest.approx(float(pool.mean()) / 255, rel=1e-6)


def test_mean_and_std_can_be_given_or_left_out(numbered):
    given = load(npz(numbered, mean=(0.25,), std=(0.5,), scale=0.01)).preprocess
    assert (given.scale, given.mean, given.std, given.fitted) == (0.01, (0.25,), (0.5,), False)
    plain = load(npz(numbered, normalise=False)).preprocess
    assert (plain.mean, plain.std, plain.fitted) == ((0.0,), (1.0,), False)


def test_size_and_channels_can_be_asked_for(numbered):
    settings = npz(numbered, resize=(6, 5), channels=3)
    data = load(settings)
    assert data.shape == load_test(settings).x.shape[1:] == (3, 6, 5)
    assert data.preprocess.resize == (6, 5) and len(data.preprocess.mean) == 3


def test_labels_are_numbered_from_nought_and_named(numbered):
    assert load(npz(numbered)).classes == ("5", "7", "9")


def test_the_order_is_random_so_that_the_first_ones_are_a_fair_sample(numbered):
    data, test = load(npz(numbered)), load_test(npz(numbered))
    for part in (data.train, data.validation, test):
        assert set(part.y[: len(part) // 2]) == {0, 1, 2}


def test_augmentations_are_handed_on(numbered):
    assert load(npz(numbered, augment=("crop:0.25", "flip"))).augment == ("crop:0.25", "flip")


def break_pictures(root: Path) -> None:
    """Make every picture unreadable without changing its size or time, as only a cache would not notice."""
    for file in root.rglob("*.png"):
        times = file.stat()
        file.write_bytes(bytes(times.st_size))
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


def same(one: Data, other: Data) -> bool:
    return (one.sha256, one.classes, one.preprocess, one.skipped) == (
        other.sha256,
        other.classes,
        other.preprocess,
        other.skipped,
    )


def test_a_second_load_reads_the_cache_and_gives_the_same(pictures, tmp_path):
    (pictures / "cat/odd.bmp").write_bytes(b"")
    settings, cache = folder(pictures), tmp_path / "cache"
    data, test = load(settings, cache), load_test(settings, cache)
    assert same(data, load(settings)) and digest(test) == digest(load_test(settings))
    assert sum(data.skipped.values()) == 1
    break_pictures(pictures)
    assert same(load(settings, cache), data)
    assert digest(load_test(settings, cache)) == digest(test)
    with pytest.raises(DataError):
        load(settings)


@pytest.mark.parametrize(
    "more",
    [
        {"validation": 0.5},
        {"normalise": False},
        {"augment": ("flip",)},
        {"mean": (0.1,), "std": (0.1,)},
        {"scale": 2.0},
    ],
)
def test_settings_that_leave_the_pictures_alone_find_the_same_cache(pictures, tmp_path, more):
    load(folder(pictures), tmp_path / "cache")
    break_pictures(pictures)
    load(folder(pictures, **more), tmp_path / "cache")


@pytest.mark.parametrize(
    "more",
    [{"resize": (3, 3)}, {"channels": 3}, {"seed": 1}, {"test": 0.3}, {"train_limit": 8}],
)
def test_settings_that_change_the_pictures_do_not(pictures, tmp_path, more):
    load(folder(pictures), tmp_path / "cache")
    assert same(load(folder(pictures, **more), tmp_path / "cache"), load(folder(pictures, **more)))
    break_pictures(pictures)
    load(folder(pictures, **more), tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_training_and_test_pictures_are_kept_apart(pictures, tmp_path):
    load(folder(pictures), tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    with np.load(kept) as arrays:
        assert len(arrays["y"]) == 16


def test_a_changed_picture_is_read_anew(pictures, tmp_path):
    before = load(folder(pictures), tmp_path / "cache")
    for name in ("cat", "dog"):
        for index in range(10):
            Image.fromarray(np.full((4, 4), 9, np.uint8)).save(pictures / name / f"{index}.png")
    assert load(folder(pictures), tmp_path / "cache").sha256 != before.sha256


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"junk", None])
def test_a_damaged_cache_is_made_anew(pictures, tmp_path, content):
    data = load(folder(pictures), tmp_path / "cache")
    (kept,) = (tmp_path / "cache").iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-40] if content is None else content)
    assert load(folder(pictures), tmp_path / "cache").sha256 == data.sha256
    assert len(kept.read_bytes()) == len(whole)


def test_nothing_is_written_beside_the_users_files(pictures, tmp_path):
    before = sorted(pictures.rglob("*"))
    load(folder(pictures), tmp_path / "cache")
    assert sorted(pictures.rglob("*")) == before
    assert [file.suffix for file in (tmp_path / "cache").iterdir()] == [".npz"]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_has_a_file_that_finds_it(name):
    assert callable(importlib.import_module(f"nasflow.data.formats.{name}").find)


@pytest.mark.parametrize("name", [name for name, needs_path in FORMATS.items() if needs_path])
def test_a_path_that_does_not_exist_is_an_error_that_names_it(tmp_path, name):
    with pytest.raises(DataError, match=r"missing.*does not exist; correct data\.path"):
        load(DataSettings(name=name, path=tmp_path / "missing"))
    with pytest.raises(DataError, match="missing"):
        load(DataSettings(name=name, path=tmp_path / "missing"), tmp_path / "cache")


def test_neither_torch_nor_scikit_learn_is_imported_before_it_is_needed():
    code = "import sys, nasflow.data; print({'torch', 'sklearn', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
