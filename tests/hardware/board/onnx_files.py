"""Files with one operator."""

from onnx import TensorProto, helper


def node(op, kind=TensorProto.FLOAT, domain="", opset=17, shape=("batch", 3)):
    """A file with one operator."""
    graph = helper.make_graph(
        [helper.make_node(op, ["input"], ["logits"], domain=domain)],
        "one",
        [helper.make_tensor_value_info("input", kind, list(shape))],
        [helper.make_tensor_value_info("logits", kind, None)],
    )
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString()
