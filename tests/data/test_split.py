"""Splits are disjoint and whole, every class is on both sides, and the seed alone decides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasflow.data.split import stratified_folds, stratified_sample, stratified_split


def labels(sizes: list[int], seed: int) -> np.ndarray:
    """Shuffled labels, `sizes[c]` of class c; numbers with gaps, since nothing promises that there are none."""
    y = np.repeat(np.arange(len(sizes)) * 3, sizes)
    return np.random.default_rng(seed).permutation(y).astype(np.int64)


seeds = st.integers(0, 2**32 - 1)
shares = st.floats(0.001, 0.999)


@given(st.lists(st.integers(2, 40), min_size=1, max_size=12), shares, seeds)
def test_a_split_is_disjoint_whole_and_has_every_class_on_both_sides(sizes, share, seed):
    y = labels(sizes, seed)
    rest, taken = stratified_split(y, share, np.random.default_rng(seed))
    assert sorted([*rest, *taken]) == list(range(len(y)))
    assert set(y[rest]) == set(y[taken]) == set(y)
    assert len(taken) == np.clip(round(share * len(y)), len(sizes), len(y) - len(sizes))


@given(st.lists(st.integers(30, 60), min_size=1, max_size=8), st.floats(0.1, 0.9), seeds)
def test_each_class_is_split_in_the_proportion_of_the_whole(sizes, share, seed):
    y = labels(sizes, seed)
    _, taken = stratified_split(y, share, np.random.default_rng(seed))
    for label, size in zip(np.unique(y), sizes, strict=True):
        assert abs(np.sum(y[taken] == label) - size * len(taken) / len(y)) < 1


@given(st.lists(st.integers(4, 20), min_size=1, max_size=6), shares, st.integers(1, 3), seeds)
def test_a_split_keeps_as_many_of_each_class_as_it_is_asked_to(sizes, share, keep, seed):
    y = labels(sizes, seed)
    rest, taken = stratified_split(y, share, np.random.default_rng(seed), keep=keep)
    assert min(np.sum(y[rest] == label) for label in set(y)) >= keep
    assert set(y[taken]) == set(y)


@given(st.lists(st.integers(3, 40), min_size=1, max_size=12), st.integers(1, 3), seeds, st.data())
def test_a_sample_has_the_size_asked_for_and_enough_of_every_class(sizes, least, seed, data):
    y = labels(sizes, seed)
    count = data.draw(st.integers(least * len(sizes), len(y)))
    taken = stratified_sample(y, count, np.random.default_rng(seed), least=least)
    assert len(taken) == len(set(taken)) == count
    assert min(np.sum(y[taken] == label) for label in set(y)) >= least


@given(st.lists(st.integers(5, 40), min_size=1, max_size=12), st.integers(2, 5), seeds)
def test_folds_are_disjoint_whole_and_even_in_size_and_in_every_class(sizes, k, seed):
    y = labels(sizes, seed)
    folds = stratified_folds(y, k, np.random.default_rng(seed))
    assert sorted(np.concatenate(folds)) == list(range(len(y)))
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    for label in set(y):
        counts = [int(np.sum(y[fold] == label)) for fold in folds]
        assert max(counts) - min(counts) <= 1 and min(counts) >= 1


def test_the_seed_alone_decides():
    y = labels([30, 50, 20], 0)
    one, same, other = (stratified_split(y, 0.3, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(one, same, strict=True))
    assert not np.array_equal(one[1], other[1])


def test_the_order_is_random_so_that_the_first_ones_are_a_fair_sample():
    y = np.repeat(np.arange(4), 100).astype(np.int64)
    rest, taken = stratified_split(y, 0.5, np.random.default_rng(0))
    folds = stratified_folds(y, 2, np.random.default_rng(0))
    for part in (rest, taken, *folds):
        assert np.bincount(y[part[:60]], minlength=4).min() >= 5


@pytest.mark.parametrize(("sizes", "count"), [([1, 5], 3), ([5, 5], 1), ([5, 5], 11)])
def test_what_cannot_be_is_refused(sizes, count):
    y = labels(sizes, 0)
    with pytest.raises(ValueError, match="cannot take"):
        if 1 in sizes:
            stratified_split(y, 0.5, np.random.default_rng(0))
        else:
            stratified_sample(y, count, np.random.default_rng(0))
