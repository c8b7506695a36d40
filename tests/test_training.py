"""What training promises."""

import dataclasses
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from nasflow import training
from nasflow.attention import transfer
from nasflow.data import Data, Preprocess, Split, digest
from nasflow.spaces import mobile
from nasflow.training import Diverged, Epoch, Recipe, TrainingError, error, schedule, seeded, train

torch.set_num_threads(1)

QUICK = Recipe(epochs=3, batch_size=16)


def stripes(count=96, seed=0, **changes):
    """Images of 8x8 in which a lying, standing or no stripe hides in noise."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 120, (count, 1, 8, 8), dtype=np.uint8)
    y = np.arange(count, dtype=np.int64) % 3
    for i in range(count):
        where = rng.integers(8)
        x[i, 0][[(where, slice(None)), (slice(None), where), (0, 0)][y[i]]] += 100
    cut = count * 2 // 3
    splits = Split(x[:cut], y[:cut]), Split(x[cut:], y[cut:])
    preprocess = Preprocess(1 / 255, (0.25,), (0.15,))
    return dataclasses.replace(
        Data("stripes", *splits, ("lying", "standing", "none"), preprocess, (), {}, digest(*splits)),
        **changes,
    )


def small(seed=0, dropout=0.0):
    with seeded(seed):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Dropout(dropout),
            nn.Linear(8, 3),
        )  # fmt: skip


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a.keys() | b.keys())


def without_seconds(epochs):
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in epochs]


def trained(data, recipe=QUICK, seed=1, dropout=0.0, **arguments):
    model = small(dropout=dropout)
    return train(model, data, recipe, seed=seed, **arguments), state(model)


@dataclasses.dataclass(frozen=True)
class Shrink:
    """A penalty on the size of all weights."""

    strength: float

    def __call__(self, model):
        return self.strength * sum(parameter.square().sum() for parameter in model.parameters())


class Stop(Exception):
    pass


def stop_after(number):
    def on_epoch(epoch):
        if epoch.number == number:
            raise Stop

    return on_epoch


def test_learns_what_the_images_show():
    data, model = stripes(240), small()
    before = error(model, data.validation, data.preprocess)
    epochs = train(model, data, Recipe(epochs=12, batch_size=16), seed=0)
    assert before > 0.4
    assert epochs[-1].error < 0.1
    assert epochs[-1].train_loss < epochs[0].train_loss
    assert [epoch.number for epoch in epochs] == list(range(1, 13))
    assert all(epoch.seconds > 0 for epoch in epochs)
    assert error(model, data.validation, data.preprocess) == epochs[-1].error
    assert not model.training


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("stopped", [1, 2])
def test_resumes_as_if_never_stopped(tmp_path, optimizer, stopped):
    """To the last bit, with everything random in play: order, augmentation, dropout."""
    recipe = dataclasses.replace(QUICK, optimizer=optimizer)
    arguments = {"data": stripes(augment=("shift:0.2", "noise:0.1")), "recipe": recipe, "dropout": 0.3}
    whole, weights = trained(**arguments)
    with pytest.raises(Stop):
        trained(**arguments, checkpoint=tmp_path / "c.pt", on_epoch=stop_after(stopped))
    heard = []
    resumed, weights_resumed = trained(**arguments, checkpoint=tmp_path / "c.pt", on_epoch=heard.append)
    assert same(weights, weights_resumed)
    assert without_seconds(resumed) == without_seconds(whole)
    assert [epoch.number for epoch in heard] == list(range(stopped + 1, 4))


def test_a_finished_training_is_not_trained_again(tmp_path):
    data = stripes()
    first, weights = trained(data, checkpoint=tmp_path / "c.pt")
    again, weights_again = trained(data, checkpoint=tmp_path / "c.pt", on_epoch=stop_after(1))
    assert again == first
    assert same(weights, weights_again)


def test_a_network_of_the_mobile_space_resumes_as_if_never_stopped(tmp_path):
    data, space = stripes(), mobile.space((1, 8, 8), 3)
    point = {p.name: p.options[-1] for p in space.parameters} | {"stage1.depth": 1, "stage2.depth": 1}
    results = []
    for checkpoint, on_epoch in ((None, None), (tmp_path / "c.pt", stop_after(2)), (tmp_path / "c.pt", None)):
        with seeded(0):
            model = mobile.build(point, (1, 8, 8), 3)
        try:
            train(model, data, QUICK, seed=0, checkpoint=checkpoint, on_epoch=on_epoch)
            results.append(state(model))
        except Stop:
            pass
    assert same(*results)


KILLED = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_training import small, stripes, train, Recipe
print("ready", flush=True)
train(small(dropout=0.3), stripes(), Recipe(epochs=200, batch_size=4), seed=1, checkpoint=Path(sys.argv[2]))
"""


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    checkpoint = tmp_path / "c.pt"
    command = [sys.executable, "-c", KILLED, os.path.dirname(__file__), str(checkpoint)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        for _ in range(600):
            if checkpoint.exists():
                break
            time.sleep(0.05)
        time.sleep(0.083)
        process.kill()
    saved = torch.load(checkpoint, weights_only=True)
    done = len(saved["epochs"])
    assert 1 <= done < 200
    heard = []

    def on_epoch(epoch):
        heard.append(epoch.number)
        raise Stop

    with pytest.raises(Stop):
        train(small(dropout=0.3), stripes(), Recipe(epochs=200, batch_size=4), seed=1, checkpoint=checkpoint,
              on_epoch=on_epoch)  # fmt: skip
    assert heard == [done + 1]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"recipe": dataclasses.replace(QUICK, learning_rate=0.5)}, "learning_rate"),
        ({"recipe": dataclasses.replace(QUICK, epochs=4)}, "epochs"),
        ({"seed": 2}, "seed"),
        ({"data": stripes(seed=1)}, "data"),
        ({"data": stripes(augment=("flip",))}, "augment"),
        ({"teacher": small()}, "teacher"),
        ({"teacher": small(), "attention": 10.0}, "teacher, attention"),
        ({"penalty": Shrink(0.1)}, "penalty"),
    ],
)
def test_the_checkpoint_of_another_training_is_refused_by_what_differs(tmp_path, changes, named):
    trained(stripes(), checkpoint=tmp_path / "c.pt")
    arguments = {"data": stripes(), **changes}
    with pytest.raises(TrainingError, match=f"differs in {named}. Delete it"):
        trained(**arguments, checkpoint=tmp_path / "c.pt")


