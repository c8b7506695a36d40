"""Copies of the finished run to change, and studies made by hand."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import Finished

from nasflow.space import Choice, Space
from nasflow.study import Objective, Proposal, Study


@pytest.fixture
def copied(finished_run: Finished, tmp_path: Path) -> Finished:
    """The finished run in a folder of its own."""
    folder = tmp_path / "elsewhere"
    shutil.copytree(finished_run.folder, folder)
    return replace(finished_run, folder=folder)


@pytest.fixture
def study_of() -> Callable[..., Study]:
    """Makes a study of trials with the given metrics; None for one that failed."""

    def make(objectives: list[Objective], *metrics: dict[str, float] | None) -> Study:
        study = Study(Space((Choice("n", tuple(range(100))),)), objectives)
        for trial in study.add([Proposal({"n": n}) for n in range(len(metrics))], len(metrics)):
            said = metrics[trial.number]
            study.finish(
                replace(trial, state="failed", error="crashed")
                if said is None
                else replace(trial, state="done", metrics=said)
            )
        return study

    return make


OWN = '''
"""Networks of a user's own for grey images of 8x8 and four classes, and some that are not."""

import torch
from torch import nn


def plain(width=12):
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d((8, 1)), nn.Flatten(), nn.Linear(8 * width, 4),
    )


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 16, 2, 2)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.after = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.out = nn.Linear(16, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.out((x + self.after(x)).mean(1))


def seven_classes():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))


def for_larger_images():
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 4))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 4)

    def forward(self, x):
        answer = self.linear(x.flatten(1))
        return answer, answer


class Sorted(nn.Module):
    """Computes its answer in a way that no ONNX file can say."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(64, 4)

    def forward(self, x):
        return torch.linalg.svd(self.linear(x.flatten(1))[:, None] + torch.eye(4))[1] + self.linear(x.flatten(1))


class Double(nn.Module):
    """Computes in 64 bits, which ONNX Runtime has no convolution for."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3).double()

    def forward(self, x):
        return self.convolution(x.double()).mean(dim=(2, 3)).float()
'''


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with networks of their own, in a module that no other test has."""
    home = tmp_path_factory.mktemp("home")
    (home / "networks_at_home.py").write_text(OWN)
    return home


@pytest.fixture
def at_home(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `networks_at_home.py:plain` is a network."""
    monkeypatch.chdir(home)
    return home
