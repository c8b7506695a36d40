import onnx

from nasflow.hardware.device import reference_network


def test_the_reference_network_is_the_same_for_ever():
    import hashlib

    assert reference_network() == reference_network.__wrapped__()
    onnx.checker.check_model(onnx.load_from_string(reference_network()), full_check=True)
    digest = hashlib.sha256(reference_network()).hexdigest()
    assert digest == "0952fdb76b22924789bdc8551a64bfd7392d5f69c0f2f89e11c5a0572caf681c"
