"""Policies of bits: what is offered, what they cost, and that the two kinds never mix."""

import pytest
import torch
from networks import NETWORKS, SHAPE, trained

from nasflow.compression import precision
from nasflow.compression.layers import layers
from nasflow.compression.precision import Costs, PrecisionError

torch.set_num_threads(1)


@pytest.mark.parametrize("name", NETWORKS)
def test_offers_bits_for_every_layer_and_fixes_the_edges(name: str) -> None:
    model = trained(NETWORKS[name])
    found = layers(model, SHAPE)
    space = precision.space(model, SHAPE, bits=(2, 4), edges=8)
    for layer in found:
        expected = (8,) if layer in (found[0], found[-1]) else (2, 4)
        assert space["weight_bits." + layer.name].options == expected  # type: ignore[union-attr]
        assert space["activation_bits." + layer.name].options == expected  # type: ignore[union-attr]
    assert len(space.parameters) == 2 * len(found)


def test_without_edges_all_layers_are_chosen_and_without_activations_inputs_are_left_alone() -> None:
    model = trained(NETWORKS["chain"])
    space = precision.space(model, SHAPE, bits=(4, 2, 4), activations=False, edges=None)
    assert {p.options for p in space.parameters if p.name.startswith("weight")} == {(2, 4)}  # type: ignore[union-attr]
    assert {p.options for p in space.parameters if p.name.startswith("activation")} == {(32,)}  # type: ignore[union-attr]


def test_left_alone_costs_what_floats_cost() -> None:
    model = trained(NETWORKS["residual"])
    found = layers(model, SHAPE)
    whole = sum(layer.parameters for layer in found)
    assert precision.size_bytes(found, {}) == 4 * whole
    assert precision.bitops(found, {}) == 32 * 32 * sum(layer.macs for layer in found)


def test_costs_of_a_policy_are_those_of_its_layers() -> None:
    found = layers(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 2, 1, bias=False)), SHAPE)
    policy = {"weight_bits.0": 4, "activation_bits.0": 8, "weight_bits.1": 2, "activation_bits.1": 3}
    assert precision.bitops(found, policy) == 36 * 4 * 27 * 4 * 8 + 36 * 2 * 4 * 2 * 3
    assert precision.size_bytes(found, policy) == 108 * 4 / 8 + 4 * 4 + 8 * 2 / 8
    assert Costs(found)(dict(policy)) == {
        "bitops": 36 * 4 * 27 * 4 * 8 + 36 * 2 * 4 * 2 * 3,
        "size_kb_simulated": (54 + 16 + 2) / 1024,
    }


def test_fewer_bits_never_cost_more() -> None:
    found = layers(trained(NETWORKS["mobile"]), SHAPE)
    for cost in (precision.layer_bitops, precision.layer_bytes):
        for layer in found:
            for bits in range(3, 9):
                assert cost(layer, bits - 1, 8) < cost(layer, bits, 8)
                assert cost(layer, 8, bits - 1) <= cost(layer, 8, bits)


def test_uniform_takes_the_nearest_bits_and_keeps_the_edges() -> None:
    model = trained(NETWORKS["chain"])
    policy = precision.uniform(precision.space(model, SHAPE, bits=(2, 4, 6)), 5)
    assert sorted(set(policy.values())) == [4, 8]  # type: ignore[type-var]
    assert [name for name, bits in policy.items() if bits == 8] == [
        "weight_bits.0.0", "activation_bits.0.0", "weight_bits.3.2", "activation_bits.3.2",
    ]  # fmt: skip


def test_executable_precisions_are_another_kind() -> None:
    model = trained(NETWORKS["chain"])
    policy = precision.runnable(model, SHAPE).parameters
    assert {p.name.split(".")[0] for p in policy} == {"precision"}
    assert precision.kind({"precision.0.0": "int8"}) == "executable"
    assert precision.kind(precision.uniform(precision.space(model, SHAPE), 4)) == "simulated"


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"precision.a": "int8", "weight_bits.a": 4}, "both"),
        ({}, "nothing"),
        ({"channels.a": 0.5}, "channels.a"),
        ({"weight_bits.a": 4, "channels.a": 0.5}, "channels.a"),
    ],
)
def test_mixed_or_strange_policies_are_refused(policy: dict[str, float | str], said: str) -> None:
    with pytest.raises(PrecisionError, match=f"got {said}"):
        precision.kind(policy)


@pytest.mark.parametrize("bits", [1, 9, 16, True, 4.0, "4"])
def test_bits_that_mean_nothing_are_refused(bits: object) -> None:
    with pytest.raises(PrecisionError, match="expected 2 to 8 bits, or 32"):
        precision.bits_of("a", {"weight_bits.a": bits})  # type: ignore[dict-item]


def test_a_space_of_no_or_impossible_bits_is_refused() -> None:
    model = trained(NETWORKS["chain"])
    for bits, edges in (((), 8), ((1, 2), 8), ((2, 4), 64)):
        with pytest.raises(PrecisionError):
            precision.space(model, SHAPE, bits=bits, edges=edges)
