"""LiteRT, which was TensorFlow Lite: .tflite files, by its interpreter for Python.

https://ai.google.dev/edge/litert/microcontrollers/python (ai-edge-litert; older boards have tflite-runtime)
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Any

from ..measuring import HERE
from ..network import CannotRun, Network, random_input, samples, timed
from .installed import installed

PACKAGES = {"ai-edge-litert": "ai_edge_litert.interpreter", "tflite-runtime": "tflite_runtime.interpreter"}


class LiteRT:
    name = "litert"
    reads: tuple[str, ...] = (".tflite",)
    pace = HERE
    tried = True

    def version(self) -> str:
        package, _ = _interpreter()
        return f"{package} {importlib.metadata.version(package)}"

    def smallest(self) -> bytes | None:
        return None

    def load(self, model: str | bytes, threads: int, batch: int, draw: Any) -> Network:
        _, interpreter = _interpreter()
        source = {"model_content": model} if isinstance(model, bytes) else {"model_path": model}
        try:
            network = interpreter.Interpreter(num_threads=threads, **source)
            arrays = []
            for one in network.get_input_details():
                shape = [int(size) for size in one.get("shape_signature", one["shape"])]
                array = random_input(one["name"], shape, one["dtype"]().dtype.name, batch, draw)
                network.resize_tensor_input(one["index"], array.shape)
                arrays.append((one["index"], array))
            network.allocate_tensors()
            for index, array in arrays:
                network.set_tensor(index, array)
        except (ValueError, RuntimeError) as error:
            raise CannotRun(
                f"{self.version()}: {(str(error).splitlines() or ['it does not say why'])[0]}"
            ) from error
        return Network(timed(network.invoke), samples([array for _, array in arrays]))


def _interpreter() -> tuple[str, Any]:
    """The package that is installed, and its interpreter's module."""
    for package, module in PACKAGES.items():
        if importlib.util.find_spec(module.partition(".")[0]):
            return package, installed(module, package)
    raise CannotRun(
        "no LiteRT for this Python; install it where the networks are to run: pip install ai-edge-litert"
    )
