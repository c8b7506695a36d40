"""What a loaded data set promises: checked shapes, floats as the formula says, folds, and a hash of its content."""

import pickle

import numpy as np
import pytest

from nasflow.data import Data, DataError, Preprocess, Split, digest


def split(n: int = 12, classes: int = 3, seed: int = 0) -> Split:
    x = np.random.default_rng(seed).integers(0, 256, (n, 2, 4, 3), dtype=np.uint8)
    return Split(x, np.arange(n) % classes)


def data(fitted: bool = True) -> Data:
    train, validation = split(24), split(12, seed=1)
    preprocess = Preprocess(1 / 255, (0.0, 0.0), (1.0, 1.0))
    return Data(
        name="toy",
        train=train,
        validation=validation,
        classes=("a", "b", "c"),
        preprocess=preprocess.fit(train.x) if fitted else preprocess,
        augment=("flip",),
        skipped={},
        sha256=digest(train, validation),
    )


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((3, 4, 4), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((3, 1, 4, 4), np.float64), np.zeros(3, np.int64)),
        (np.zeros((3, 1, 4, 4), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((3, 1, 4, 4), np.uint8), np.zeros(3, np.int32)),
    ],
)
def test_a_split_of_another_form_is_refused(x, y):
    with pytest.raises(DataError, match=r"expected .*, got"):
        Split(x, y)


def test_shape_is_that_of_one_image():
    assert data().shape == (2, 4, 3)
    assert len(data().train) == 24


def test_preprocess_scales_then_normalises_each_channel():
    x = split().x
    out = Preprocess(0.5, (1.0, 2.0), (4.0, 8.0))(x)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out[:, 0], (x[:, 0] * 0.5 - 1) / 4, rtol=1e-6)
    np.testing.assert_allclose(out[:, 1], (x[:, 1] * 0.5 - 2) / 8, rtol=1e-6)


def test_preprocess_leaves_the_stored_images_alone():
    x = split().x.astype(np.float32)
    before = x.copy()
    Preprocess(1.0, (1.0, 1.0), (2.0, 2.0))(x)
    assert np.array_equal(x, before)


def test_preprocess_brings_other_sizes_to_its_own():
    out = Preprocess(1.0, (0.0,), (1.0,), resize=(4, 6))(np.full((2, 1, 9, 9), 7, np.uint8))
    assert out.shape == (2, 1, 4, 6)
    assert (out == 7).all()


def test_preprocess_refuses_another_number_of_channels():
    with pytest.raises(DataError, match=r"expected images \(n, 2, height, width\), got \(12, 1, 4, 3\)"):
        data().preprocess(split().x[:, :1])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_fit_gives_mean_nought_and_std_one_a_channel_however_many_images(dtype):
    x = np.random.default_rng(0).integers(0, 256, (2500, 3, 2, 2)).astype(dtype)
    x[:, 1] //= 4
    out = Preprocess(1 / 255, (0.0,) * 3, (1.0,) * 3).fit(x)(x)
    np.testing.assert_allclose(out.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(out.std(axis=(0, 2, 3)), 1, atol=1e-5)


def test_fit_of_a_channel_that_never_varies_divides_by_one():
    fitted = Preprocess(1 / 255, (0.0,), (1.0,)).fit(np.full((5, 1, 3, 3), 200, np.uint8))
    assert fitted.std == (1.0,)
    assert np.abs(fitted(np.full((1, 1, 3, 3), 200, np.uint8))).max() < 1e-6


def test_folds_validate_every_image_once_and_train_on_the_others():
    whole = data()
    folds = whole.folds(4, seed=0)
    pool = {image.tobytes() for part in (whole.train, whole.validation) for image in part.x}
    held = [image.tobytes() for fold in folds for image in fold.validation.x]
    assert len(folds) == 4 and len(held) == len(set(held)) == 36 and set(held) == pool
    for fold in folds:
        train = {image.tobytes() for image in fold.train.x}
        assert train == pool - {image.tobytes() for image in fold.validation.x}
        assert set(fold.train.y) == set(fold.validation.y) == {0, 1, 2}
        assert fold.sha256 == whole.sha256


def test_folds_keep_images_and_labels_together():
    whole = data()
    label = {
        image.tobytes(): y
        for part in (whole.train, whole.validation)
        for image, y in zip(part.x, part.y, strict=True)
    }
    for fold in whole.folds(3, seed=1):
        for part in (fold.train, fold.validation):
            assert [label[image.tobytes()] for image in part.x] == part.y.tolist()


def test_folds_normalise_by_their_own_training_images():
    for fold in data().folds(3, seed=0):
        np.testing.assert_allclose(fold.preprocess(fold.train.x).mean(axis=(0, 2, 3)), 0, atol=1e-5)


def test_folds_keep_a_preprocess_that_was_given():
    whole = data(fitted=False)
    assert all(fold.preprocess == whole.preprocess for fold in whole.folds(3, seed=0))


def test_folds_depend_on_the_seed_alone():
    one, same, other = (data().folds(3, seed)[0].validation for seed in (0, 0, 1))
    assert digest(one) == digest(same) != digest(other)


@pytest.mark.parametrize("k", [1, 13])
def test_folds_that_cannot_hold_every_class_are_refused(k):
    with pytest.raises(DataError, match=f"got {k} folds and 12 images of class 'a'"):
        data().folds(k, seed=0)


def test_digest_changes_with_a_pixel_a_label_the_order_and_the_shape():
    base = split()
    x, y = base.x.copy(), base.y.copy()
    x[3, 1, 2, 2] ^= 1
    y[5] += 1
    variants = [
        Split(x, base.y),
        Split(base.x, y),
        Split(base.x[::-1], base.y[::-1]),
        Split(base.x.reshape(12, 2, 3, 4), base.y),
        Split(base.x.astype(np.float32), base.y),
    ]
    assert len({digest(base), *(digest(variant) for variant in variants)}) == 6
    assert digest(Split(base.x.copy(), base.y.copy())) == digest(base)
    assert digest(base, variants[0]) != digest(variants[0], base)


def test_data_goes_to_another_process_and_back():
    back = pickle.loads(pickle.dumps(data()))
    assert digest(back.train, back.validation) == data().sha256
    assert back.preprocess == data().preprocess