def test_the_checkpoint_of_another_network_is_refused(tmp_path):
    trained(stripes(), checkpoint=tmp_path / "c.pt")
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(TrainingError, match="differs in weights"):
        train(other, stripes(), QUICK, seed=1, checkpoint=tmp_path / "c.pt")


def test_a_file_that_is_no_checkpoint_is_refused_whatever_it_is(tmp_path):
    checkpoint = tmp_path / "c.pt"
    trained(stripes(), checkpoint=checkpoint)
    whole = checkpoint.read_bytes()
    for i, content in enumerate([b"", b"hello", whole[:100], whole[: len(whole) // 2], whole[100:]]):
        checkpoint.write_bytes(content)
        with pytest.raises(TrainingError, match="Delete it to train from the start"):
            trained(stripes(), checkpoint=checkpoint)
        assert checkpoint.read_bytes() == content, i
    for content in ([1, 2], {"identity": "{}"}, {"identity": 3, "model": {}}, "text"):
        torch.save(content, checkpoint)
        with pytest.raises(TrainingError, match="Delete it to train from the start"):
            trained(stripes(), checkpoint=checkpoint)


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"identity": Evil()}, tmp_path / "c.pt")
    with pytest.raises(TrainingError, match="Delete it"):
        trained(stripes(), checkpoint=tmp_path / "c.pt")
    assert not (tmp_path / "executed").exists()


def test_global_random_state_is_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1]
    trained(stripes(augment=("noise:0.1",)), dropout=0.3)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


