import copy
import json
import pickle

import numpy as np
import pytest
import torch
from networks import (
    HARDER,
    NETWORKS,
    SHAPE,
    Computes,
    InvertedResidual,
    Residual,
    chain,
    convolution,
    head,
    mobile,
    residual,
    trained,
)
from torch import nn

from nasflow.compression import criteria, prune
from nasflow.compression.groups import Group, PruneError, output, trace

torch.set_num_threads(1)

CASES = pytest.mark.parametrize("name", NETWORKS)


def _shapes(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(value.shape)) for name, value in model.state_dict().items()]


@CASES
def test_every_network_has_something_to_prune(name):
    assert prune.space(NETWORKS[name](), SHAPE).size > 1


@CASES
def test_keeping_everything_is_the_identity_bit_for_bit(name):
    model = trained(NETWORKS[name])
    space = prune.space(model, SHAPE)
    same = prune.apply(prune.uniform(space, 1.0), model, SHAPE)
    assert same is not model
    assert _shapes(same) == _shapes(model)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in same.state_dict().items())
    assert torch.equal(output(same, SHAPE), output(model, SHAPE))


@CASES
def test_random_policies_run_and_leave_the_original_untouched(name):
    model = trained(NETWORKS[name]).train()
    before = copy.deepcopy(model.state_dict())
    x = torch.randn(2, *SHAPE)
    space = prune.space(model, SHAPE)
    rng = np.random.default_rng(0)
    for _ in range(10):
        pruned = prune.apply(space.sample(rng), model, SHAPE)
        assert pruned(x).shape == (2, 5)
        assert all(module.training for module in pruned.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@CASES
def test_the_policy_alone_determines_the_architecture(name):
    model, other = trained(NETWORKS[name], seed=0), trained(NETWORKS[name], seed=1)
    space = prune.space(model, SHAPE)
    assert space == prune.space(other, SHAPE)
    rng = np.random.default_rng(1)
    for _ in range(3):
        policy = json.loads(json.dumps(space.sample(rng)))
        assert policy in space
        pruned, again = prune.apply(policy, model, SHAPE), prune.apply(policy, other, SHAPE)
        again.load_state_dict(pruned.state_dict())
        torch.testing.assert_close(output(again, SHAPE), output(pruned, SHAPE))
        random = prune.apply(policy, model, SHAPE, criterion=criteria.random(0))
        assert _shapes(random) == _shapes(pruned)


@CASES
def test_a_policy_is_reached_in_steps_too(name):
    model = trained(NETWORKS[name])
    space = prune.space(model, SHAPE, round_to=1)
    rng = np.random.default_rng(2)
    for _ in range(3):
        policy = space.sample(rng)
        at_once = prune.apply(policy, model, SHAPE)
        left = prune.apply(prune.partway(policy, 0.5), model, SHAPE)
        in_steps = prune.apply(policy, left, SHAPE, of=model)
        assert _shapes(in_steps) == _shapes(at_once)
        assert _shapes(prune.apply(policy, in_steps, SHAPE, of=model)) == _shapes(at_once)


@CASES
def test_folded_policies_mean_the_same(name):
    model = trained(NETWORKS[name])
    space = prune.space(model, SHAPE)
    rng = np.random.default_rng(2)
    for _ in range(5):
        policy = space.sample(rng)
        assert space.canonical(policy) in space
        folded = prune.apply(space.canonical(policy), model, SHAPE)
        assert torch.equal(output(folded, SHAPE), output(prune.apply(policy, model, SHAPE), SHAPE))


def test_options_are_multiples_or_everything_and_none_twice():
    model = nn.Sequential(convolution(3, 20), convolution(20, 8), convolution(8, 64), head(64))
    options = {choice.name: choice.options for choice in prune.space(model, SHAPE, round_to=8).parameters}
    assert options == {"channels.0.0": (1.0, 0.8, 0.4), "channels.2.0": (1.0, 0.75, 0.5, 0.25)}
    pruned = prune.apply({"channels.0.0": 0.8}, model, SHAPE)
    assert pruned[0][0].out_channels == pruned[0][1].num_features == pruned[1][0].in_channels == 16
    finer = prune.space(model, SHAPE, round_to=4, keep=(0.5,))
    assert {c.name: c.options for c in finer.parameters}["channels.1.0"] == (1.0, 0.5)


def test_options_of_grouped_layers_are_multiples_of_their_slices_too():
    model = nn.Sequential(convolution(3, 48), convolution(48, 48, groups=3), head(48))
    options = {choice.name: choice.options for choice in prune.space(model, SHAPE, round_to=8).parameters}
    assert options == {"channels.0.0": (1.0, 0.5), "channels.1.0": (1.0, 0.5)}
    assert prune.apply({"channels.0.0": 0.7}, model, SHAPE)[0][0].out_channels == 33


def test_the_channels_that_matter_least_go_first():
    model = trained(chain)
    weights = model[1][0].weight.abs().sum((1, 2, 3))
    pruned = prune.apply({"channels.1.0": 0.5}, model, SHAPE)
    best = weights.argsort(descending=True)[:12].sort().values
    assert torch.equal(pruned[1][0].weight, model[1][0].weight[best])
    assert torch.equal(pruned[1][1].running_var, model[1][1].running_var[best])
    assert torch.equal(pruned[2][0].weight, model[2][0].weight[:, best])


def test_the_criterion_matters():
    model = trained(residual)
    policy = prune.uniform(prune.space(model, SHAPE), 0.5)
    kinds = [criteria.l1, criteria.l2, criteria.bn_scale, criteria.group_magnitude, criteria.random(0)]
    outputs = [output(prune.apply(policy, model, SHAPE, criterion=kind), SHAPE) for kind in kinds]
    assert len({tuple(values.flatten().tolist()) for values in outputs}) == len(kinds)


def test_counted_parameters_are_the_real_ones():
    model = mobile()
    space = prune.space(model, SHAPE)
    rng = np.random.default_rng(3)
    channels = {"0.0": 16, "1.0.layers.0.0": 32, "1.1.layers.0.0": 32, "1.1.layers.3.0": 24,
                "1.2.layers.0.0": 48, "2.0": 32}  # fmt: skip
    for _ in range(10):
        policy = space.sample(rng)
        n = {name: round(full * float(policy[f"channels.{name}"])) for name, full in channels.items()}
        stem, last, wide = n["0.0"], n["1.1.layers.3.0"], n["2.0"]
        expected = 27 * stem + 2 * stem + last * wide + 2 * wide + 5 * wide + 5
        for block, inputs, outputs in (("1.0", stem, stem), ("1.1", stem, last), ("1.2", last, last)):
            if policy.get(f"block.{block}", True):
                middle = n[f"{block}.layers.0.0"]
                expected += middle * (inputs + 9 + outputs + 4) + 2 * outputs
                if policy.get(f"block.{block}.layers.2", block != "1.2"):
                    expected += 2 * 8 * middle + 8 + middle
        pruned = prune.apply(policy, model, SHAPE)
        assert sum(parameter.numel() for parameter in pruned.parameters()) == expected


def test_blocks_are_gone_and_what_was_in_them_has_no_say():
    model = mobile()
    space = prune.space(model, SHAPE)
    policy = {**prune.uniform(space, 0.5), "block.1.0": False, "block.1.0.layers.2": False}
    folded = space.canonical(policy)
    assert folded["channels.1.0.layers.0.0"] == 1.0
    assert folded["block.1.0.layers.2"] is True
    assert folded["channels.0.0"] == 0.5
    pruned = prune.apply(policy, model, SHAPE)
    assert isinstance(pruned[1][0], nn.Identity)
    assert pruned[0][0].out_channels == pruned[1][1].layers[0][0].in_channels == 8


def test_without_a_block_that_ties_nothing_its_input_and_output_become_one_group():
    model = nn.Sequential(convolution(3, 16), convolution(16, 16), InvertedResidual(16, 16), head(16))
    space = prune.space(model, SHAPE)
    policy = {"channels.0.0": 0.5, "channels.1.0": 1.0, "block.1": False}
    pruned = prune.apply(policy, model, SHAPE)
    assert pruned[2].layers[3][0].out_channels == pruned[3][2].in_features == 8
    assert space.key({**prune.uniform(space, 1.0), **policy}) == space.key(
        {**prune.uniform(space, 1.0), **policy, "channels.1.0": 0.5}
    )


def test_channels_that_blocks_kept_apart_from_the_input_stay_once_these_are_gone():
    model = nn.Sequential(convolution(3, 3), convolution(3, 3), InvertedResidual(3, 3), head(3))
    space = prune.space(model, SHAPE, round_to=1, keep=(0.34,))
    policy = prune.uniform(space, 0.34)
    assert {"channels.0.0", "channels.1.0", "block.0", "block.1"} < policy.keys()
    one = prune.apply({**policy, "block.0": False}, model, SHAPE)
    assert one[1][0].out_channels == one[2].layers[3][0].out_channels == 1
    none = prune.apply({**policy, "block.0": False, "block.1": False}, model, SHAPE)
    assert none[2].layers[3][0].out_channels == 3
    rng = np.random.default_rng(0)
    for _ in range(10):
        prune.apply(space.sample(rng), model, SHAPE)


def test_protected_layers_and_blocks_stay():
    model = mobile()
    everything = {choice.name for choice in prune.space(model, SHAPE).parameters}
    some = {choice.name for choice in prune.space(model, SHAPE, protect=["1.0", "2.0"]).parameters}
    gone = {"channels.0.0", "channels.1.0.layers.0.0", "channels.2.0", "block.1.0", "block.1.0.layers.2"}
    assert everything - some == gone


def test_a_part_of_a_network_can_be_pruned_alone():
    def compute(net: Computes, x: torch.Tensor) -> torch.Tensor:
        return net.decoder(net.encoder(net.stem(x)))

    encoder = nn.Sequential(convolution(16, 24), Residual(24, 24), convolution(24, 16))
    decoder = nn.Sequential(convolution(16, 24), head(24))
    model = trained(lambda: Computes(compute, stem=convolution(3, 16), encoder=encoder, decoder=decoder))
    offered = {choice.name for choice in prune.space(model, SHAPE, only="encoder").parameters}
    assert offered == {
        "channels.encoder.0.0", "channels.encoder.1.first.0", "channels.encoder.2.0", "block.encoder",
        "block.encoder.1",
    }  # fmt: skip
    assert prune.space(model, SHAPE, only=["encoder"]) == prune.space(model, SHAPE, only="encoder")
    everything = {choice.name for choice in prune.space(model, SHAPE).parameters}
    assert everything - offered == {"channels.stem.0", "channels.decoder.0.0"}
    inner = {
        choice.name for choice in prune.space(model, SHAPE, only="encoder", protect="encoder.1").parameters
    }
    assert inner == {"channels.encoder.2.0"}  # its first group is tied to the block that stays
    policy = prune.uniform(prune.space(model, SHAPE, only="encoder"), 0.5)
    pruned = prune.apply(policy, model, SHAPE)
    assert torch.equal(pruned.stem[0].weight, model.stem[0].weight)
    assert pruned.decoder[0][0].in_channels == 8 and pruned.decoder[0][0].out_channels == 24


def test_a_single_layer_can_be_pruned_alone_whatever_normalises_it():
    model = trained(chain)
    first = next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    offered = [choice.name for choice in prune.space(model, SHAPE, only=first).parameters]
    assert offered == [f"channels.{first}"]


def test_groups_that_reach_beyond_the_part_stay_whole():
    model = trained(residual)
    offered = {choice.name for choice in prune.space(model, SHAPE, only=["1", "2"]).parameters}
    assert offered == {"channels.1.first.0", "channels.2.first.0", "block.1", "block.2"}
    with pytest.raises(PruneError, match="nowhere: no module of that name"):
        prune.space(model, SHAPE, only="nowhere")


HEADS = {"block.encoder.0", "block.encoder.0.after", "block.encoder.1", "block.encoder.1.after",
         "channels.encoder.0.after.1", "channels.encoder.1.after.1"}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("group_normed", {"channels.0"}),
        ("transposed_in_slices", {"channels.3.0"}),
        ("scaled", {"channels.0.0", "channels.1.layers.0.0", "channels.2.layers.0.0", "block.1", "block.2"}),
        ("transformer",
         HEADS | {"channels.patches", "block.encoder.0.attention", "block.encoder.1.attention"}),
        ("torch_transformer", HEADS),
    ],
)  # fmt: skip
def test_what_is_offered_of_harder_networks_can_be_pruned_and_the_rest_is_left_out(name, offered):
    model = trained(HARDER[name])
    space = prune.space(model, SHAPE)
    assert {choice.name for choice in space.parameters} == offered
    rng = np.random.default_rng(0)
    for _ in range(5):
        assert prune.apply(space.sample(rng), model, SHAPE)(torch.randn(2, *SHAPE)).shape == (2, 5)


