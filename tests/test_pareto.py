"""Domination, fronts and hypervolume against pymoo's, and against their definitions."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pymoo.indicators.hv import HV
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from nasflow import pareto


@st.composite
def clouds(draw: st.DrawFn, least: int = 1, dimensions: tuple[int, int] = (1, 4)) -> np.ndarray:
    """Points on a coarse grid, so that ties and equal points are common."""
    d = draw(st.integers(*dimensions))
    rows = st.lists(st.integers(-6, 6), min_size=d, max_size=d)
    return np.array(draw(st.lists(rows, min_size=least, max_size=24)), dtype=float).reshape(-1, d) / 4.0


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


@given(clouds())
def test_non_dominated_is_what_the_definition_says(points):
    expected = [not any(dominates(other, point) for other in points) for point in points]
    assert pareto.non_dominated(points).tolist() == expected


@given(clouds())
def test_fronts_are_pymoos(points):
    fronts = NonDominatedSorting().do(points)
    expected = np.empty(len(points), dtype=int)
    for rank, members in enumerate(fronts):
        expected[members] = rank
    assert pareto.ranks(points).tolist() == expected.tolist()
    assert (pareto.non_dominated(points) == (expected == 0)).all()


@given(clouds(), st.floats(0.5, 4.0))
def test_hypervolume_is_pymoos(points, reference):
    corner = np.full(points.shape[1], reference)
    inside = points[(points < corner).all(axis=1)]  # pymoo counts a point on the edge in its own way
    expected = HV(ref_point=corner)(inside) if len(inside) else 0.0
    assert pareto.hypervolume(points, corner) == pytest.approx(expected, abs=1e-9)


@given(clouds(dimensions=(1, 3)))
def test_hypervolume_is_the_share_of_the_box_that_something_dominates(points):
    corner = np.full(points.shape[1], 2.0)
    grid = np.arange(-1.5, 2.0, 0.25)  # cells of the grid the points lie on: exact
    cells = itertools.product(grid, repeat=points.shape[1])
    covered = sum(
        bool((points <= np.array(cell)).all(axis=1).any()) for cell in itertools.islice(cells, 3000)
    )
    assume(len(grid) ** points.shape[1] <= 3000)
    assert pareto.hypervolume(points, corner) == pytest.approx(covered * 0.25 ** points.shape[1])


@given(clouds(least=2))
def test_scaling_goes_from_best_to_worst(points):
    scaled = pareto.normalised(points)
    assert scaled.min(axis=0).tolist() == [0.0] * points.shape[1]
    for column, values in zip(scaled.T, points.T, strict=True):
        assert column.max() == (1.0 if values.max() > values.min() else 0.0)
        assert (np.argsort(column, kind="stable") == np.argsort(values, kind="stable")).all()


@given(clouds(), st.floats(0.1, 100.0))
def test_the_knee_does_not_depend_on_units(points, unit):
    front = points[pareto.non_dominated(points)]
    knee = pareto.knee(front)
    distances = np.linalg.norm(pareto.normalised(front), axis=1)
    assert distances[knee] == distances.min()
    scaled = front * 2.0 ** np.round(np.log2(unit))  # powers of two: no rounding
    assert pareto.knee(scaled) == knee


def test_places_are_from_0_for_the_least_to_1_for_the_largest():
    losses = np.array([(3.0, 5.0), (1.0, 5.0), (1000.0, 5.0), (1.0, 5.0)])
    assert pareto.places(losses).tolist() == [[0.5, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    assert pareto.places(losses[:1], np.vstack([losses, [(2.0, 4.0)]])).tolist() == [[2 / 3, 1.0]]


def test_the_knee_is_the_bend():
    assert pareto.knee([[0.0, 1.0], [0.1, 0.15], [1.0, 0.0]]) == 1
    assert pareto.knee([[3.0, 3.0]]) == 0
    with pytest.raises(ValueError, match="the knee of an empty front"):
        pareto.knee(np.zeros((0, 2)))


@given(clouds())
def test_the_hypervolume_curve_rises_and_ends_at_the_hypervolume_of_all(points):
    curve, reference = pareto.hypervolume_curve(points)
    assert len(curve) == len(points) and len(reference) == points.shape[1]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(curve))
    assert curve[0] > 0.0 and curve[-1] <= 1.0 + 1e-12
    low = points.min(axis=0)
    box = np.prod(np.array(reference) - low)
    assert curve[-1] == pytest.approx(pareto.hypervolume(points, reference) / box, rel=1e-6)


def test_nothing_has_no_front_and_no_volume():
    nothing = np.zeros((0, 2))
    assert pareto.non_dominated(nothing).tolist() == []
    assert pareto.ranks(nothing).tolist() == []
    assert pareto.hypervolume(nothing, [1.0, 1.0]) == 0.0
    assert pareto.hypervolume_curve(nothing) == ([], [])


def test_equal_points_are_all_kept():
    assert pareto.non_dominated([[1.0, 2.0], [1.0, 2.0], [2.0, 2.0]]).tolist() == [True, True, False]


def test_points_on_or_beyond_the_reference_add_nothing():
    assert pareto.hypervolume([[0.0, 0.0]], [1.0, 1.0]) == 1.0
    assert pareto.hypervolume([[0.0, 0.0], [-9.0, 1.0], [3.0, -9.0]], [1.0, 1.0]) == 1.0


def test_the_shape_of_losses_is_checked():
    with pytest.raises(ValueError, match=r"expected losses of shape \(points, objectives\), got \(3,\)"):
        pareto.non_dominated([1.0, 2.0, 3.0])
