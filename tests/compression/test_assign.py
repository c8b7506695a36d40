"""The exact solver: chains, ties, budgets, what is forbidden, and what it says when nothing fits."""

import math

import numpy as np
import pytest
import torch
from networks import NETWORKS, SHAPE, trained

from nasflow.compression import assign, precision
from nasflow.compression.assign import AssignError, Budget, Limit, Table, best
from nasflow.compression.layers import layers

torch.set_num_threads(1)

INF = math.inf


def test_without_budgets_each_layer_takes_its_least() -> None:
    found = best(Table([[3, 1, 2], [0, 5], [7, 7, 6, 9]]))
    assert (found.options, found.total, dict(found.spent)) == ((1, 0, 2), 7, {})


def test_conversions_are_paid_where_options_change() -> None:
    change = [[0, 4], [4, 0]]
    table = Table([[0, 3], [5, 0], [0, 3]], {(0, 1): change, (1, 2): change})
    assert best(table).options == (0, 0, 0)  # 5, against 6 for all second and 8 for alternating
    assert best(table).total == 5


def test_a_graph_that_is_no_chain_is_solved_as_well() -> None:
    change = [[0, 4], [4, 0]]
    table = Table([[0, 3], [5, 0], [0, 9]], {(0, 1): change, (0, 2): change, (1, 2): change})
    assert best(table).options == (0, 0, 0)


def test_an_edge_may_be_written_either_way() -> None:
    rng = np.random.default_rng(0)
    own, matrix = rng.random((3, 2)).tolist(), rng.random((2, 2))
    budget = Budget("a", Table([[0, 1]] * 3), 2)
    forth = best(Table(own, {(0, 2): matrix.tolist()}), [budget])
    back = best(Table(own, {(2, 0): matrix.T.tolist()}), [budget])
    assert forth.options == back.options
    assert forth.total == pytest.approx(back.total)


def test_conversions_count_in_budgets_too() -> None:
    change = {(0, 1): [[0, 10], [10, 0]]}
    objective = Table([[0, 1], [1, 0]])
    assert best(objective, [Budget("ms", Table([[1, 1], [1, 1]], change), 12)]).options == (0, 1)
    found = best(objective, [Budget("ms", Table([[1, 1], [1, 1]], change), 11)])
    assert found.options in ((0, 0), (1, 1))
    assert found.spent == {"ms": 2}


def test_tied_layers_move_together() -> None:
    assert best(Table([[0, 3], [1, 0], [2, 0]]), ties=[(0, 2)]).options == (0, 1, 0)
    assert best(Table([[0, 1], [1, 0], [2, 0]]), ties=[(0, 2)]).options == (1, 1, 1)
    assert best(Table([[0, 9], [1, 0], [2, 0]]), ties=[(0, 1), (1, 2)]).options == (0, 0, 0)


def test_infinity_forbids() -> None:
    assert best(Table([[INF, 1], [0, INF]])).options == (1, 0)
    between = {(0, 1): [[INF, 0], [0, INF]]}
    assert best(Table([[0, 5], [0, 1]], between)).options == (0, 1)
    assert best(Table([[0, 5], [0, 1]], between), [Budget("b", Table([[2, 0], [0, 2]]), 2)]).options == (1, 0)


def test_a_budget_that_is_met_exactly_is_kept() -> None:
    third = 1 / 3
    budget = Budget("b", Table([[third, 0.0]] * 3), math.fsum([third] * 3))
    assert best(Table([[0, 1]] * 3), [budget]).options == (0, 0, 0)
    assert sum(best(Table([[0, 1]] * 3), [Budget("b", budget.table, budget.most * (1 - 1e-12))]).options) == 1


def test_costs_of_very_different_sizes_are_told_apart() -> None:
    objective = Table([[1e-7, 1.2e-7], [3e-3, 1e-3], [2e-7, 1e-7]])
    assert best(objective, [Budget("bitops", Table([[1e9, 2e9]] * 3), 5e9)]).options == (0, 1, 1)


def test_says_the_least_possible_of_a_budget_that_nothing_keeps() -> None:
    with pytest.raises(AssignError, match=r"size_bytes of at most 10: the least possible is 12$"):
        best(
            Table([[0, 1]] * 3),
            [Budget("size_bytes", Table([[4, 6]] * 3), 10), Budget("ms", Table([[1, 1]] * 3), 9)],
        )


def test_says_what_two_budgets_leave_of_each_other() -> None:
    with pytest.raises(
        AssignError, match=r"a of at most 3: beside .* is 12; b of at most 3: beside .* is 12"
    ):
        best(
            Table([[0, 0]] * 3),
            [Budget("a", Table([[1, 4]] * 3), 3), Budget("b", Table([[4, 1]] * 3), 3)],
        )


def test_forbidden_everywhere_is_told() -> None:
    with pytest.raises(AssignError, match="forbidden"):
        best(Table([[0, 1], [0, 1]], {(0, 1): [[INF, INF], [INF, INF]]}))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (Table([[1.0], []]), "a cost for each option"),
        (Table([[math.nan, 1.0]]), "numbers or infinity"),
        (Table([[0.0], [0.0]], {(0, 2): [[0.0]]}), "no two layers"),
        (Table([[0.0], [0.0]], {(0, 1): [[0.0, 0.0]]}), r"expected costs \(1, 1\)"),
    ],
)
def test_tables_that_do_not_fit_are_refused(table: Table, said: str) -> None:
    with pytest.raises(AssignError, match=said):
        best(table)


def test_ties_that_do_not_fit_are_refused() -> None:
    with pytest.raises(AssignError, match="different numbers of options"):
        best(Table([[0, 1], [0, 1, 2]]), ties=[(0, 1)])
    with pytest.raises(AssignError, match="among 0 to 1"):
        best(Table([[0, 1], [0, 1]]), ties=[(0, 2)])


def test_a_policy_of_bits_keeps_its_limits_and_the_edges() -> None:
    model = trained(NETWORKS["residual"])
    found = layers(model, SHAPE)
    space = precision.space(model, SHAPE, bits=(2, 4, 8))
    errs = {
        (start + layer.name, bits): 4.0**-bits * (1 + i)
        for i, layer in enumerate(found)
        for start in (precision.WEIGHT, precision.ACTIVATION)
        for bits in (2, 4, 8)
    }
    least, most = (precision.bitops(found, precision.uniform(space, bits)) for bits in (2, 8))
    limits = [
        Limit("bitops", precision.layer_bitops, (least + most) / 2),
        Limit(
            "size_bytes",
            precision.layer_bytes,
            0.6 * precision.size_bytes(found, precision.uniform(space, 8)),
        ),
    ]
    tied = (found[2].name, found[4].name)
    policy = assign.policy(space, found, errs, limits, ties=[tied])
    assert policy in space
    assert precision.bitops(found, policy) <= limits[0].most
    assert precision.size_bytes(found, policy) <= limits[1].most
    assert precision.bits_of(tied[0], policy) == precision.bits_of(tied[1], policy)
    assert precision.bits_of(found[0].name, policy) == (8, 8)


def test_a_missing_sensitivity_or_an_unknown_tie_is_named() -> None:
    model = trained(NETWORKS["chain"])
    found = layers(model, SHAPE)
    space = precision.space(model, SHAPE, bits=(2, 4))
    with pytest.raises(AssignError, match=r"weight_bits\.1\.0: no sensitivity for 2 bits"):
        assign.policy(space, found, {}, [])
    with pytest.raises(AssignError, match="cannot tie nowhere"):
        assign.policy(space, found, {}, [], ties=[("nowhere",)])
