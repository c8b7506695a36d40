"""Every augmentation does what it says, image by image, and nothing but its generator decides."""

import pytest
import torch

from nasflow.augment import OPERATIONS, augment
from nasflow.data import AUGMENTATIONS

SHAPES = [(64, 3, 16, 12), (64, 1, 8, 8), (3, 5, 3, 3), (1, 1, 1, 1)]


def batch(shape: tuple[int, ...] = (64, 3, 16, 12)) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7))


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_settings_know_exactly_the_operations_there_are():
    assert set(AUGMENTATIONS) == set(OPERATIONS)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_shape_type_and_the_given_batch_stay_as_they_are(name, shape):
    x = batch(shape)
    out = augment([name], x, draws())
    assert out.shape == x.shape and out.dtype == x.dtype and out.isfinite().all()
    assert torch.equal(x, batch(shape))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_generator_alone_decides(name):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one, same, other = (augment([name], batch(), draws(seed)) for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_images_of_a_batch_change_differently(name):
    x = batch((1, 1, 16, 16)).expand(64, 1, 16, 16)
    assert len({image.numpy().tobytes() for image in augment([name], x, draws())}) >= 2


@pytest.mark.parametrize("name", [name for name, amount in AUGMENTATIONS.items() if amount is not None])
def test_the_amount_matters(name):
    usual = AUGMENTATIONS[name]
    more = augment([f"{name}:{usual * 2.5}"], batch(), draws())
    assert not torch.equal(augment([name], batch(), draws()), more)
    assert torch.equal(augment([name], batch(), draws()), augment([f"{name}:{usual}"], batch(), draws()))


def test_no_names_change_nothing():
    x = batch()
    assert torch.equal(augment([], x, draws()), x)


def test_names_apply_one_after_the_other():
    generator = draws()
    step = augment(["noise"], augment(["flip"], batch(), generator), generator)
    assert torch.equal(augment(["flip", "noise"], batch(), draws()), step)


def test_an_unknown_name_is_an_error_that_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'cutout'"):
        augment(["cut-out"], batch(), draws())


@pytest.mark.parametrize(("name", "axis"), [("flip", 2), ("vflip", 1)])
def test_flips_mirror_about_every_second_image_and_leave_the_others(name, axis):
    x = batch((400, 1, 4, 4))
    out = augment([name], x, draws())
    mirrored = [torch.equal(a, b.flip(axis)) for a, b in zip(out, x, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(out, x, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert 160 < sum(mirrored) < 240


def offsets(x: torch.Tensor, out: torch.Tensor, reach: int, mode: str) -> set[tuple[int, int]]:
    """By how much each image was moved; fails if one is not just a moved window."""
    padded = torch.nn.functional.pad(x, (reach,) * 4, mode=mode)
    height, width = x.shape[2:]
    found = set()
    for image, moved in zip(padded, out, strict=True):
        hits = [
            (top, left)
            for top in range(2 * reach + 1)
            for left in range(2 * reach + 1)
            if torch.equal(image[:, top : top + height, left : left + width], moved)
        ]
        assert len(hits) == 1
        found.add(hits[0])
    return found


@pytest.mark.parametrize(("name", "mode"), [("crop", "constant"), ("shift", "replicate")])
def test_crop_and_shift_move_each_image_by_up_to_the_share_of_the_side(name, mode):
    x = batch((200, 2, 8, 8))
    assert offsets(x, augment([name], x, draws()), 1, mode) == {(i, j) for i in range(3) for j in range(3)}
    wide = offsets(x, augment([f"{name}:0.25"], x, draws()), 2, mode)
    assert {i for i, _ in wide} == {j for _, j in wide} == set(range(5))


def test_cutout_blanks_one_square_around_any_point():
    x = torch.ones(500, 2, 8, 8)
    out = augment(["cutout"], x, draws())
    assert torch.equal(out[:, 0], out[:, 1])
    blank = out[:, 0] == 0
    rows, columns = blank.any(2), blank.any(1)
    assert torch.equal(blank, rows[:, :, None] & columns[:, None, :])
    assert blank.any((1, 2)).all() and int(blank.sum((1, 2)).max()) == 16
    assert blank.any(0).all()  # every pixel is blanked at times
    assert set(rows.sum(1).tolist()) == {2, 3, 4}  # cut off at the border


def test_rotation_by_a_right_angle_is_exact_on_a_square():
    x = batch((1, 2, 6, 6)).expand(50, 2, 6, 6)
    generator = draws()
    angles = 2 * torch.rand(50, generator=draws()) - 1
    out = augment(["rotate:90"], x, generator)
    nearest = int(angles.abs().argmax())
    assert angles[nearest].abs() > 0.95
    turned = torch.rot90(x[0], 1 if angles[nearest] > 0 else -1, (1, 2))
    error = (out[nearest] - turned).abs().mean()
    assert error < (out[nearest] - x[0]).abs().mean() / 3


def test_rotation_keeps_lengths_on_images_that_are_not_square():
    # A disc in the middle of a wide image looks the same however it is turned; squeezed it would not.
    rows, columns = torch.meshgrid(torch.arange(20.0) - 9.5, torch.arange(60.0) - 29.5, indexing="ij")
    disc = torch.sigmoid(2 * (7 - (rows**2 + columns**2).sqrt()))[None, None].expand(40, 1, 20, 60)
    out = augment(["rotate:90"], disc.contiguous(), draws())
    assert (out - disc).abs().mean() < 0.01


def test_zoom_enlarges_and_shrinks_around_the_middle():
    rows, columns = torch.meshgrid(torch.arange(32.0) - 15.5, torch.arange(32.0) - 15.5, indexing="ij")
    disc = torch.sigmoid(4 * (8 - (rows**2 + columns**2).sqrt()))[None, None].expand(200, 1, 32, 32)
    areas = augment(["zoom:0.5"], disc.contiguous(), draws()).sum((1, 2, 3)) / disc[0].sum()
    assert 0.42 < float(areas.min()) < 0.55 and 1.9 < float(areas.max()) < 2.3
    assert 60 < int((areas > 1).sum()) < 140


def test_brightness_moves_each_image_by_one_number_within_the_amount():
    difference = augment(["brightness:0.3"], batch(), draws()) - batch()
    assert float(difference.std(dim=(1, 2, 3)).max()) < 1e-6
    means = difference.mean(dim=(1, 2, 3))
    assert 0.2 < float(means.max()) <= 0.3 and -0.3 <= float(means.min()) < -0.2


def test_contrast_keeps_the_mean_and_scales_the_spread_within_the_share():
    x = batch()
    out = augment(["contrast:0.4"], x, draws())
    assert torch.allclose(out.mean(dim=(1, 2, 3)), x.mean(dim=(1, 2, 3)), atol=1e-5)
    ratio = out.std(dim=(1, 2, 3)) / x.std(dim=(1, 2, 3))
    assert 0.599 <= float(ratio.min()) < 0.7 and 1.3 < float(ratio.max()) <= 1.401


def test_noise_has_the_standard_deviation_asked_for():
    difference = augment(["noise:0.5"], batch(), draws()) - batch()
    assert float(difference.std()) == pytest.approx(0.5, rel=0.05)
    assert abs(float(difference.mean())) < 0.02