def test_bare_parameters_lose_the_same_channels_as_the_layers_around():
    model = trained(HARDER["transformer"])
    pruned = prune.apply({"channels.patches": 0.5}, model, SHAPE)
    assert pruned.token.shape == (1, 1, 8) and pruned.positions.shape == (1, 5, 8)
    kept = criteria.l1(trace(model, SHAPE).groups[0]).argsort(stable=True)[8:].sort().values
    assert torch.equal(pruned.positions, model.positions[:, :, kept])


def test_what_cannot_be_pruned_safely_is_not_offered():
    def compute(net: Computes, x: torch.Tensor) -> torch.Tensor:
        first = net.first(x)
        second = net.second(first.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2))
        gate, value = second.chunk(2, 1)
        return net.last(net.third(gate.sigmoid() * value).view(-1, 16 * 64))

    model = Computes(
        compute,
        first=nn.Conv2d(3, 16, 1),  # shuffled
        second=nn.Conv2d(16, 32, 1),  # cut in two halves
        third=nn.Conv2d(16, 16, 1),  # its size is written into the code
        last=nn.Linear(16 * 64, 5),
    )
    assert prune.space(model, SHAPE).parameters == ()


@pytest.mark.parametrize("halves", ["one after the other", "in turns"])
def test_channels_that_are_cut_in_halves_are_not_offered(halves):
    """Some choices of channels leave the halves alike: an even draw in one case, the first ones in the other."""

    def compute(net: Computes, x: torch.Tensor) -> torch.Tensor:
        x = net.wide(x)
        left, right = x.chunk(2, 1) if halves == "one after the other" else (x[:, ::2], x[:, 1::2])
        return net.head(net.left(left) + net.right(right))

    layers = {"wide": nn.Conv2d(3, 4, 1), "left": nn.Conv2d(2, 4, 1), "right": nn.Conv2d(2, 4, 1)}
    model = Computes(compute, **layers, head=head(4))
    names = [choice.name for choice in prune.space(model, SHAPE, round_to=1, keep=(0.5,)).parameters]
    assert names == ["channels.left"]


