"""Structured pruning against its papers: Li et al., 2017 (L1), Liu et al., 2017 (scales of batch normalisation),
He et al., 2019 (geometric median), Molchanov et al., 2019 (first order), LeCun et al., 1989 (curvature), Fang et al.,
2023 (dependency groups), and Torch-Pruning's own scores as an oracle."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch_pruning
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from nasflow.compression import criteria, prune
from nasflow.compression.gradients import gather, hutchinson
from nasflow.compression.groups import trace
from nasflow.data import Data, Preprocess, Split, digest

torch.set_num_threads(1)

SHAPE = (3, 8, 8)


class Block(nn.Module):
    """The basic block of ResNet (He et al., 2016), with a projection where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.project = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        return functional.relu(y + self.project(x))


class ResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        self.block1, self.block2 = Block(16, 16), Block(16, 32, 2)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.block2(self.block1(functional.relu(self.bn(self.conv(x)))))
        return self.fc(x.mean((2, 3)))


class Concat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.left, self.right = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 3, padding=1)
        self.join = nn.Conv2d(32, 16, 1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn(self.conv(x)))
        return self.fc(self.join(torch.cat([self.left(x), x, self.right(x)], 1)).relu().mean((2, 3)))


class Depthwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.each, self.bn2 = nn.Conv2d(16, 16, 3, groups=16, bias=False), nn.BatchNorm2d(16)
        self.mix = nn.Conv2d(16, 16, 1)
        self.fc = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn2(self.each(functional.relu(self.bn(self.conv(x))))))
        return self.fc(self.mix(x).relu().mean((2, 3)))


class Flatten(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.fc = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Linear(16 * 36, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(functional.relu(self.bn(self.conv(x))).flatten(1))


NETWORKS = pytest.mark.parametrize("make", [ResNet, Concat, Depthwise, Flatten])


def lively(make: Callable[[], nn.Module]) -> nn.Module:
    """A network in evaluation mode whose normalisations do something."""
    torch.manual_seed(0)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low, high in ((module.weight, 0.5, 1.5), (module.bias, -0.3, 0.3),
                                      (module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 1.5)):  # fmt: skip
                nn.init.uniform_(values, low, high)
    return model.eval()


@NETWORKS
def test_channels_that_are_silent_anyway_leave_without_a_trace(make):
    model = lively(make)
    x = torch.randn(4, *SHAPE)
    silent = torch.tensor([0, 3, 5, 6, 9, 10, 12, 15])
    group = trace(model, SHAPE).groups[0]
    with torch.no_grad():
        for member in group.members:
            if member.side == "out":
                module = member.module
                module.weight[silent] = 0
                if module.bias is not None:
                    module.bias[silent] = 0

    def those(group):
        return torch.ones(group.channels).index_fill(0, silent, 0.0)

    pruned = prune.apply({f"channels.{group.name}": 0.5}, model, SHAPE, criterion=those)
    assert pruned.conv.out_channels == 8
    assert bool(((pruned(x) - model(x)).abs() < 1e-5).all())
    wrong = prune.apply(
        {f"channels.{group.name}": 0.5}, model, SHAPE, criterion=lambda group: 1 - those(group)
    )
    assert bool(((wrong(x) - model(x)).abs() > 1e-3).any())


def test_groups_of_a_two_block_resnet_are_those_found_by_hand():
    groups = {g.name: [(m.layer, m.side) for m in g.members] for g in trace(ResNet(), SHAPE).groups}
    assert {name: set(members) for name, members in groups.items()} == {
        # the shortcut ties what the first block adds to what it gets
        "conv": {("conv", "out"), ("bn", "out"), ("block1.conv1", "in"), ("block1.conv2", "out"),
                 ("block1.bn2", "out"), ("block2.conv1", "in"), ("block2.project", "in")},
        "block1.conv1": {("block1.conv1", "out"), ("block1.bn1", "out"), ("block1.conv2", "in")},
        "block2.conv1": {("block2.conv1", "out"), ("block2.bn1", "out"), ("block2.conv2", "in")},
        # the projection is tied to the second block's sum
        "block2.conv2": {("block2.conv2", "out"), ("block2.bn2", "out"), ("block2.project", "out"),
                         ("fc", "in")},
    }  # fmt: skip
    assert all(len(members) == len(set(members)) for members in groups.values())


def test_multiply_adds_after_pruning_follow_the_formula():
    model = ResNet()
    space = prune.space(model, SHAPE, round_to=1)
    rng = np.random.default_rng(0)
    full = {"conv": 16, "block1.conv1": 16, "block2.conv1": 32, "block2.conv2": 32}
    for _ in range(10):
        policy = space.sample(rng)
        a, b, c, d = (round(n * float(policy[f"channels.{name}"])) for name, n in full.items())
        block1 = 9 * 64 * 2 * a * b if policy["block.block1"] else 0
        expected = 9 * 64 * 3 * a + block1 + 9 * 16 * (a * c + c * d) + 16 * a * d + 10 * d
        pruned = prune.apply(policy, model, SHAPE).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            pruned(torch.zeros(1, *SHAPE))
        assert counter.get_total_flops() == 2 * expected


@NETWORKS
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (criteria.l1, {"p": 1, "group_reduction": "first"}),
        (criteria.group_magnitude, {"p": 2, "group_reduction": "sum"}),
        (criteria.bn_scale, {"p": 1, "group_reduction": "mean", "target_types": [nn.BatchNorm2d]}),
    ],
)
def test_scores_are_those_of_torch_pruning(make, ours, theirs):
    model = lively(make)
    traced = trace(model, SHAPE)
    for group in traced.groups:
        if ours is criteria.bn_scale and not any(isinstance(m.module, nn.BatchNorm2d) for m in group.members):
            continue
        root = model.get_submodule(group.name)
        fn = traced.graph.get_pruner_of_module(root).prune_out_channels
        their_group = traced.graph.get_pruning_group(root, fn, list(range(group.channels)))
        scores = torch_pruning.importance.GroupMagnitudeImportance(normalizer=None, **theirs)(their_group)
        for member in group.members:  # Torch-Pruning forgets depthwise weights, which the paper's sum has
            if ours is criteria.group_magnitude and getattr(member.module, "groups", 1) > 1:
                scores = scores + member.module.weight.square().sum((1, 2, 3)).detach()
        torch.testing.assert_close(ours(group), scores.double(), rtol=1e-5, atol=1e-6)


