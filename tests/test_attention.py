"""Where a network looks, taught to another one."""

import copy

import pytest
import torch
from torch import nn

from nasflow.attention import AttentionError, attention, places, transfer
from nasflow.compression import prune
from nasflow.testing.small_networks import SHAPE, mobile, residual, trained, transformer

X = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))


def apart(student, teacher, x=X):
    student.eval(), teacher.eval()
    with transfer(student, teacher, SHAPE) as loss, torch.no_grad():
        student(x), teacher(x)
        return float(loss())


def test_a_map_says_where_features_are_strong_whatever_their_size():
    features = torch.zeros(1, 2, 2, 2)
    features[0, :, 0, 1], features[0, 0, 1, 0] = 3.0, 3.0
    found = attention(features)
    assert torch.allclose(found, torch.tensor([[0.0, 2.0, 1.0, 0.0]]) / 5**0.5)
    assert torch.allclose(attention(7 * features), found)


def test_identical_networks_look_at_the_same_and_others_do_not():
    model, other = trained(residual), trained(residual, seed=1)
    assert apart(model, copy.deepcopy(model)) == 0.0
    assert apart(model, other) > 0.0


def test_networks_may_differ_in_their_channels_and_in_their_blocks():
    model = trained(mobile)
    space = prune.space(model, SHAPE, round_to=1)
    narrow = prune.apply(prune.uniform(space, 0.5), model, SHAPE)
    shallow = prune.apply({p.name: False for p in space.parameters if p.name[:5] == "block"}, model, SHAPE)
    assert apart(narrow, model) > 0 and apart(shallow, model) > 0
    assert places(narrow, model, SHAPE)


def test_places_are_the_last_maps_of_each_size():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.c, self.d = nn.Conv2d(4, 6, 3, 2, 1), nn.ReLU(inplace=True)
            self.end = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))

        def forward(self, x):
            return self.end(self.d(self.c(self.b(self.a(x)))))

    assert places(Net(), Net(), SHAPE) == ("b", "d")


def test_the_loss_pulls_the_student_to_look_where_its_teacher_does():
    student, teacher = trained(residual, seed=1).train(), trained(residual)
    before = apart(student, teacher)
    optimizer = torch.optim.SGD(student.parameters(), lr=1e-3)
    student.train()
    with transfer(student, teacher, SHAPE) as loss:
        for _ in range(5):
            student(X), teacher(X)
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
    assert apart(student, teacher) < before


def test_networks_are_left_as_they_were():
    student, teacher = trained(residual).train(), trained(residual, seed=1)
    with transfer(student, teacher, SHAPE):
        pass
    assert student.training
    for model in (student, teacher):
        assert not any(module._forward_hooks for module in model.modules())


def test_networks_without_maps_cannot_be_compared():
    plain = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
    with pytest.raises(AttentionError, match="found none; let it learn from the answers alone"):
        places(plain, plain, SHAPE)
    assert places(trained(transformer), trained(transformer), SHAPE)  # those of its patches