def test_all_others_are_offered_beside_one_that_cannot_be_pruned():
    def compute(net: Computes, x: torch.Tensor) -> torch.Tensor:
        shuffled = net.before(x).unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return net.after(shuffled)

    model = Computes(
        compute,
        before=nn.Sequential(*[nn.Conv2d(8 if i else 3, 8, 1) for i in range(4)]),
        after=nn.Sequential(*[nn.Conv2d(8, 8, 1) for _ in range(3)], head(8)),
    )
    offered = {choice.name for choice in prune.space(model, SHAPE, round_to=4).parameters}
    sound = ["before.0", "before.1", "before.2", "after.0", "after.1", "after.2"]
    assert {name for name in offered if name.startswith("channels.")} == {
        f"channels.{name}" for name in sound
    }


def test_finding_what_can_go_traces_a_sound_network_once_for_each_block(monkeypatch):
    traced = []
    monkeypatch.setattr(prune, "trace", lambda model, shape: traced.append(model) or trace(model, shape))
    space = prune.space(mobile(), SHAPE)
    blocks = sum(choice.name.startswith("block.") for choice in space.parameters)
    assert blocks == 4
    assert len(traced) == 1 + blocks + 2  # as it is, without each block, pruned in two ways


def test_channels_that_normalisation_mixes_can_be_pruned():
    offered = {
        choice.name: choice.options for choice in prune.space(NETWORKS["normalised"](), SHAPE).parameters
    }
    assert offered["channels.stem"] == (1.0, 0.5)


