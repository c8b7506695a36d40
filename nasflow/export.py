"""Networks as ONNX files, the form in which they are measured and shipped; and proof that the file is the network."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nasflow.errors import NasflowError
from nasflow.files import replacing
from nasflow.hardware.board.network import CannotRun
from nasflow.hardware.board.runtimes.onnxruntime import open_session

Images = NDArray[np.float32]
Logits = NDArray[np.float32]

OPSET = {"traced": 17, "dynamo": 18}  # the oldest that do, so that a board's older runtime reads the file
BATCHES = (1, 3)  # a file that took the example's batch of two for granted fails on these
BATCH = 256


class ExportError(NasflowError):
    """A network that did not become a file, or a file that is not the network."""


def to_onnx(model: nn.Module, shape: Sequence[int], path: Path) -> None:
    """Write `model`, in evaluation mode, for inputs of `shape` (channels, height, width) and any batch size.

    The file's input is called "input", its output "logits". The same weights give the same bytes. The file is
    tried against the model before it takes its place; the model is left as it was. Raises ExportError.
    """
    with _evaluating(model), replacing(path) as part:
        _answer(model, _example(model, shape, 2))
        reasons = []
        for write in (
            _traced,
            _dynamo,
        ):  # the first takes some 0.05 s, the second some 1.5 s, both files run alike
            try:
                write(model, _example(model, shape, 2), part)
                _try_out(model, shape, part)
                return
            except ExportError as error:
                reasons.append(str(error))
        raise ExportError(f"the network cannot be exported to {path.name}: {'; and then: '.join(reasons)}")


@dataclass(frozen=True)
class Parity:
    """How far a file is from the network it was exported from, over `samples` inputs.

    `max_abs_difference` is the largest between two logits, infinite where either is not a number; `agreement`
    the share of inputs whose largest logit is the same.
    """

    max_abs_difference: float
    agreement: float
    samples: int

    def check(self, bound: float) -> None:
        """Raise ExportError if any two logits differ by more than `bound`."""
        if not self.max_abs_difference <= bound:
            raise ExportError(
                f"the exported file is not the network: logits differ by up to {self.max_abs_difference:.3g}, expected"
                f" at most {bound:g}; {self.agreement:.2%} of {self.samples} answers agree"
            )


def parity(model: nn.Module, file: Path, x: Images) -> Parity:
    """Compare the file with the network on preprocessed inputs x (samples, channels, height, width)."""
    if not len(x):
        raise ValueError("expected at least one input to compare on, got none")
    with _evaluating(model):
        batches = [x[at : at + BATCH] for at in range(0, len(x), BATCH)]
        ours = np.concatenate([_answer(model, torch.from_numpy(batch)) for batch in batches])
    theirs = predict(file, x)
    if ours.shape != theirs.shape:
        raise ExportError(f"{file}: expected logits of shape {ours.shape}, got {theirs.shape}")
    known = np.isfinite(ours).all() and np.isfinite(theirs).all()
    return Parity(
        max_abs_difference=float(np.abs(ours - theirs).max()) if known else float("inf"),
        agreement=float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean()),
        samples=len(x),
    )


def predict(file: Path, x: Images) -> Logits:
    """The file's logits (samples, classes) for preprocessed inputs, by ONNX Runtime in one thread.

    Raises ExportError, naming the operator, if the runtime lacks one.
    """
    try:
        return _infer(file, x)
    except CannotRun as error:
        raise ExportError(f"{file}: {error}") from error


def _infer(file: Path, x: Images) -> Logits:
    session = open_session(str(file))
    name = session.get_inputs()[0].name
    batches = [x[at : at + BATCH] for at in range(0, len(x), BATCH)]
    return np.concatenate([session.run(["logits"], {name: batch})[0] for batch in batches])


def _traced(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    """The exporter that follows one example through the network."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _export(
            model, example, path, dynamo=False, dynamic_axes={"input": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=OPSET["traced"],
        )  # fmt: skip
    doubts = [str(one.message) for one in caught if one.category.__name__ == "TracerWarning"]
    if doubts:
        raise ExportError(f"following one example is not enough: {doubts[0].partition('. ')[0]}")


def _dynamo(model: nn.Module, example: torch.Tensor, path: Path) -> None:
    """The exporter that reads the network's code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _export(
            model, example, path, dynamo=True, dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=OPSET["dynamo"], external_data=False,
        )  # fmt: skip


def _export(model: nn.Module, example: torch.Tensor, path: Path, **settings: Any) -> None:
    talk = io.StringIO()
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(talk), contextlib.redirect_stderr(talk):
            torch.onnx.export(
                model,
                (example,),
                path,
                input_names=["input"],
                output_names=["logits"],
                verbose=False,
                **settings,
            )
    except Exception as error:  # whatever the network's own code raises comes out here
        raise ExportError(_first_line(error)) from error
    finally:
        logger.setLevel(level)


def _try_out(model: nn.Module, shape: Sequence[int], path: Path) -> None:
    """Raise ExportError unless the file answers like the model, for batches of other sizes than the example's.

    This finds a wrong file, not a rounding error: what the numbers are worth is told by `parity` on real data.
    """
    for batch in BATCHES:
        example = _example(model, shape, batch)
        expected = _answer(model, example)
        try:
            found = _infer(path, example.cpu().numpy())
        except CannotRun as error:
            raise ExportError(str(error)) from error
        except Exception as error:  # ONNX Runtime's exceptions share no other base
            raise ExportError(f"the file fails on a batch of {batch}: {_first_line(error)}") from error
        if found.shape != expected.shape or not np.allclose(
            found, expected, rtol=0.01, atol=0.01, equal_nan=True
        ):
            raise ExportError(f"the file answers otherwise than the network on a batch of {batch}")


def _example(model: nn.Module, shape: Sequence[int], batch: int) -> torch.Tensor:
    """The same normal input every time, on the model's device."""
    where = next(model.parameters(), torch.empty(0)).device
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch)).to(where)


def _answer(model: nn.Module, x: torch.Tensor) -> Logits:
    where = next(model.parameters(), torch.empty(0)).device
    try:
        with torch.no_grad():
            found = model(x.to(where))
    except Exception as error:  # the network is the user's
        raise ExportError(
            f"the network fails on an input of {tuple(x.shape)}: {_first_line(error)}"
        ) from error
    if not isinstance(found, torch.Tensor) or found.ndim < 2 or len(found) != len(x):
        got = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise ExportError(f"expected a network that gives one tensor ({len(x)}, classes), got {got}")
    logits: Logits = found.cpu().numpy()
    return logits


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every part is back in the mode it was in."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in training.items():
            module.training = mode


def _first_line(error: Exception) -> str:
    """What went wrong in the first place, without the advice that torch wraps around it."""
    first: BaseException = error
    while first.__cause__ is not None:
        first = first.__cause__
    return f"{type(first).__name__}: {(str(first).strip().splitlines() or [''])[0]}"
