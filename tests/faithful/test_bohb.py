"""BOHB against its paper (Falkner et al., 2018): when it models what, the kernels, and that it finds the good part."""

import numpy as np
import pytest
from scipy import integrate

from nasflow.loop import Evaluate, run
from nasflow.space import Choice, Real, Space
from nasflow.strategies.bohb import Densities, Density, bohb
from nasflow.strategies.hyperband import hyperband
from nasflow.strategies.rungs import FidelityError, Rungs
from nasflow.study import Objective, Study, Trial

ONE = (Objective("error"),)
SPACE = Space((Choice("kind", ("a", "b", "c")), Choice("depth", (1, 2, 3, 4), ordered=True), Real("x", 0, 1)))


def rungs_with(*counts):
    """Rungs on which so many trials stand, the errors rising with x."""
    rungs = Rungs(SPACE, ONE, (0.1, 1.0))
    for fidelity, count in zip((0.1, 1.0), counts, strict=True):
        for n in range(count):
            point = {"kind": "abc"[n % 3], "depth": 1 + n % 4, "x": n / count}
            metrics = {"error": n / count + fidelity}
            rungs.tell(Trial(n, point, fidelity, state="done", metrics=metrics))
    return rungs


def drawn(rungs, count=40, random_fraction=0.0):
    draw = Densities(SPACE, random_fraction)
    return [draw(rungs, np.random.default_rng(seed)) for seed in range(count)]


def uniform(count=40):
    rngs = [np.random.default_rng(seed) for seed in range(count)]
    for rng in rngs:
        rng.random()  # with which it is decided whether to draw at random
    return [SPACE.sample(rng) for rng in rngs]


def test_points_are_uniform_until_a_rung_has_enough_of_them():
    assert drawn(rungs_with(5, 0)) == uniform()  # three parameters: at least 3 + 1 points, and two more
    assert drawn(rungs_with(6, 0)) != uniform()


def test_a_share_of_the_points_stays_random():
    rolls = [np.random.default_rng(seed).random() < 1 / 3 for seed in range(40)]
    pairs = zip(drawn(rungs_with(60, 0), random_fraction=1 / 3), uniform(), rolls, strict=True)
    assert [one == random for one, random, _ in pairs] == rolls


def test_the_longest_trainings_with_enough_points_are_modelled():
    assert drawn(rungs_with(60, 5)) == drawn(rungs_with(60, 0))
    assert drawn(rungs_with(60, 6)) == drawn(rungs_with(0, 6)) != drawn(rungs_with(60, 0))


def test_new_points_lie_where_the_good_ones_are():
    assert np.mean([point["x"] for point in drawn(rungs_with(60, 0))]) < 0.25


def test_the_kernels_are_gaussian_and_aitchison_aitken_and_each_integrates_to_one():
    data = np.array([[0.0, 0.3], [1.0, 0.7], [1.0, 0.6]])
    kind, x = SPACE["kind"], SPACE["x"]
    density = Density((kind, x), data, np.array([0.3, 0.1]))
    normal = np.exp(-(np.array([0.2, 0.2, 0.1]) ** 2) / (2 * 0.1**2)) / np.sqrt(2 * np.pi * 0.1**2)
    assert density.at(np.array([[1.0, 0.5]]))[0] == pytest.approx(np.mean([0.15, 0.7, 0.7] * normal))
    each = [
        integrate.quad(lambda v, k=k: density.at(np.array([[k, v]]))[0], -1, 2, points=[0.3, 0.7])[0]
        for k in (0.0, 1.0, 2.0)
    ]
    assert sum(each) == pytest.approx(1.0, abs=1e-6)


def test_bandwidths_follow_the_normal_reference_rule_and_stay_in_their_bounds():
    data = np.column_stack([[0] * 6 + [1] * 3 + [2] * 3, np.linspace(0, 1, 12), np.full(12, 0.5)])
    found = Density.of((SPACE["kind"], SPACE["x"], Real("y", 0, 1)), data).bandwidths
    scale = 1.06 * 12 ** (-1 / 7)
    assert found == pytest.approx([scale * (1 - 0.25 - 2 * 0.0625), scale * data[:, 1].std(), 1e-3])

    apart = Density.of((SPACE["kind"],), np.array([[0.0], [1.0], [2.0]]))
    assert apart.bandwidths == pytest.approx([1.06 * 2 / 3 * 3 ** (-1 / 5)])


def test_samples_are_drawn_three_times_as_wide_within_the_range():
    data = np.full((5, 1), 0.5)
    one = Density((SPACE["x"],), data, np.array([0.02])).samples(4000, np.random.default_rng(0))
    assert one.std() == pytest.approx(3 * 0.02, rel=0.05)
    edge = Density((SPACE["x"],), np.zeros((5, 1)), np.array([0.5])).samples(500, np.random.default_rng(0))
    assert edge.min() >= 0 and edge.max() <= 1


def test_it_beats_hyperband_where_there_is_something_to_learn():
    space = Space(tuple(Real(f"x{i}", 0.0, 1.0) for i in range(4)))

    def train(trial):
        return {"error": sum((v - 0.3) ** 2 for v in trial.point.values()) + 0.1 / trial.fidelity}

    def best(make, seed):
        study = Study(space, ONE)
        run(study, make(space, ONE, seed=seed), Evaluate(train), trials=40, batch=4)
        return min(t.metrics["error"] for t in study.finalists)

    found = {make: np.median([best(make, seed) for seed in range(9)]) - 0.1 for make in (bohb, hyperband)}
    assert found[bohb] < 0.7 * found[hyperband]


def test_a_fraction_beyond_one_is_refused():
    with pytest.raises(FidelityError, match="random_fraction: expected 0 to 1, got 2"):
        bohb(SPACE, ONE, random_fraction=2)