@NETWORKS
def test_fifty_random_policies_all_run(make):
    model = lively(make)
    space = prune.space(model, SHAPE, round_to=1, keep=[k / 8 for k in range(1, 9)])
    rng = np.random.default_rng(1)
    x = torch.randn(2, *SHAPE)
    seen = set()
    for _ in range(50):
        policy = space.sample(rng)
        pruned = prune.apply(policy, model, SHAPE)
        assert pruned(x).shape == (2, 10)
        seen.add(sum(p.numel() for p in pruned.parameters()))
    assert len(seen) > 5


@NETWORKS
def test_first_order_scores_are_those_of_torch_pruning(make):
    model = lively(make)
    model(torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))).logsumexp(1).sum().backward()
    known = {name: parameter.grad for name, parameter in model.named_parameters()}
    traced = trace(model, SHAPE)
    for group in traced.groups:
        fn = traced.graph.get_pruner_of_module(model.get_submodule(group.name)).prune_out_channels
        for multivariable in (False, True):
            theirs = torch_pruning.importance.GroupTaylorImportance(
                normalizer=None, group_reduction="first", multivariable=multivariable
            )
            root = model.get_submodule(group.name)
            scores = theirs(traced.graph.get_pruning_group(root, fn, list(range(group.channels))))
            ours = criteria.taylor([known], multivariable=multivariable)(group)
            torch.testing.assert_close(ours, scores.double(), rtol=1e-4, atol=1e-7)


@NETWORKS
def test_lamp_is_that_of_torch_pruning(make):
    """Where no layer is depthwise, which they leave out of the group's magnitude."""
    model = lively(make)
    traced = trace(model, SHAPE)
    for group in traced.groups:
        if any(getattr(member.module, "groups", 1) > 1 for member in group.members):
            continue
        root = model.get_submodule(group.name)
        fn = traced.graph.get_pruner_of_module(root).prune_out_channels
        theirs = torch_pruning.importance.LAMPImportance(group_reduction="sum")
        scores = theirs(traced.graph.get_pruning_group(root, fn, list(range(group.channels))))
        torch.testing.assert_close(criteria.lamp(group), scores.double(), rtol=1e-4, atol=1e-6)


