"""Spaces: sampling, mutation, folding, names of points, and the mistakes one can make with them."""

import json
import math
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasflow.space import Choice, Point, Real, Space, SpaceError, point_key

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-50, 50), st.floats(-9.0, 9.0), st.text("abé\n", max_size=3)
)


@st.composite
def choices(draw: st.DrawFn, name: str) -> Choice:
    return Choice(
        name, tuple(draw(st.lists(SCALARS, min_size=1, max_size=5, unique=True))), draw(st.booleans())
    )


@st.composite
def reals(draw: st.DrawFn, name: str) -> Real:
    log = draw(st.booleans())
    low = draw(st.floats(1e-6, 1.0) if log else st.floats(-10.0, 10.0))
    return Real(name, low, low + draw(st.floats(1e-3, 100.0)), log)


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    names = draw(st.lists(st.text("abc.", min_size=1, max_size=4), min_size=1, max_size=5, unique=True))
    return Space(tuple(draw(st.one_of(choices(name), reals(name))) for name in names))


def vanish(point: Point) -> Point:
    return {**point, "kernel": 3} if point["depth"] == 0 else point


FOLDED = Space((Choice("depth", (0, 1, 2), ordered=True), Choice("kernel", (3, 5, 7))), (vanish,))


@given(spaces(), st.integers(0, 2**32))
def test_sampled_points_belong(space, seed):
    point = space.sample(np.random.default_rng(seed))
    space.check(point)
    assert point in space
    assert list(point) == [parameter.name for parameter in space.parameters]


@given(spaces(), st.integers(0, 2**32))
def test_mutation_changes_one_parameter_of_those_that_can_change(space, seed):
    rng = np.random.default_rng(seed)
    point = space.sample(rng)
    child = space.mutate(point, rng)
    changed = [name for name in point if (type(child[name]), child[name]) != (type(point[name]), point[name])]
    assert child in space
    free = any(isinstance(p, Real) or len(p.options) > 1 for p in space.parameters)
    assert len(changed) == free


@given(spaces(), st.integers(0, 2**32))
def test_children_belong_and_take_everything_from_their_parents(space, seed):
    rng = np.random.default_rng(seed)
    a, b = space.sample(rng), space.sample(rng)
    child = space.crossover(a, b, rng)
    assert child in space
    assert all(child[name] in (a[name], b[name]) for name in child)


@given(spaces(), st.integers(0, 2**32))
def test_points_survive_json_whatever_the_order_of_their_keys(space, seed):
    point = space.sample(np.random.default_rng(seed))
    back = json.loads(json.dumps(dict(reversed(point.items()))))
    assert back in space
    assert space.key(back) == space.key(point)


@given(reals("x"), st.floats(0, 1))
def test_positions_of_a_real_go_there_and_back(real, position):
    value = real.at(position)
    assert real.low <= value <= real.high
    assert real.position(value) == pytest.approx(position, abs=1e-6)


@given(reals("x"), st.integers(0, 2**32))
def test_real_steps_stay_inside(real, seed):
    rng = np.random.default_rng(seed)
    for value in (real.low, real.high, real.sample(rng)):
        assert real.mutate(value, rng) in real


def test_options_are_drawn_evenly_and_reals_evenly_over_their_logarithm():
    space = Space((Choice("a", (1, 2, 3, 4)), Real("b", 1e-4, 1.0, log=True)))
    rng = np.random.default_rng(0)
    points = [space.sample(rng) for _ in range(4000)]
    assert all(900 < count < 1100 for count in Counter(point["a"] for point in points).values())
    decades = Counter(math.floor(math.log10(point["b"])) for point in points)
    assert all(900 < decades[decade] < 1100 for decade in (-4, -3, -2, -1))


def test_mutating_an_ordered_choice_goes_to_a_neighbour_an_unordered_one_anywhere():
    rng = np.random.default_rng(0)
    ordered, free = Choice("a", (1, 2, 3, 4), ordered=True), Choice("a", (1, 2, 3, 4))
    assert {ordered.mutate(1, rng) for _ in range(50)} == {2}
    assert {ordered.mutate(3, rng) for _ in range(50)} == {2, 4}
    drawn = Counter(free.mutate(3, rng) for _ in range(3000))
    assert drawn.keys() == {1, 2, 4} and min(drawn.values()) > 900


def test_mutation_changes_what_a_point_means_not_only_its_inert_values():
    rng = np.random.default_rng(0)
    for _ in range(200):
        child = FOLDED.mutate({"depth": 0, "kernel": 7}, rng)
        assert FOLDED.key(child) != FOLDED.key({"depth": 0, "kernel": 7})


def test_a_mutation_nothing_can_come_of_ends():
    space = Space((Choice("a", (1, 2)),), (lambda point: {"a": 1},))
    assert space.mutate({"a": 1}, np.random.default_rng(0)) == {"a": 2}
    assert Space((Choice("a", (1,)),)).mutate({"a": 1}, np.random.default_rng(0)) == {"a": 1}


