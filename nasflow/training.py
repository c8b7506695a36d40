"""Training a network on labelled images: one recipe for all, made for small networks on one processor thread.

What is random in an epoch is a function of the seed and the epoch's number, so a training that was stopped goes
on from its checkpoint as if nothing had happened, to the last bit. Torch's global generator is left alone.
"""

from __future__ import annotations

import contextlib
import copy
import json
import math
import pickle
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from nasflow.attention import transfer
from nasflow.augment import augment
from nasflow.data import Data, Preprocess, Split
from nasflow.errors import NasflowError
from nasflow.files import replacing

# Found on the validation images of digits and MNIST. SGD ends 0.2 to 0.5 points lower there on networks with batch
# normalisation, but learns little in those without, or with attention; AdamW learns in all.
RATES: Mapping[str, float] = {"adamw": 0.015, "sgd": 0.1}
MOMENTUM = 0.9
EVALUATED = 256  # images judged at once

# What torch.load raises for a file that is torn, foreign or no checkpoint at all.
UNREADABLE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OSError,
    AttributeError,
)


Penalty = Callable[[nn.Module], Tensor]
"""Network in training -> a number that is added to the loss of every batch, such as those of compression/sparse.py.

Its repr names it in checkpoints and so has to be the same in every process, as that of a dataclass is."""

Elsewhere = Callable[[], Tensor]
"""How far from its teacher's a network's attention was for the images that both saw last."""


class TrainingError(NasflowError):
    """A recipe, network or checkpoint that training cannot start from."""


