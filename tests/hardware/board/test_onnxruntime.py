import pytest

from nasflow.hardware.board.network import CannotRun
from nasflow.hardware.board.runtimes.onnxruntime import OnnxRuntime, open_session

from .onnx_files import node


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (node("Frobnicate"), r"ONNX Runtime \d+\.\d+\S* has no operator Frobnicate; replace it"),
        (node("Frob", domain="my.ops"), r"ONNX Runtime \S+ has no operator my\.ops:Frob;"),
        (node("BitwiseNot", opset=18), r"ONNX Runtime \S+ has no operator BitwiseNot for tensor\(float\);"),
        (node("Relu", opset=99), r"ONNX Runtime \S+ knows operators up to opset \d+, the file needs 99"),
        (b"not a network", r"ONNX Runtime \S+: "),
    ],
    ids=["operator", "own operator", "type", "opset", "garbage"],
)
def test_what_the_runtime_cannot_run_is_said_with_operator_and_version(content, said):
    with pytest.raises(CannotRun, match=said):
        open_session(content)


def test_a_device_that_this_build_cannot_use_is_said():
    with pytest.raises(
        CannotRun, match=r"no CUDAExecutionProvider; install onnxruntime-gpu, or use device cpu"
    ):
        open_session(node("Relu"), device="cuda")
    assert OnnxRuntime().tried and not OnnxRuntime("cuda").tried