def test_channels_that_heads_of_attention_share_are_not_offered():
    """Fewer channels would be dealt out to the heads anew."""

    def compute(net: Computes, x: torch.Tensor) -> torch.Tensor:
        return net.out(net.layer(net.stem(x).flatten(2).transpose(1, 2)).mean(1))

    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = Computes(compute, stem=nn.Conv2d(3, 16, 4, 4), layer=layer, out=nn.Linear(16, 5))
    names = {choice.name for choice in prune.space(model, SHAPE).parameters}
    assert names == {"channels.layer.linear1", "block.layer"}


def test_what_cannot_be_pruned_is_found_in_networks_whose_signals_die_too():
    def compute(net: Computes, x: torch.Tensor) -> torch.Tensor:
        shuffled = net.first(x).unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2)
        return net.head(net.second(shuffled))

    model = Computes(compute, first=nn.Conv2d(3, 8, 1), second=nn.Conv2d(8, 8, 1), head=head(8))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-4)
    assert [choice.name for choice in prune.space(model, SHAPE, round_to=4).parameters] == ["channels.second"]


def test_criteria_see_the_gradients_of_the_original():
    model = residual()
    model(torch.randn(2, *SHAPE)).square().sum().backward()

    def first_order(group: Group) -> torch.Tensor:
        root = group.members[0].module
        return (root.weight * root.weight.grad).abs().sum((1, 2, 3))

    pruned = prune.apply({"channels.1.first.0": 0.5}, model, SHAPE, criterion=first_order)
    best = first_order(trace(model, SHAPE).groups[1]).argsort(descending=True)[:8].sort().values
    assert torch.equal(pruned[1].first[0].weight, model[1].first[0].weight[best])