class Diverged(RuntimeError):
    """Training that left the numbers: its loss or gradient is no longer finite."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The learning rate climbs during the first `warmup` of all steps and falls to zero
    along a cosine; gradients longer than `clip` are shortened to it.

    A `learning_rate` of None is the optimizer's usual one (RATES). Weights are decayed, biases and normalisation
    are not. With a teacher, `distillation` is the share of the loss that compares with its answers, at
    `temperature` (Hinton et al., 2015, arXiv:1503.02531).
    """

    epochs: int = 8
    learning_rate: float | None = None
    weight_decay: float = 0.02
    batch_size: int = 64
    label_smoothing: float = 0.05
    optimizer: str = "adamw"
    warmup: float = 0.1
    clip: float = 5.0
    distillation: float = 0.5
    temperature: float = 2.0

    def __post_init__(self) -> None:
        rate = 1.0 if self.learning_rate is None else self.learning_rate
        checks = {
            "epochs": (self.epochs >= 1, "1 or more"),
            "learning_rate": (0 < rate < math.inf, "a number above 0"),
            "weight_decay": (0 <= self.weight_decay < math.inf, "0 or more"),
            "batch_size": (self.batch_size >= 1, "1 or more"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            "optimizer": (self.optimizer in RATES, f"one of {', '.join(RATES)}"),
            "warmup": (0 <= self.warmup < 1, "at least 0 and below 1"),
            "clip": (self.clip > 0, "above 0"),
            "distillation": (0 <= self.distillation <= 1, "between 0 and 1"),
            "temperature": (0 < self.temperature < math.inf, "above 0"),
        }
        for name, (holds, expected) in checks.items():
            if not holds:
                raise TrainingError(f"recipe: expected {name} to be {expected}, got {getattr(self, name)!r}")

    @property
    def rate(self) -> float:
        """The highest learning rate of the training."""
        return RATES[self.optimizer] if self.learning_rate is None else self.learning_rate


@dataclass(frozen=True)
class Epoch:
    """One pass over the training images: its mean loss, the error on the validation images after it (share of
    wrong answers) and the seconds both took. Numbers begin at 1."""

    number: int
    train_loss: float
    error: float
    seconds: float


def train(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    *,
    seed: int,
    checkpoint: Path | None = None,
    teacher: nn.Module | None = None,
    attention: float = 0.0,
    penalty: Penalty | None = None,
    on_epoch: Callable[[Epoch], None] | None = None,
) -> tuple[Epoch, ...]:
    """Train `model` in place, where its weights are, and return all epochs; it is left in evaluation mode.

    After each epoch `checkpoint` is written, then `on_epoch` called. A checkpoint that is there already is gone
    on from: the result is that of a training never stopped, and `on_epoch` hears of the new epochs only. `attention` is
    how strongly the `teacher` shows where it looks, beside what it answers (see attention.py). What the `penalty` adds
    to the loss is not in the losses told.
    Raises Diverged, and TrainingError for a checkpoint of another training.
    """
    with contextlib.ExitStack() as stack:
        layout = stack.enter_context(_fastest_layout(model, data))
        optimizer = _optimizer(model, recipe)
        if teacher is not None:
            teacher = copy.deepcopy(teacher).eval()
        elsewhere: Elsewhere | None = None
        if attention:
            if teacher is None:
                raise TrainingError(
                    f"attention of {attention:g}: expected a teacher to learn it from, got none"
                )
            elsewhere = stack.enter_context(transfer(model, teacher, data.shape, attention))
        epochs: list[Epoch] = []
        identity = ""
        if checkpoint is not None:
            identity = _identity(model, data, recipe, seed, teacher is not None, attention, penalty)
            if checkpoint.exists():
                epochs = _resume(checkpoint, identity, model, optimizer)
        while len(epochs) < recipe.epochs:
            start = time.perf_counter()
            number = len(epochs) + 1
            loss = _epoch(model, data, recipe, optimizer, teacher, elsewhere, penalty, layout, seed, number)
            wrong = error(model, data.validation, data.preprocess)
            epochs.append(Epoch(number, loss, wrong, time.perf_counter() - start))
            if checkpoint is not None:
                _save(checkpoint, identity, model, optimizer, epochs)
            if on_epoch is not None:
                on_epoch(epochs[-1])
    model.eval()
    return tuple(epochs)


def error(model: nn.Module, split: Split, preprocess: Preprocess) -> float:
    """Share of the images that `model` names wrongly, 0 to 1; an answer that is not finite is wrong.

    The model stays in the mode, training or evaluation, that it was in.
    """
    was, device = model.training, _device(model)
    model.eval()
    right = 0
    with torch.inference_mode():
        for start in range(0, len(split), EVALUATED):
            part = slice(start, start + EVALUATED)
            logits = model(torch.from_numpy(preprocess(split.x[part])).to(device))
            labels = torch.from_numpy(split.y[part]).to(device)
            right += int(((logits.argmax(1) == labels) & logits.isfinite().all(1)).sum())
    model.train(was)
    return 1.0 - right / len(split)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Within, torch's global generator starts from `seed`; afterwards it is where it was before.

    For what draws from it and takes no other: first weights, dropout.
    """
    on_gpu = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.manual_seed(seed)
        yield


# ---- one epoch


def _epoch(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    teacher: nn.Module | None,
    elsewhere: Elsewhere | None,
    penalty: Penalty | None,
    layout: torch.memory_format,
    seed: int,
    number: int,
) -> float:
    """Train for one epoch, the `number`th; returns the mean loss of its images."""
    order_seed, noise_seed = (
        int(n) for n in np.random.SeedSequence((seed, number)).generate_state(2, np.uint64)
    )
    device = _device(model)
    generator = torch.Generator().manual_seed(order_seed)
    order = torch.randperm(len(data.train), generator=generator).numpy()
    steps = _steps(data, recipe)
    total = 0.0
    model.train()
    with seeded(noise_seed, device):
        # Batches of equal size, give or take one: a last one of a single image has no variance to normalise by.
        for step, picked in enumerate(np.array_split(order, steps)):
            factor = schedule(((number - 1) * steps + step + 1) / (recipe.epochs * steps + 1), recipe.warmup)
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate * factor
            images, labels = _batch(data, picked, generator, device, layout)
            loss = _loss(model(images), labels, recipe, teacher, images)
            if elsewhere is not None:
                loss = loss + elsewhere()
            optimizer.zero_grad()
            (loss if penalty is None else loss + penalty(model)).backward()  # type: ignore[no-untyped-call]
            length = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            _check_finite(float(loss.detach()), float(length), number, step + 1, group["lr"])
            optimizer.step()
            total += float(loss.detach()) * len(picked)
    return total / len(order)


def schedule(done: float, warmup: float) -> float:
    """The learning rate, as a share of the highest, when `done` of the training (0 to 1) is behind it.

    >>> [round(schedule(done, 0.2), 3) for done in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if done < warmup:
        return done / warmup
    return 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))


def _steps(data: Data, recipe: Recipe) -> int:
    return max(1, round(len(data.train) / recipe.batch_size))


def _batch(
    data: Data,
    picked: npt.NDArray[np.int64],
    generator: torch.Generator,
    device: torch.device,
    layout: torch.memory_format,
) -> tuple[Tensor, Tensor]:
    """Images and labels at the positions `picked`, turned into floats and varied."""
    images = augment(data.augment, torch.from_numpy(data.preprocess(data.train.x[picked])), generator)
    images = images.to(device).contiguous(memory_format=layout)
    return images, torch.from_numpy(data.train.y[picked]).to(device)