def test_the_seed_decides_and_nothing_else():
    data = stripes(augment=("noise:0.1",))
    torch.manual_seed(1)
    first, weights = trained(data, dropout=0.3)
    torch.manual_seed(2)
    again, weights_again = trained(data, dropout=0.3)
    _, weights_other = trained(data, seed=2, dropout=0.3)
    assert without_seconds(first) == without_seconds(again)
    assert same(weights, weights_again)
    assert not same(weights, weights_other)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 2}, {"learning_rate": 0.02}, {"weight_decay": 0.5}, {"batch_size": 32}, {"label_smoothing": 0.2},
        {"optimizer": "sgd"}, {"warmup": 0.5}, {"clip": 0.01}, {"distillation": 0.9}, {"temperature": 4.0},
    ],
    ids=str,
)  # fmt: skip
def test_every_field_of_the_recipe_matters(change):
    teacher = small(3)
    _, before = trained(stripes(), teacher=teacher)
    _, after = trained(stripes(), dataclasses.replace(QUICK, **change), teacher=teacher)
    assert not same(before, after)


def test_augmentation_is_applied_while_training_only():
    plain, moved = stripes(), stripes(augment=("shift:0.3",))
    (_, weights_a), (_, weights_b) = trained(plain), trained(moved)
    assert not same(weights_a, weights_b)
    model = small()
    assert error(model, plain.validation, plain.preprocess) == error(
        model, moved.validation, moved.preprocess
    )


def test_where_a_teacher_looks_is_learnt_beside_what_it_answers():
    teacher, data = small(3), stripes()

    def apart(attention):
        model = small()
        train(model, data, QUICK, seed=1, teacher=teacher, attention=attention)
        x = torch.from_numpy(data.preprocess(data.validation.x))
        with transfer(model, teacher.eval(), data.shape) as loss, torch.no_grad():
            model(x), teacher(x)
            return float(loss())

    assert apart(1000.0) < 0.8 * apart(0.0)
    with pytest.raises(TrainingError, match="expected a teacher to learn it from, got none"):
        train(small(), data, QUICK, seed=1, attention=1.0)


def test_a_teacher_is_followed_and_not_changed():
    """A teacher that always answers "none" teaches that, whatever the labels say."""
    teacher = small(2)
    nn.init.zeros_(teacher[-1].weight)
    with torch.no_grad():
        teacher[-1].bias.copy_(torch.tensor([0.0, 0.0, 50.0]))
    teacher.train()
    before, data = state(teacher), stripes(240)
    model = small()
    train(model, data, Recipe(epochs=3, batch_size=16, distillation=1.0), seed=0, teacher=teacher)
    assert error(model, data.validation, data.preprocess) == pytest.approx(np.mean(data.validation.y != 2))
    assert same(before, state(teacher))
    assert teacher.training


def test_distillation_is_cross_entropy_and_tempered_divergence():
    from nasflow.training import _loss

    logits, labels = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64), torch.tensor([0, 1])
    told = torch.tensor([[0.5, 0.0], [1.0, 1.0]], dtype=torch.float64)
    recipe = Recipe(label_smoothing=0.0, distillation=0.25, temperature=2.0)
    p, q = (told / 2).softmax(1), (logits / 2).softmax(1)
    expected = 0.75 * -np.log([logits.softmax(1)[0, 0], logits.softmax(1)[1, 1]]).mean()
    expected += 0.25 * 4 * float((p * (p / q).log()).sum(1).mean())
    assert float(_loss(logits, labels, recipe, lambda _: told, labels)) == pytest.approx(expected)


def test_a_penalty_is_added_to_the_loss_and_not_to_what_is_told():
    plain, weights = trained(stripes())
    same_one, weights_same = trained(stripes(), penalty=Shrink(0.0))
    told, shrunk = trained(stripes(), penalty=Shrink(10.0))
    assert without_seconds(plain) == without_seconds(same_one)
    assert same(weights, weights_same)
    assert float(shrunk["0.weight"].norm()) < 0.7 * float(weights["0.weight"].norm())
    assert told[-1].train_loss < 2


