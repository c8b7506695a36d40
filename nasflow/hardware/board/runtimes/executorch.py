"""ExecuTorch: .pte files, by its runtime for Python.

https://docs.pytorch.org/executorch/stable/runtime-python-api-reference.html
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

from ..measuring import HERE
from ..network import CannotRun, Network, random_input, samples, timed
from .installed import installed

KINDS = (
    "uint8",
    "int8",
    "int16",
    "int32",
    "int64",
    "float16",
    "float32",
    "float64",
    None,
    None,
    None,
    "bool",
)
"""NumPy's names of what ExecuTorch numbers (runtime/core/portable_type/scalar_type.h)."""


class ExecuTorch:
    """A file's shapes are fixed, or have an upper bound that is used; so is its batch."""

    name = "executorch"
    reads: tuple[str, ...] = (".pte",)
    pace = HERE
    tried = True

    def version(self) -> str:
        _runtime()
        return f"executorch {importlib.metadata.version('executorch')}"

    def smallest(self) -> bytes | None:
        return None

    def load(self, model: str | bytes, threads: int, batch: int, draw: Any) -> Network:
        torch = installed("torch", "torch")
        bindings = installed("executorch.extension.pybindings.portable_lib", "executorch")
        bindings._unsafe_reset_threadpool(threads)
        try:
            method = _runtime().load_program(model).load_method("forward")
        except (RuntimeError, ValueError, FileNotFoundError) as error:
            raise CannotRun(
                f"{self.version()}: {(str(error).splitlines() or ['it does not say why'])[0]}"
            ) from error
        arrays = []
        for i in range(method.metadata.num_inputs()):
            told = method.metadata.input_tensor_meta(i)
            kind = KINDS[told.dtype()] if told.dtype() < len(KINDS) else None
            arrays.append(
                random_input(f"input {i}", list(told.sizes()), kind or f"type {told.dtype()}", batch, draw)
            )
        inputs = [torch.from_numpy(array) for array in arrays]
        return Network(timed(lambda: method.execute(inputs)), samples(arrays))


def _runtime() -> Any:
    return installed("executorch.runtime", "executorch").Runtime.get()
