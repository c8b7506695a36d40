"""PyTorch, as it is or compiled: exported programs (.pt2) and TorchScript (.pt), on the processor or on CUDA.

On CUDA a call is timed by events on the device, and replayed as a CUDA graph where the network can be captured, so
that what is timed is the device and not Python (https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs).
"""

from __future__ import annotations

import functools
import io
import json
import zipfile
from typing import Any

from ..measuring import HERE
from ..network import Block, CannotRun, Network, random_input, samples, timed
from .installed import installed

INPUTS = "inputs.json"
"""TorchScript does not keep the sizes of its inputs, so the file has to: `torch.jit.save(module, file,
_extra_files={"inputs.json": '[["batch", 3, 32, 32]]'})`."""


class Torch:
    """`device` is cpu or cuda; `compiler` the backend of torch.compile, None to run the network as it is."""

    def __init__(self, device: str = "cpu", compiler: str | None = None) -> None:
        self.name = "torch" if compiler is None else "torch-compiled"
        self.device, self.compiler = device, compiler
        self.reads: tuple[str, ...] = (".pt2", ".pt")
        self.pace, self.tried = HERE, device == "cpu"

    def version(self) -> str:
        torch = _torch()
        return f"{self.name} {torch.__version__}"

    def smallest(self) -> bytes | None:
        return _smallest()

    def load(self, model: str | bytes, threads: int, batch: int, draw: Any) -> Network:
        torch = _torch()
        if self.device == "cuda" and not torch.cuda.is_available():
            raise CannotRun(
                f"torch {torch.__version__} finds no CUDA device; see nvidia-smi, or use device cpu"
            )
        torch.set_num_threads(threads)
        torch.set_flush_denormal(True)
        module, shapes = _read(model)
        arrays = [
            random_input(f"input {i}", shape, kind, batch, draw) for i, (shape, kind) in enumerate(shapes)
        ]
        inputs = [torch.from_numpy(array).to(self.device) for array in arrays]
        module = module.to(self.device)
        if self.compiler is not None:
            torch.compiler.reset()
            module = torch.compile(module, backend=self.compiler)

        def run() -> None:
            with torch.inference_mode():
                module(*inputs)

        if self.device == "cpu":
            return Network(timed(run), samples(arrays))
        replay, how = _captured(module, inputs)
        return Network(_on_the_device(replay), samples(arrays), how)


def _read(model: str | bytes) -> tuple[Any, list[tuple[list[Any], str]]]:
    """The module in a file, and the shape and NumPy type of each input; free axes are texts. Raises CannotRun."""
    torch = _torch()

    content = io.BytesIO(model) if isinstance(model, bytes) else model
    try:
        with zipfile.ZipFile(content) as archive:
            exported = any(name.endswith("archive_format") for name in archive.namelist())
        if isinstance(content, io.BytesIO):
            content.seek(0)
        if not exported:
            return _script(content)
        program = torch.export.load(content)
    except (zipfile.BadZipFile, RuntimeError, OSError) as error:
        raise CannotRun(
            f"torch {torch.__version__}: expected an exported program or TorchScript, got {_first(error)}; write one"
            " with torch.export.save"
        ) from error
    given = set(program.graph_signature.user_inputs)
    found = [
        (
            [size if isinstance(size, int) else str(size) for size in value.shape],
            str(value.dtype).split(".")[-1],
        )
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in given
        for value in [node.meta["val"]]
    ]
    return program.module(), found


def _script(content: Any) -> tuple[Any, list[tuple[list[Any], str]]]:
    extra: dict[str, Any] = {INPUTS: ""}
    script = _torch().jit.load(content, _extra_files=extra)
    if not extra[INPUTS]:
        raise CannotRun(
            f"expected TorchScript that tells the sizes of its inputs in its extra file {INPUTS}; better, write an"
            " exported program with torch.export.save"
        )
    return script.eval(), [(shape, "float32") for shape in json.loads(extra[INPUTS])]


def _captured(module: Any, inputs: list[Any]) -> tuple[Any, str]:
    """A call as a CUDA graph, or as it is where it cannot be captured; and which of the two, and why."""
    torch = _torch()

    def run() -> None:
        with torch.inference_mode():
            module(*inputs)

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # what is only done at first must not be captured
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            run()
    except RuntimeError as error:  # a network that talks to the host in between
        torch.cuda.synchronize()
        return run, f"CUDA events, no graph: {_first(error)}"
    return graph.replay, "CUDA events, graph replay"


def _on_the_device(run: Any) -> Block:
    """Calls of `run`, each timed by the device itself and waited for."""
    torch = _torch()

    def block(calls: int) -> list[int]:
        times = []
        for _ in range(calls):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(round(1e6 * start.elapsed_time(end)))
        return times

    return block


@functools.cache
def _smallest() -> bytes:
    torch, content = _torch(), io.BytesIO()
    torch.export.save(torch.export.export(torch.nn.ReLU(), (torch.zeros(1, 1),)), content)
    return content.getvalue()


def _torch() -> Any:
    return installed("torch", "torch")


def _first(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