def test_a_training_with_a_penalty_goes_on_with_the_same_one_only(tmp_path):
    whole, weights = trained(stripes(), penalty=Shrink(0.1))
    with pytest.raises(Stop):
        trained(stripes(), penalty=Shrink(0.1), checkpoint=tmp_path / "c.pt", on_epoch=stop_after(1))
    for other in (None, Shrink(0.2)):
        with pytest.raises(TrainingError, match="differs in penalty"):
            trained(stripes(), penalty=other, checkpoint=tmp_path / "c.pt")
    resumed, weights_resumed = trained(stripes(), penalty=Shrink(0.1), checkpoint=tmp_path / "c.pt")
    assert without_seconds(resumed) == without_seconds(whole)
    assert same(weights, weights_resumed)


def test_divergence_is_told_with_its_reason():
    with pytest.raises(Diverged, match=r"epoch \d, step \d+: loss .*learning rate .*lower learning rate"):
        trained(stripes(), Recipe(epochs=3, batch_size=16, optimizer="sgd", learning_rate=1e30, clip=1e30))


def test_images_that_are_not_numbers_are_divergence_too():
    data = stripes()
    x = data.train.x.astype(np.float32)
    x[:] = np.nan
    with pytest.raises(Diverged, match="epoch 1, step 1: loss nan"):
        trained(dataclasses.replace(data, train=Split(x, data.train.y)))


def test_answers_that_are_not_numbers_are_wrong():
    class Nothing(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(float("nan")))

        def forward(self, x):
            return self.weight * torch.ones(len(x), 3)

    data = stripes()
    assert error(Nothing(), data.validation, data.preprocess) == 1.0


def test_error_is_the_share_of_wrong_answers_and_leaves_the_mode():
    class Always(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))
            self.sizes = []

        def forward(self, x):
            self.sizes.append(len(x))
            return torch.eye(3)[torch.zeros(len(x), dtype=torch.long)] + self.weight

    x = np.zeros((600, 1, 8, 8), np.uint8)
    y = np.arange(600, dtype=np.int64) % 3
    y[:100] = 0
    model = Always()
    assert error(model, Split(x, y), stripes().preprocess) == pytest.approx(1 - np.mean(y == 0))
    assert model.training
    assert sum(model.sizes) == 600
    assert max(model.sizes) < 600


def test_networks_that_need_the_usual_layout_are_trained_in_it():
    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution, self.linear = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 3)

        def forward(self, x):
            x = self.convolution(x)
            return self.linear(x.view(len(x), -1))

    model = Views()
    assert len(train(model, stripes(), QUICK, seed=0)) == 3
    assert model.convolution.weight.is_contiguous()


NARROW = """
import torch
from torch import nn
from test_training import stripes, train, Recipe

torch.set_num_threads(1)
net = nn.Sequential(
    nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 16, 1, stride=2), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    nn.Linear(16, 10),
)
print(train(net, stripes(), Recipe(epochs=3, batch_size=16), seed=0)[-1].number)
"""


