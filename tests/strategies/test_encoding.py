"""Points as numbers: equal for equal meaning, and on the scale of the space."""

import numpy as np
import pytest

from nasflow.space import Choice, Real, Space
from nasflow.strategies.encoding import Encoded, Encoder
from nasflow.testing import joint, networks

OPS = ("none", "skip", "conv")
EDGES = tuple(Choice(f"edge{i}", OPS) for i in range(3))
CELL = Space((*EDGES, Choice("width", (8, 16, 32), ordered=True)))


def test_points_of_equal_meaning_are_equal_rows():
    encoder = Encoder(networks().space, seed=0)
    vanished = {"width": 8, "depth": 0, "kernel": 3, "squeeze": False}
    encoded = encoder.encode([vanished, {**vanished, "kernel": 7, "squeeze": True}])
    for part in (encoded.categories, encoded.numbers, encoded.counts):
        assert (part[0] == part[1]).all()


def test_points_of_different_meaning_are_different_rows():
    points = list(networks().points())
    encoded = Encoder(networks().space, seed=0).encode(points)
    rows = np.hstack([encoded.categories, encoded.numbers])
    assert len(np.unique(rows, axis=0)) == len(points)


def test_numbers_have_mean_0_and_deviation_1_over_the_space():
    encoder = Encoder(joint().space, seed=0)
    rng = np.random.default_rng(1)
    encoded = encoder.encode([joint().space.sample(rng) for _ in range(2000)])
    assert encoded.numbers.mean(axis=0) == pytest.approx(0.0, abs=0.15)
    assert encoded.numbers.std(axis=0) == pytest.approx(1.0, abs=0.1)
    itself = encoder.encode(encoder.sample)
    assert itself.numbers.mean(axis=0) == pytest.approx(0.0, abs=1e-9)
    assert itself.numbers.std(axis=0) == pytest.approx(1.0)


def test_ordered_choices_and_reals_are_near_where_their_values_are():
    space = Space((Choice("a", (1, 2, 4, 8), ordered=True), Real("rate", 1e-4, 1e-2, log=True)))
    points = [{"a": a, "rate": 1e-3} for a in (1, 2, 4, 8)] + [
        {"a": 1, "rate": r} for r in (1e-4, 1e-3, 1e-2)
    ]
    numbers = Encoder(space, seed=0).encode(points).numbers
    steps = np.diff(numbers, axis=0)
    assert steps[:3, 0] == pytest.approx(steps[0, 0]) and steps[0, 0] > 0
    assert steps[-2:, 1] == pytest.approx(steps[-1, 1]) and steps[-1, 1] > 0


def test_what_never_differs_is_left_out():
    space = Space(
        (Choice("a", (1, 2, 3), ordered=True), Choice("fixed", (7,), ordered=True)),
        features=(lambda point: [float(point["a"]) ** 2, 3.0],),
    )
    assert Encoder(space, seed=0).encode([{"a": 1, "fixed": 7}]).numbers.shape == (1, 2)


def test_counts_say_how_often_an_option_is_taken_by_choices_that_offer_the_same():
    encoder = Encoder(CELL, seed=0)
    points = [
        {"edge0": "conv", "edge1": "conv", "edge2": "none", "width": 8},
        {"edge0": "none", "edge1": "conv", "edge2": "conv", "width": 32},
        {"edge0": "skip", "edge1": "skip", "edge2": "skip", "width": 8},
    ]
    encoded = encoder.encode(points)
    assert encoded.counts.shape == (3, len(OPS))
    assert (encoded.counts[0] == encoded.counts[1]).all()  # whichever edge it is
    taken = np.array([(1, 0, 2), (1, 0, 2), (0, 3, 0)])
    for option in range(len(OPS)):
        scale = np.ptp(encoded.counts[:, option]) / np.ptp(taken[:, option])
        assert encoded.counts[2, option] - encoded.counts[0, option] == pytest.approx(
            scale * (taken[2, option] - taken[0, option])
        )


def test_parts_join_to_the_whole():
    encoder = Encoder(joint().space, seed=0)
    whole = encoder.encode(encoder.sample)
    joined = Encoded.join([whole[:100], whole[np.arange(100, len(whole))]])
    for part in ("categories", "numbers", "counts"):
        assert (getattr(joined, part) == getattr(whole, part)).all()


def test_no_points_at_all_have_the_same_columns():
    encoder = Encoder(CELL, seed=0)
    none, one = encoder.encode([]), encoder.encode(encoder.sample[:1])
    assert len(none) == 0
    for part in ("categories", "numbers", "counts"):
        assert getattr(none, part).shape[1] == getattr(one, part).shape[1]


def test_one_more_number_stands_beside_the_others():
    encoder = Encoder(CELL, seed=0)
    points = encoder.encode(encoder.sample[:4])
    more = points.beside(np.arange(4.0))
    assert more.numbers.shape[1] == points.numbers.shape[1] + 1
    assert more.numbers[:, -1].tolist() == [0.0, 1.0, 2.0, 3.0]
