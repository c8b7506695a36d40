"""pymoo's RVEA behind the adapter against its paper (Cheng et al., 2016): one survivor for each direction."""

import numpy as np
import pytest
from pymoo.algorithms.moo.rvea import APDSurvival, calc_V
from pymoo.core.population import Population
from pymoo.core.problem import Problem

from nasflow.strategies.pymoo_algorithms import Paced, directions, rvea
from nasflow.study import Objective, Trial
from nasflow.testing import networks

TWO = (Objective("error"), Objective("flops"))


def test_each_direction_has_at_most_one_survivor_and_the_angle_weighs_as_generations_pass():
    toy = networks()
    one = rvea(toy.space, TWO, population=8, generations=3)
    for _ in range(5):
        one.tell([Trial(0, p.point, state="done", metrics=toy.metrics(p.point)) for p in one.ask(50)])
    population = one._algorithm.pop
    assert len(set(population.get("niche"))) == len(population) <= 8
    assert one._algorithm.termination.n_max_gen == 3


def test_directions_are_unit_vectors_stretched_to_the_extent_of_the_front():
    toy = networks()
    one = rvea(toy.space, TWO, population=8, generations=10)  # adapts every generation
    for _ in range(3):
        one.tell([Trial(0, p.point, state="done", metrics=toy.metrics(p.point)) for p in one.ask(50)])
    survival = one._algorithm.survival
    stretched = calc_V(directions(8, 2)) * (survival.nadir - survival.ideal)
    assert pytest.approx(stretched / np.linalg.norm(stretched, axis=1)[:, None]) == survival.V


def test_the_angle_weighs_by_the_trainings_made_whatever_generations_pass():
    problem, losses = Problem(n_var=1, n_obj=2), np.random.default_rng(0).random((10, 2))

    def distances(survival, generations, **paper):
        for _ in range(generations):
            told = Population.new("F", losses)
            survival.do(problem, told, n_survive=8, **paper)
        return told.get("apd")

    halfway = distances(APDSurvival(directions(8, 2)), 1, n_gen=10, n_max_gen=20)
    end = distances(APDSurvival(directions(8, 2)), 1, n_gen=20, n_max_gen=20)
    assert distances(Paced(directions(8, 2), planned=20), 100, n_gen=99, n_max_gen=3) == pytest.approx(
        halfway
    )
    assert distances(Paced(directions(8, 2), planned=5), 100) == pytest.approx(end)
