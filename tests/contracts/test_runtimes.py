"""Every runtime of the board program, and every benchmark program, keeps the contract of runtimes."""

import base64
import importlib.util
import shlex
import sys
from pathlib import Path

import pytest
import torch
from onnx import TensorProto, helper

from nasflow.hardware.board.machine import Machine
from nasflow.hardware.board.runtimes import RUNTIMES, open_runtime
from nasflow.hardware.board.runtimes.programs import TOOLS, CommandLine
from nasflow.hardware.board.runtimes.torch import Torch
from nasflow.testing.runtimes import RuntimeContract, RuntimeUnderTest

PROGRAMS = Path(__file__).with_name("benchmark_programs.py")
TFLITE = (
    "CAAAAFRGTDO+////FAAAACAAAAAsAAAAMAEAAAMAAAABAAAACAAAAAQABAAEAAAACAAAAG9uZSByZWx1AAAAAAEAAAAUAAAAAAAO"
    "ABgAFAAQAAwACAAEAA4AAAAUAAAAHAAAAEgAAABMAAAAUAAAAAQAAABtYWluAAAAAAEAAAAQAAAAAAAKAAwAAAAIAAQACgAAAAgA"
    "AAAMAAAAAQAAAAEAAAABAAAAAAAAAAEAAAABAAAAAQAAAAAAAAACAAAAVAAAAAQAAADK////AAAAAQwAAAAUAAAAGAAAAAIAAAD/"
    "////QAAAAAEAAAB5AAAAAgAAAAEAAABAAAAAAAAWABQAEAAAAAAADAAAAAAAAAAIAAcAFgAAAAAAAAEMAAAAFAAAABgAAAACAAAA"
    "/////0AAAAABAAAAeAAAAAIAAAABAAAAQAAAAAEAAAAQAAAADAAMAAsAAAAAAAQADAAAABMAAAAAAAAT"
)


def onnx_file(folder):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["input"], ["logits"])],
        "one",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (folder / "relu.onnx").write_bytes(model.SerializeToString())
    return folder / "relu.onnx"


def exported_program(folder):
    program = torch.export.export(
        torch.nn.ReLU(), (torch.zeros(2, 3),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, folder / "relu.pt2")
    return folder / "relu.pt2"


def tflite_file(folder):
    """A ReLU of (batch, 64), made with the schema that comes with ai-edge-litert."""
    (folder / "relu.tflite").write_bytes(base64.b64decode(TFLITE))
    return folder / "relu.tflite"


def pte_file(folder):
    from executorch.exir import to_edge

    program = torch.export.export(torch.nn.ReLU(), (torch.zeros(1, 3),))
    (folder / "relu.pte").write_bytes(to_edge(program).to_executorch().buffer)
    return folder / "relu.pte"


# What is called in this process: the package it needs, its runtime, a file, and whether the batch is free.
MODULES = {
    "onnxruntime": ("onnxruntime", lambda: open_runtime("onnxruntime"), onnx_file, True),
    "torch": ("torch", lambda: open_runtime("torch"), exported_program, True),
    # Compiling for real takes ten seconds; how it is compiled does not change how it is called.
    "torch-compiled": ("torch", lambda: Torch(compiler="eager"), exported_program, True),
    "openvino": ("openvino", lambda: open_runtime("openvino"), onnx_file, True),
    "litert": ("ai_edge_litert", lambda: open_runtime("litert"), tflite_file, True),
    "executorch": ("executorch", lambda: open_runtime("executorch"), pte_file, False),
}
PROGRAM_NAMES = [(runtime, tool) for runtime, tools in TOOLS.items() for tool in tools]


def test_no_runtime_is_missing_from_the_tables():
    assert set(MODULES) | set(TOOLS) == set(RUNTIMES)
    for runtime in RUNTIMES:
        assert open_runtime(runtime).name == runtime


class TestModules(RuntimeContract):
    @pytest.fixture(params=sorted(MODULES))
    def runtime(self, request, tmp_path):
        package, open_it, file, any_batch = MODULES[request.param]
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
        return RuntimeUnderTest(open_it, file(tmp_path), any_batch)


class TestPrograms(RuntimeContract):
    """The real command lines, against programs that take and say what the real ones document."""

    @pytest.fixture(params=PROGRAM_NAMES, ids=[f"{name}, {tool.program}" for name, tool in PROGRAM_NAMES])
    def runtime(self, request, tmp_path):
        name, tool = request.param
        file = tmp_path / f"network{tool.reads[0]}"
        file.write_bytes(b"NETWORK")
        return RuntimeUnderTest(lambda: CommandLine(name, stand_in(tool)), file, tool.any_batch)

    def test_tells_the_times_of_the_calls_and_not_of_its_warming_up(self, runtime):
        times = runtime.open().load(str(runtime.file), 1, 1, None).block(10)
        assert len(times) in (1, 10) and all(ns == pytest.approx(300_000, rel=0.01) for ns in times)

    def test_is_marked_untried_on_hardware(self, runtime):
        assert not runtime.open().tried


def stand_in(tool):
    name = tool.program.split()[-1]
    return f"{shlex.quote(sys.executable)} {shlex.quote(str(PROGRAMS))} {name}"


def test_a_program_tells_its_memory_where_it_does(tmp_path):
    (tool,) = TOOLS["litert"]
    (tmp_path / "network.tflite").write_bytes(b"NETWORK")
    network = CommandLine("litert", stand_in(tool)).load(str(tmp_path / "network.tflite"), 1, 1, None)
    network.block(1)
    assert network.memory_kb() == 2560.0


def test_an_engine_is_built_once_and_loaded_afterwards(tmp_path):
    (tool,) = TOOLS["tensorrt"]
    (tmp_path / "network.onnx").write_bytes(b"NETWORK")
    runtime = CommandLine("tensorrt", stand_in(tool))
    runtime.load(str(tmp_path / "network.onnx"), 1, 1, None).block(1)
    (tmp_path / "network.onnx").unlink()
    engine = runtime._start(str(tmp_path / "network.onnx"), 1, 1, 3)
    assert engine[0] == [0.3] * 3


def test_a_program_on_another_machine_is_kept_to_its_core(tmp_path):
    (tool,) = TOOLS["litert"]
    file, said = tmp_path / "network.tflite", tmp_path / "said"
    file.write_bytes(b"NETWORK")
    shell = tmp_path / "adb"
    shell.write_text(f'#!/bin/sh\nshift\necho "$@" >> {said}\n[ "$1" = taskset ] && shift 2\nexec "$@"\n')
    shell.chmod(0o755)
    there = CommandLine("litert", stand_in(tool), Machine(shell=(str(shell), "shell")), core=4)
    assert there.load(str(file), 1, 1, None).block(1) == [302_500]
    assert said.read_text().startswith("taskset 10 ")
