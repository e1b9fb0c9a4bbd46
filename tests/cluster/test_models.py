"""Networks on their way to another process: what stands in a graph by place stands in its copy at the same place."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxmerge.calibration.sources import open_source
from onnxmerge.calibration.specs import input_specs
from onnxmerge.calibration.subset import Spread
from onnxmerge.cluster.models import reduced
from onnxmerge.executor import Executor, Item, Result, Work
from onnxmerge.model.exposed import Exposed
from onnxmerge.model.network import Network
from onnxmerge.model.read import read_network
from onnxmerge.model.session import open_session
from tests.graphs import build, normal

MLP = """(float[n,5] x) => (float[n,3] y) {
    h = MatMul(x, w) r = Relu(h) y = MatMul(r, v)
}"""


class _Pickler(pickle.Pickler):
    def reducer_override(self, value: Any) -> Any:
        found = reduced(value)
        return NotImplemented if found is None else found


def sent(value: Any) -> Any:
    """What arrives in another process: its arrays cannot be written to."""
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    _Pickler(stream, protocol=5, buffer_callback=buffers.append).dump(value)
    return pickle.loads(stream.getvalue(), buffers=[each.raw().toreadonly() for each in buffers])  # noqa: S301


class Elsewhere(Executor):
    """Does what a cluster does, here: the last item first, on copies of all that is sent."""

    def map(self, work: Work[Item, Result], items: Iterable[Item]) -> Iterator[Result]:
        run, given = sent(work).open(), [sent(item) for item in items]
        found = [sent(run(item)) for item in reversed(given)]
        yield from reversed(found)


@pytest.fixture
def network() -> Network:
    return read_network(build(MLP, normal(w=(5, 4), v=(4, 3))))


def test_a_model_arrives_with_its_weights_and_computes_the_same(network: Network) -> None:
    copy = sent(network)
    feed = {"x": np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)}
    assert copy.label == network.label
    assert {name: copy.weights[name].tobytes() for name in copy.weights} == {
        name: network.weights[name].tobytes() for name in network.weights
    }
    assert open_session(copy.model).run(feed)["y"].tobytes() == open_session(network.model).run(feed)["y"].tobytes()


def test_nodes_and_values_are_those_of_the_one_copy(network: Network) -> None:
    graph = network.graph
    made = graph[0].outputs[0]
    held = {"node": graph[1], "made": made, "free": graph.inputs[0], "weight": graph.initializers["w"]}
    copy, own = sent((network, held))
    assert own["node"] is copy.graph[1]
    assert own["made"] is copy.graph[0].outputs[0]
    assert own["free"] is copy.graph.inputs[0]
    assert own["weight"] is copy.graph.initializers["w"]
    assert own["made"].shape == made.shape


def test_a_graph_of_a_thousand_nodes_takes_no_deep_stack() -> None:
    steps = " ".join(f"h{step + 1} = Relu(h{step})" for step in range(1000))
    model = ir.from_proto(build(f"(float[n,2] x) => (float[n,2] y) {{ h0 = Relu(x) {steps} y = Relu(h1000) }}"))
    assert len(sent(model).graph) == 1002


@pytest.mark.parametrize(
    "array",
    [np.arange(6, dtype=np.int64).reshape(2, 3), np.array(2.5, np.float32), np.ones((0, 4), np.float16)],
)
def test_tensors(array: np.ndarray[Any, Any]) -> None:
    copy = sent(ir.tensor(array, name="w"))
    assert (copy.name, copy.dtype, copy.shape.numpy()) == ("w", ir.DataType.from_numpy(array.dtype), array.shape)
    np.testing.assert_array_equal(copy.numpy(), array)


def test_tensors_of_types_that_numpy_lacks() -> None:
    narrow = ir.tensor(np.array([1.5, -2], ml_dtypes.bfloat16), name="b")
    packed = ir.Tensor(np.array([1, -3, 7], ml_dtypes.int4), dtype=ir.DataType.INT4, name="p")
    texts = ir.StringTensor(np.array([b"a", b"bc"], object), shape=ir.Shape([2]), name="t")
    for tensor in (narrow, packed, texts):
        copy = sent(tensor)
        assert copy.dtype == tensor.dtype
        assert copy.numpy().tolist() == tensor.numpy().tolist()


def test_weights_that_lie_in_a_file_of_their_own(tmp_path: Path) -> None:
    weights = normal(w=(5, 4), v=(4, 3))
    model = build(MLP, weights)
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    network = read_network(tmp_path / "m.onnx")
    copy = sent(network)
    (tmp_path / "w.data").unlink()
    np.testing.assert_array_equal(copy.weights["w"], weights["w"])


def test_open_sessions_stay_where_they_are(network: Network) -> None:
    exposed, feed = Exposed(network), {"x": np.ones((2, 5), np.float32)}
    before = exposed.answers(network.weights, feed)["y"]
    copy = sent(exposed)
    assert copy.answers(copy.network.weights, feed)["y"].tobytes() == before.tobytes()


def test_of_data_only_what_is_taken_is_sent(network: Network, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(100, 5)).astype(np.float32))
    source = open_source(str(tmp_path / "x.npy"), input_specs(network.model), batch_size=10)
    few = Spread(source, 30)
    copy = sent(few)
    assert list(copy.sizes) == list(few.sizes) == [10, 10, 10]
    assert copy.digest() == few.digest()
    for own, other in ((copy, few), (copy.at([1]), few.at([1]))):
        assert [feed["x"].tobytes() for feed in own] == [feed["x"].tobytes() for feed in other]