def test_a_point_means_the_same_to_an_unpickled_space_after_json():
    space = prune.space(mobile(), SHAPE)
    again = pickle.loads(pickle.dumps(space))
    point = space.sample(np.random.default_rng(0))
    assert again.key(point) == space.key(json.loads(json.dumps(point)))


def test_frozen_weights_stay_frozen():
    model = chain().requires_grad_(False)
    pruned = prune.apply(prune.uniform(prune.space(model, SHAPE), 0.5), model, SHAPE)
    assert not any(parameter.requires_grad for parameter in pruned.parameters())


def test_global_random_state_is_left_alone():
    model = chain()
    before = torch.get_rng_state()
    prune.apply(prune.uniform(prune.space(model, SHAPE), 0.5), model, SHAPE)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ({"channels.0.9": 0.5}, r"channels.0.9: no group of channels.*'0.0'"),
        ({"channels.0.0": 0.0}, "expected a share to keep above 0 and at most 1, got 0.0"),
        ({"channels.0.0": True}, "got True"),
        ({"block.1": 1}, "expected true"),
        ({"block.9": False}, "9: no module of that name"),
        ({"block.0": False}, "does not run without 0"),
        ({"width": 3}, "width: a policy has entries"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_in_words(policy, says):
    with pytest.raises(PruneError, match=says):
        prune.apply(policy, residual(), SHAPE)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(PruneError, match="shares to keep above 0"):
        prune.space(chain(), SHAPE, keep=(0.0,))
    with pytest.raises(PruneError, match="no module of that name"):
        prune.space(chain(), SHAPE, protect=["nowhere"])


def test_a_criterion_that_gives_no_scores_is_refused():
    with pytest.raises(PruneError, match="expected 16 finite scores"):
        prune.apply(
            {"channels.0.0": 0.5}, chain(), SHAPE, criterion=lambda group: torch.full((16,), torch.nan)
        )