def test_points_that_mean_the_same_have_one_key_others_have_their_own():
    keys = {FOLDED.key({"depth": depth, "kernel": kernel}) for depth in (0, 1, 2) for kernel in (3, 5, 7)}
    assert len(keys) == 7
    assert FOLDED.canonical({"depth": 0, "kernel": 7}) == {"depth": 0, "kernel": 3}
    assert FOLDED.size == 9


def test_a_real_may_be_written_as_a_whole_number():
    space = Space((Real("x", 0.0, 2.0),))
    assert {"x": 1} in space and space.key({"x": 1}) == space.key({"x": 1.0})


def test_true_is_not_one_and_text_is_no_number():
    space = Space((Choice("flag", (False, True)), Choice("count", (0, 1)), Real("x", 0.0, 1.0)))
    assert {"flag": True, "count": 1, "x": 1} in space
    assert {"flag": 1, "count": 1, "x": 0.5} not in space
    assert {"flag": True, "count": True, "x": 0.5} not in space
    assert {"flag": True, "count": 1, "x": True} not in space
    assert {"flag": True, "count": 1, "x": "1"} not in space
    assert {"flag": True, "count": 1, "x": math.nan} not in space


def test_spaces_multiply_with_their_folds():
    both = FOLDED * Space((Real("rate", 0.0, 1.0),))
    assert both.size == math.inf
    assert both.canonical({"depth": 0, "kernel": 5, "rate": 0.5}) == {"depth": 0, "kernel": 3, "rate": 0.5}
    with pytest.raises(SpaceError, match="depth, kernel came more than once"):
        FOLDED * FOLDED


def test_a_space_is_a_value():
    assert Space((Choice("a", (1, 2)),)) == Space((Choice("a", (1, 2)),))
    assert hash(Space((Choice("a", (1, 2)),))) == hash(Space((Choice("a", (1, 2)),)))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Choice("a", ()), "choice 'a': expected at least one option"),
        (lambda: Choice("a", (1, 2, 1)), "choice 'a': options must differ"),
        (lambda: Choice("a", (1, True)), "choice 'a': options must differ"),
        (lambda: Choice("a", (1, 1.0)), "choice 'a': options must differ"),
        (lambda: Choice("a", (1.0, math.nan)), "choice 'a': numbers must be finite"),
        (lambda: Real("a", 1.0, 1.0), "real 'a': expected finite low < high, got 1.0 and 1.0"),
        (lambda: Real("a", 0.0, math.inf), "real 'a': expected finite low < high"),
        (lambda: Real("a", 0.0, 1.0, log=True), "real 'a': a logarithmic range starts above 0"),
        (lambda: Space((Choice("a", (1,)), Choice("a", (2,)))), "a came more than once"),
    ],
)
def test_impossible_spaces_are_refused_by_name(make, complaint):
    with pytest.raises(SpaceError, match=complaint):
        make()


@pytest.mark.parametrize(
    ("point", "complaint"),
    [
        ({"depth": 1}, r"missing \['kernel'\], unknown nothing"),
        ({"depth": 1, "kernel": 3, "kernels": 3}, r"missing nothing, unknown \['kernels'\]"),
        ({"depth": 9, "kernel": 3}, r"depth: expected one of \[0, 1, 2\], got 9"),
        ({"depth": 1, "kernel": "3"}, r"kernel: expected one of \[3, 5, 7\], got '3'"),
    ],
)
def test_what_is_wrong_with_a_point_is_said(point, complaint):
    assert point not in FOLDED
    with pytest.raises(SpaceError, match=complaint):
        FOLDED.check(point)


def test_an_option_that_is_not_there_has_no_position():
    with pytest.raises(SpaceError, match=r"kernel: expected one of \[3, 5, 7\], got 4"):
        FOLDED["kernel"].index(4)


@given(spaces(), st.integers(0, 2**32))
def test_a_point_is_named_by_its_values_alone(space, seed):
    one, other = (space.sample(np.random.default_rng(seed + i)) for i in range(2))
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (point_key(one) == point_key(other)) == same


def test_keys_are_the_same_in_every_process_and_for_ever():
    point = {"name": "é", "depth": 3, "rate": 0.1, "squeeze": True, "none": None}
    code = f"from nasflow.space import point_key; print(point_key({point!r}))"
    for seed in ("0", "1"):
        ran = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        assert ran.stdout.strip() == point_key(point) == "02e18fd7401bdfa8"


def test_spaces_need_no_torch():
    code = (
        "import sys, nasflow.space, nasflow.loop; sys.exit('torch' in sys.modules or 'optuna' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_space_is_named_by_what_can_be_chosen():
    def named(*options, low=0.0):
        return Space((Choice("a", options), Real("r", low, 1.0))).sha256

    assert named(1, 2) == named(1, 2)
    assert len({named(1, 2), named(2, 1), named(1, 2, 3), named(1, 2, low=0.5)}) == 4
    code = "from nasflow.space import *; print(Space((Choice('a', (1, 2)), Real('r', 0.0, 1.0))).sha256)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == named(1, 2)