def _quadratic() -> tuple[nn.Module, Data, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """A network whose loss is quadratic in each single weight of its first layer, each of which is a channel."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.5], [-0.7]]))
        model[2].weight.copy_(torch.eye(2))
    x = np.random.default_rng(0).normal(size=(32, 1, 1, 1)).astype(np.float32)
    split = Split(x, np.arange(32) % 2)
    data = Data(
        "line", split, split, ("a", "b"), Preprocess(1.0, (0.0,), (1.0,)), (), {}, digest(split, split)
    )

    def loss(answers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return 0.5 * (answers - functional.one_hot(labels, 2)).square().sum(1).mean()

    return model, data, loss


def test_first_and_second_order_together_tell_what_a_quadratic_loss_changes_by():
    model, data, loss = _quadratic()
    x, y = torch.from_numpy(data.train.x), torch.from_numpy(data.train.y)
    (gradients,) = gather(model, data, images=32, batch=32, loss=loss)
    curved = hutchinson(model, data, images=32, batch=32, probes=3000, loss=loss)
    (group,) = trace(model, (1, 1, 1)).groups
    only_makers = {**curved, "2.weight": torch.zeros(2, 2)}
    second = criteria.hessian(only_makers)(group)
    first = criteria.taylor([gradients], multivariable=True)(group)
    weights = model[1].weight.detach().flatten()
    signed = -(weights * gradients["1.weight"].flatten()).double()
    torch.testing.assert_close(first, signed.abs())
    with torch.no_grad():
        before = float(loss(model(x), y))
        for channel, weight in enumerate(weights.tolist()):
            model[1].weight[channel] = 0
            change = float(loss(model(x), y)) - before
            model[1].weight[channel] = weight
            # Estimated, where the gradient is exact; and all there is, as the loss is quadratic.
            assert change - float(signed[channel]) == pytest.approx(float(second[channel]), rel=0.2, abs=2e-3)


def test_curvature_is_half_the_squared_weight_as_in_optimal_brain_damage():
    """Exact where weights do not interact: the loss of a single layer with independent inputs."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))
    (group,) = trace(model, (1, 2, 2)).groups
    known = {"1.weight": torch.full((3, 4), 3.0), "2.weight": torch.zeros(2, 3)}
    expected = 0.5 * 3.0 * model[1].weight.detach().double().square().sum(1)
    torch.testing.assert_close(criteria.hessian(known)(group), expected)


def test_a_channel_in_the_geometric_median_is_replaceable_although_it_is_large():
    """He et al., 2019, figure 1: magnitude and distance to the others disagree."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Flatten())
    model.append(nn.Linear(256, 2))
    points = torch.tensor([[5.0, 5.0], [4.0, 5.0], [6.0, 5.0], [0.1, 0.1]])
    with torch.no_grad():
        model[0].weight.copy_(points.reshape(4, 2, 1, 1))
    group = trace(model, (2, 8, 8)).groups[0]
    assert int(criteria.l2(group).argmin()) == 3
    assert int(criteria.fpgm(group).argmin()) == 0


@NETWORKS
def test_a_channel_without_scale_leaves_its_shift_behind(make):
    """A scale of zero beside a shift that is not is no silence; the readers have to be told."""
    model = lively(make)
    if make is ResNet:  # there has to be a place for what its projection read
        model.block2.project = nn.Conv2d(16, 32, 1, 2)
    group = trace(model, SHAPE).groups[0]
    silent = torch.tensor([0, 3, 5, 6, 9, 10, 12, 15])
    with torch.no_grad():
        for member in group.members:
            if isinstance(member.module, nn.BatchNorm2d) or (
                member.side == "out" and member.layer not in ("conv", "each")
            ):
                member.module.weight[silent] = 0

    def those(group):
        return torch.ones(group.channels).index_fill(0, silent, 0.0)

    policy = {f"channels.{group.name}": 0.5}
    told = prune.apply(policy, model, SHAPE, criterion=those)
    untold = prune.apply(policy, model, SHAPE, criterion=those, compensate=lambda *_: None)
    x = torch.randn(8, *SHAPE)
    changed, worse = (float((net(x) - model(x)).detach().abs().max()) for net in (told, untold))
    assert worse > 1e-3
    padded = make in (ResNet, Concat)  # a constant is none at the borders, where a mean has to do
    assert changed < (0.6 * worse if padded else 1e-5)