def _loss(
    logits: Tensor, labels: Tensor, recipe: Recipe, teacher: nn.Module | None, images: Tensor
) -> Tensor:
    if logits.ndim != 2 or len(logits) != len(labels):
        raise TrainingError(
            f"expected the network to answer with logits (batch, classes), got {tuple(logits.shape)} "
            f"for a batch of {len(labels)}"
        )
    loss = functional.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    if teacher is None:
        return loss
    with torch.no_grad():
        target = functional.log_softmax(teacher(images) / recipe.temperature, dim=1)
    answer = functional.log_softmax(logits / recipe.temperature, dim=1)
    # Gradients through a temperature shrink with its square; the factor keeps the two parts comparable.
    soft = functional.kl_div(answer, target, reduction="batchmean", log_target=True) * recipe.temperature**2
    return (1 - recipe.distillation) * loss + recipe.distillation * soft


def _check_finite(loss: float, length: float, epoch: int, step: int, rate: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(length)):
        raise Diverged(
            f"training diverged in epoch {epoch}, step {step}: loss {loss:g}, gradient length {length:g}, "
            f"learning rate {rate:g}; a lower learning rate may help"
        )


def _optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": recipe.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.rate, momentum=MOMENTUM, nesterov=True, fused=True)
    return torch.optim.AdamW(groups, lr=recipe.rate, fused=True)


@contextlib.contextmanager
def _fastest_layout(model: nn.Module, data: Data) -> Iterator[torch.memory_format]:
    """Lay the weights of `model` out for fast training and give the layout that its images should have.

    Convolutions of small networks are a third to a half faster with the channels innermost. A network that does
    not run on such images, because it calls `view` on what it made of them, gets them in the usual layout, and so
    does one that oneDNN would break the process in (see _overruns).
    """
    if _overruns(model):
        yield torch.contiguous_format
        return
    was = model.training
    probe = torch.zeros(2, *data.shape, device=_device(model))
    model.to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    try:
        with torch.inference_mode():
            model(probe.contiguous(memory_format=torch.channels_last))
        layout = torch.channels_last
    except RuntimeError:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        layout = torch.contiguous_format
    model.train(was)
    try:
        yield layout
    finally:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _overruns(model: nn.Module) -> bool:
    """Whether training `model` on a processor with the channels innermost would write over foreign memory.

    oneDNN does in the weights' gradient of 1x1 convolutions with a stride that read fewer channels than fit into one
    of its vectors, 8 or 16 (github.com/uxlfoundation/oneDNN/issues/6035); pruning makes such layers.
    """
    return _device(model).type == "cpu" and any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and max(layer.stride) > 1
        and layer.in_channels // layer.groups < 16
        for layer in model.modules()
    )


def _device(model: nn.Module) -> torch.device:
    parameter = next(model.parameters(), None)
    if parameter is None:
        raise TrainingError(f"expected a network with parameters to train, {type(model).__name__} has none")
    return parameter.device


# ---- checkpoints


def _identity(
    model: nn.Module,
    data: Data,
    recipe: Recipe,
    seed: int,
    taught: bool,
    attention: float,
    penalty: Penalty | None,
) -> str:
    """What must be equal for a checkpoint to be gone on from."""
    weights = [[name, list(value.shape)] for name, value in model.state_dict().items()]
    return json.dumps(
        {
            "recipe": asdict(recipe),
            "seed": seed,
            "data": [data.sha256, len(data.train), len(data.validation)],
            "augment": data.augment,
            "preprocess": asdict(data.preprocess),
            "teacher": taught,
            "weights": weights,
            **({"attention": attention} if attention else {}),
            **({} if penalty is None else {"penalty": repr(penalty)}),
        }
    )


def _save(
    path: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer, epochs: list[Epoch]
) -> None:
    state = {
        "identity": identity,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epochs": [list(astuple(epoch)) for epoch in epochs],
    }
    with replacing(path) as part:
        torch.save(state, part)


def _resume(path: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[Epoch]:
    """Bring model and optimizer to where the checkpoint was written; returns the epochs until then."""
    try:
        state = torch.load(path, map_location=_device(model), weights_only=True)
        if state["identity"] != identity:
            raise TrainingError(
                f"{path} is the checkpoint of another training: it differs in "
                f"{', '.join(_differing(state['identity'], identity))}. Delete it to train from the start"
            )
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        return [Epoch(*epoch) for epoch in state["epochs"]]
    except UNREADABLE as problem:
        raise TrainingError(
            f"{path}: expected the checkpoint of a training, got something else "
            f"({type(problem).__name__}). Delete it to train from the start"
        ) from problem


def _differing(ours: str, theirs: str) -> list[str]:
    a, b = json.loads(ours), json.loads(theirs)
    names = [key for key in a | b if a.get(key) != b.get(key) and key != "recipe"]
    return names + [f.name for f in fields(Recipe) if a["recipe"].get(f.name) != b["recipe"][f.name]]
