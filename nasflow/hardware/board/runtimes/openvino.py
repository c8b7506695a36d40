"""OpenVINO on the processor: ONNX files and its own .xml.

https://docs.openvino.ai/2025/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html
"""

from __future__ import annotations

from typing import Any

from ..measuring import HERE
from ..network import CannotRun, Network, random_input, samples, timed
from .installed import installed


class OpenVino:
    """One stream, so that a call gets all its threads; they stay on the cores that this process is kept to."""

    name = "openvino"
    reads: tuple[str, ...] = (".onnx", ".xml")
    pace = HERE
    tried = True

    def version(self) -> str:
        return f"openvino {_openvino().__version__}"

    def smallest(self) -> bytes | None:
        return None

    def load(self, model: str | bytes, threads: int, batch: int, draw: Any) -> Network:
        openvino = _openvino()
        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,
        }
        try:
            network = core.read_model(model)
            arrays, sizes = [], {}
            for port in network.inputs:
                shape = [int(one.get_length()) if one.is_static else "?" for one in port.partial_shape]
                kind = port.element_type.to_dtype().name
                arrays.append(random_input(port.any_name, shape, kind, batch, draw))
                sizes[port] = list(arrays[-1].shape)
            network.reshape(sizes)
            request = core.compile_model(network, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            raise CannotRun(f"{self.version()}: {lines[-1].strip()}") from error
        for i, array in enumerate(arrays):
            request.set_input_tensor(i, openvino.Tensor(array))

        def run() -> None:
            request.start_async()  # infer() would copy the outputs into Python
            request.wait()

        return Network(timed(run), samples(arrays))


def _openvino() -> Any:
    return installed("openvino", "openvino")
