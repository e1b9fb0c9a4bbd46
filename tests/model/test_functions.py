"""Functions of a model that are what runs, and those that are not."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper

from onnxmerge.model.read import read_network
from onnxmerge.model.session import open_session


@pytest.mark.parametrize(
    ("domain", "name"), [("", "Relu"), ("com.microsoft", "FastGelu"), ("my.domain", "Relu")], ids=str
)
def test_a_function_is_read_as_the_runtime_runs_it(domain: str, name: str) -> None:
    function = helper.make_function(
        domain, name, ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    graph = helper.make_graph(
        [helper.make_node(name, ["x"], ["y"], domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])],
    )
    opsets = {"": 17, domain: 17 if not domain else 1}
    imports = [helper.make_opsetid(key, version) for key, version in opsets.items()]
    model = helper.make_model(graph, functions=[function], opset_imports=imports, ir_version=8)
    x = np.array([-1, 2, -3, 4], np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = open_session(read_network(model).model).run({"x": x})["y"]
    np.testing.assert_array_equal(found, session.run(None, {"x": x})[0])
