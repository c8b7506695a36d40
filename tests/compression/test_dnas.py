"""Bits by gradients: the network of all bits at once, its training, and going on after a kill."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import NETWORKS, SHAPE, trained
from torch import nn

from nasflow.compression import precision
from nasflow.compression.assign import Limit
from nasflow.compression.dnas import Epoch, Relaxation, dnas, supernetwork
from nasflow.compression.fakequant import simulate
from nasflow.compression.layers import layers
from nasflow.compression.precision import PrecisionError
from nasflow.data import Data, Preprocess, Split, digest
from nasflow.errors import NasflowError
from nasflow.training import TrainingError

torch.set_num_threads(1)

BITS = (2, 4, 8)


def pictures(count: int = 60) -> Data:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 255, (count, *SHAPE), dtype=np.uint8)
    y = np.arange(count, dtype=np.int64) % 5
    splits = Split(x[:40], y[:40]), Split(x[40:], y[40:])
    return Data(
        "noise",
        *splits,
        tuple("abcde"),
        Preprocess(1 / 255, (0.5,) * 3, (0.3,) * 3),
        ("flip",),
        {},
        digest(*splits),
    )


def images(data: Data) -> torch.Tensor:
    return torch.from_numpy(data.preprocess(data.train.x))


def search(
    folder: Path | None = None, model: nn.Module | None = None, **settings: Any
) -> tuple[Relaxation, list[Epoch]]:
    data = pictures()
    model = model or trained(NETWORKS["chain"])
    space = precision.space(model, SHAPE, bits=BITS)
    build = partial(simulate, model=model, shape=SHAPE, calibration=images(data))
    epochs: list[Epoch] = []
    given: dict[str, Any] = {
        "cost": precision.layer_bitops,
        "epochs": 2,
        "batch": 16,
        "on_epoch": epochs.append,
    } | settings
    found = dnas(model, space, build, layers(model, SHAPE), data, checkpoint=folder, **given)
    return found, epochs


def logits(relaxation: Relaxation) -> list[list[float]]:
    return [one.tolist() for one in relaxation.logits]


@pytest.mark.parametrize("name", ["residual", "mobile", "concatenated", "grouped", "normalised"])
def test_with_one_bit_width_only_it_is_the_simulated_network(name: str) -> None:
    """Gates that are one-hot choose; what is not chosen has no say."""
    model, data = trained(NETWORKS[name]), pictures()
    space = precision.space(model, SHAPE, bits=(3, 8), edges=6)
    build = partial(simulate, model=model, shape=SHAPE, calibration=images(data))
    relaxation = Relaxation(space)
    network = supernetwork(model, relaxation, build).eval()
    policy = space.sample(np.random.default_rng(1))
    for entry in relaxation.entries:
        at = precision.offered(space, entry).index(int(policy[entry] or 0))
        relaxation.gates[entry] = nn.functional.one_hot(torch.tensor(at), 2).float()
    with torch.no_grad():
        expected = build(policy).eval()(images(data))
        assert torch.allclose(network(images(data)), expected, atol=1e-5, rtol=1e-4)


def test_being_left_alone_is_an_option_too() -> None:
    model, data = trained(NETWORKS["chain"]), pictures()
    space = precision.space(model, SHAPE, bits=(4, 32), edges=32)
    build = partial(simulate, model=model, shape=SHAPE, calibration=images(data))
    relaxation = Relaxation(space)
    network = supernetwork(model, relaxation, build).eval()
    relaxation.gates = {entry: torch.tensor([0.0, 1.0]) for entry in relaxation.entries}
    with torch.no_grad():
        assert torch.allclose(network(images(data)), model.eval()(images(data)), atol=1e-5)


def test_preferences_are_learned_and_the_model_is_left_alone() -> None:
    model = trained(NETWORKS["chain"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    found, epochs = search(model=model)
    assert all(any(row) for row in logits(found))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert [epoch.number for epoch in epochs] == [1, 2]
    assert [epoch.temperature for epoch in epochs] == [5.0, 0.5]
    assert all(0 < epoch.entropy < 1 for epoch in epochs)


def test_policies_keep_their_limits() -> None:
    found, _ = search()
    model = trained(NETWORKS["chain"])
    every = layers(model, SHAPE)
    most = precision.bitops(every, precision.uniform(found.space, 4))
    policy = found.within(every, [Limit("bitops", precision.layer_bitops, most)])
    assert policy in found.space
    assert precision.bitops(every, policy) <= most
    assert found.within(every, []) == found.point()


def test_a_higher_price_makes_for_fewer_bits() -> None:
    expected = [search(gamma=gamma, epochs=3)[1][-1].expected for gamma in (0.0, 100.0)]
    assert expected[1] < expected[0]


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1}, {"gamma": 3.0}, {"temperatures": (2.0, 0.5)}, {"rate": 0.1}, {"preference_rate": 0.2},
        {"share": 0.5}, {"batch": 8}, {"epochs": 3}, {"cost": precision.layer_bytes},
    ],
)  # fmt: skip
def test_every_setting_matters(change: dict[str, Any]) -> None:
    assert logits(search(**change)[0]) != logits(search()[0])


def test_resumes_as_if_never_stopped(tmp_path: Path) -> None:
    whole, epochs = search(epochs=3)

    class Killed(Exception):
        pass

    def die(epoch: Epoch) -> None:
        if epoch.number == 2:
            raise Killed

    with pytest.raises(Killed):
        search(tmp_path / "search.pt", epochs=3, on_epoch=die)
    resumed, rest = search(tmp_path / "search.pt", epochs=3)
    assert logits(resumed) == logits(whole)
    assert rest == epochs[2:]


def test_a_checkpoint_of_another_search_is_refused(tmp_path: Path) -> None:
    search(tmp_path / "search.pt", epochs=1)
    with pytest.raises(TrainingError, match="differs in gamma"):
        search(tmp_path / "search.pt", epochs=1, gamma=2.0)
    (tmp_path / "search.pt").write_bytes(b"nothing")
    with pytest.raises(TrainingError, match="something else"):
        search(tmp_path / "search.pt", epochs=1)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 0}, "at least 1 epoch"),
        ({"share": 1.0}, "a share between 0 and 1"),
        ({"temperatures": (1.0, 0.0)}, "temperatures above 0"),
        ({"cost": lambda layer, w, a: 1e-9}, "costs more than 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(NasflowError, match=said):
        search(**settings)


def test_nothing_to_choose_is_refused() -> None:
    model, data = trained(NETWORKS["chain"]), pictures()
    space = precision.space(model, SHAPE, bits=(4,))
    build = partial(simulate, model=model, shape=SHAPE, calibration=images(data))
    with pytest.raises(PrecisionError, match="all have one option"):
        dnas(model, space, build, layers(model, SHAPE), data, cost=precision.layer_bitops)