def test_a_narrow_layer_with_a_stride_as_pruning_makes_them_does_not_break_the_process():
    here = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    done = subprocess.run(
        [sys.executable, "-c", NARROW], env=here, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr


def test_weights_come_back_in_the_usual_layout():
    model = small()
    train(model, stripes(), QUICK, seed=0)
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_no_batch_is_a_single_image():
    """One image has no variance to normalise by, and 65 images in batches of 16 would leave one."""
    data = stripes(99)
    sizes = []
    model = small()
    model.register_forward_pre_hook(lambda m, x: sizes.append(len(x[0])) if m.training else None)
    data = dataclasses.replace(data, train=Split(data.train.x[:65], data.train.y[:65]))
    train(model, data, Recipe(epochs=1, batch_size=16), seed=0)
    assert sum(sizes) == 65
    assert min(sizes) == 16
    assert max(sizes) == 17


def test_the_rate_climbs_falls_and_ends_at_zero():
    rates = [schedule(t, 0.1) for t in np.linspace(0, 1, 101)]
    assert rates[0] == 0.0
    assert max(rates) == rates[10] == 1.0
    assert all(np.diff(rates[:11]) > 0)
    assert all(np.diff(rates[10:]) < 0)
    assert rates[-1] == pytest.approx(0.0)
    assert schedule(0.0, 0.0) == 1.0


def test_only_weights_are_decayed():
    model = small()
    with torch.no_grad():
        model[1].weight.fill_(3.0)
    _ = train(
        model, stripes(), Recipe(epochs=1, learning_rate=1e-4, weight_decay=1000.0, batch_size=16), seed=0
    )
    assert float(model[4].weight.detach().abs().max()) < 0.2
    assert float(model[1].weight.detach().min()) > 2.9


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"weight_decay": -1.0},
        {"batch_size": 0}, {"label_smoothing": 1.0}, {"optimizer": "adam"}, {"warmup": 1.0}, {"clip": 0.0},
        {"distillation": 1.5}, {"temperature": 0.0},
    ],
    ids=str,
)  # fmt: skip
def test_impossible_recipes_are_told(change):
    name, value = next(iter(change.items()))
    with pytest.raises(TrainingError, match=f"expected {name} to be .*, got {value!r}"):
        Recipe(**change)


def test_an_answer_that_is_no_list_of_logits_is_told():
    with pytest.raises(TrainingError, match=r"logits \(batch, classes\), got \(16, 8, 8, 8\)"):
        train(small()[:1], stripes(96), QUICK, seed=0)
    with pytest.raises(TrainingError, match="parameters to train, Flatten has none"):
        train(nn.Flatten(), stripes(), QUICK, seed=0)


def test_an_epoch_says_what_it_was():
    (epoch, *_), _ = trained(stripes())
    assert isinstance(epoch, Epoch)
    assert 0 < epoch.train_loss < 2
    assert 0 <= epoch.error <= 1


def test_small_networks_learn_real_digits_in_seconds():
    digits = load_digits()
    x = (digits.images * 16).clip(0, 255).astype(np.uint8)[:, None]
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], digits.target[order].astype(np.int64)
    parts = Split(x[:1077], y[:1077]), Split(x[1077:1437], y[1077:1437])
    names = tuple(str(n) for n in range(10))
    preprocess = Preprocess(1 / 255, (0.305,), (0.376,))
    data = Data("digits", *parts, names, preprocess, (), {}, digest(*parts))
    space = mobile.space(data.shape, 10)
    rng = np.random.default_rng(4)
    errors = []
    for seed in range(2):
        with seeded(seed):
            model = mobile.build(space.sample(rng), data.shape, 10)
        errors.append(train(model, data, Recipe(), seed=seed)[-1].error)
    assert np.mean(errors) < 0.03


def test_every_epoch_sees_every_image_once_in_an_order_of_its_own():
    data, model, seen = stripes(), small(), []
    model.register_forward_pre_hook(
        lambda m, x: seen.extend(x[0].sum(dim=(1, 2, 3)).tolist()) if m.training else None
    )
    train(model, data, QUICK, seed=0)
    expected = data.preprocess(data.train.x).sum(axis=(1, 2, 3))
    orders = np.array(seen).reshape(QUICK.epochs, len(data.train))
    for order in orders:
        assert np.sort(order) == pytest.approx(np.sort(expected), abs=1e-3)
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[1], orders[2])


def test_the_schedule_spans_the_whole_training(monkeypatch):
    asked = []
    monkeypatch.setattr(training, "schedule", lambda done, warmup: asked.append(done) or 0.5)
    trained(stripes())
    assert len(asked) == 3 * 4
    assert asked == pytest.approx(np.arange(1, 13) / 13)
