"""A network that comes with weights is judged as it is."""

import pickle
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from nasflow.data import Data, Preprocess, Split
from nasflow.evaluators.given import GivenWeights
from nasflow.study import Trial


class Brightest(nn.Module):
    """Says class 1 if the image's mean is above a threshold; `noise` is dropout, which judging leaves out."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(threshold))
        self.noise = nn.Dropout(0.9)
        self.normalise = nn.BatchNorm2d(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = self.noise(self.normalise(x)).mean(dim=(1, 2, 3)) - self.threshold
        return torch.stack([-bright, bright], dim=1)


@dataclass(frozen=True)
class Fixed:
    threshold: float

    def build(self, point):
        return Brightest(self.threshold)


def data():
    """Ten validation images of one grey each, 0.5 to 9.5, the upper five of class 1."""
    x = np.broadcast_to(np.arange(10, dtype=np.float32)[:, None, None, None] + 0.5, (10, 1, 2, 2)).copy()
    y = (np.arange(10) >= 5).astype(np.int64)
    split = Split(x, y)
    return Data("greys", split, split, ("dark", "bright"), Preprocess(2.0, (0.0,), (1.0,)), (), {}, "0" * 64)


@pytest.mark.parametrize(("threshold", "wrong"), [(10.0, 0.0), (14.0, 0.2), (-1.0, 0.5)])
def test_the_error_is_the_share_of_preprocessed_validation_images_it_names_wrongly(
    tmp_path, threshold, wrong
):
    found = GivenWeights(Fixed(threshold), data(), tmp_path)(Trial(0, {}))
    assert found == {"error": pytest.approx(wrong)}


def test_its_weights_are_kept_as_they_were_where_training_would_have_put_them(tmp_path):
    GivenWeights(Fixed(3.0), data(), tmp_path)(Trial(7, {}))
    kept = torch.load(tmp_path / "00007" / "weights.pt", weights_only=True)
    wanted = Brightest(3.0).state_dict()  # statistics of the normalisation included: nothing was trained
    assert kept.keys() == wanted.keys() and all(torch.equal(kept[name], wanted[name]) for name in kept)
    assert [file.name for file in (tmp_path / "00007").iterdir()] == ["weights.pt"]


def test_it_goes_to_other_processes(tmp_path):
    given = pickle.loads(pickle.dumps(GivenWeights(Fixed(10.0), data(), tmp_path)))
    assert given(Trial(0, {})) == {"error": 0.0}
