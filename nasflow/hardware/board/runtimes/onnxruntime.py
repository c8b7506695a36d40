"""ONNX Runtime, on the processor or on a CUDA device: files that end in .onnx."""

from __future__ import annotations

import functools
import re
from typing import Any

from ..measuring import HERE
from ..network import CannotRun, Network, random_input, samples, timed
from .installed import installed

TYPES = {"float": "float32", "double": "float64"}  # where ONNX calls them otherwise than NumPy does


class OnnxRuntime:
    """`device` is cpu, or cuda: then inputs and outputs stay on it, and a call ends when the device is done."""

    def __init__(self, device: str = "cpu") -> None:
        self.name, self.device = "onnxruntime", device
        self.reads: tuple[str, ...] = (".onnx",)
        self.pace, self.tried = HERE, device == "cpu"

    def version(self) -> str:
        onnxruntime = _onnxruntime()
        return f"onnxruntime {onnxruntime.__version__}"

    def smallest(self) -> bytes | None:
        return None

    def load(self, model: str | bytes, threads: int, batch: int, draw: Any) -> Network:
        """A fresh session with random inputs already bound."""
        session = open_session(model, threads, flush_denormals=True, device=self.device)
        binding = session.io_binding()
        arrays = []
        for one in session.get_inputs():
            kind = one.type[len("tensor(") : -1]
            arrays.append(random_input(one.name, one.shape, TYPES.get(kind, kind), batch, draw))
            _bind(binding, one.name, arrays[-1], self.device)
        for one in session.get_outputs():
            binding.bind_output(one.name, self.device)
        run = functools.partial(session.run_with_iobinding, binding)
        if self.device == "cpu":
            return Network(timed(run), samples(arrays))

        def until_done() -> None:
            run()
            binding.synchronize_outputs()

        return Network(timed(until_done), samples(arrays), "inputs and outputs on the device, synchronised")


def _bind(binding: Any, name: str, array: Any, device: str) -> None:
    if device == "cpu":
        binding.bind_cpu_input(name, array)
    else:
        onnxruntime = _onnxruntime()
        binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, device, 0))


def open_session(
    model: str | bytes, threads: int = 1, *, flush_denormals: bool = False, device: str = "cpu"
) -> Any:
    """An ONNX Runtime session. Raises CannotRun, naming the operator that the runtime lacks.

    `flush_denormals` makes tiny numbers zero, as fast as all others, but for good and in all of this process.
    """
    onnxruntime = _onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4  # its complaints come back as exceptions
    options.add_session_config_entry("session.set_denormal_as_zero", str(int(flush_denormals)))
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    if provider not in onnxruntime.get_available_providers():
        raise CannotRun(f"this ONNX Runtime has no {provider}; install onnxruntime-gpu, or use device cpu")
    try:
        return onnxruntime.InferenceSession(model, options, providers=[provider])
    except Exception as error:  # the runtime's own exceptions share no other base
        raise CannotRun(explain(str(error), f"ONNX Runtime {onnxruntime.__version__}")) from error


def _onnxruntime() -> Any:
    return installed("onnxruntime", "onnxruntime")


def explain(error: str, runtime: str) -> str:
    """What ONNX Runtime means when it refuses a file.

    >>> explain("Error No Op registered for Frob with domain_version of 17", "ONNX Runtime 1.31.1")
    'ONNX Runtime 1.31.1 has no operator Frob; replace it in the network, or use a runtime that has it'
    """
    for pattern in (
        r"No Op registered for (\S+) with domain_version",
        r"(?:Fatal error: )?(\S+?)\(-?\d+\) is not a registered function/op",
        r"Could not find an implementation for (\S+?)\(",
    ):
        found = re.search(pattern, error)
        if found:
            return f"{runtime} has no operator {found[1]}; replace it in the network, or use a runtime that has it"
    found = re.search(r"Type '(\S+)' of input parameter .*? of operator \((\S+)\)", error)
    if found:
        return f"{runtime} has no operator {found[2]} for {found[1]}; replace it in the network"
    found = re.search(r"Opset (\d+) is under development.*?till opset (\d+)", error, re.DOTALL)
    if found:
        return f"{runtime} knows operators up to opset {found[2]}, the file needs {found[1]}; use a newer runtime"
    return f"{runtime}: {error.partition(' : ')[2].strip() or error}"
