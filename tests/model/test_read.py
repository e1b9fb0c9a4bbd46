"""One form for every graph, and one clear line for every file that is not one."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx_ir as ir
import pytest

from onnxmerge.errors import InputError
from onnxmerge.model import open_session, read_network
from onnxmerge.model.network import HOLDS_NAN
from tests import graphs
from tests.graphs import execute, normal, tensor

build = functools.partial(graphs.build, check=False)  # most outputs here are written without their types

MLP = "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w)  y = Relu(h) }"

FUNCTION = """
<ir_version: 10, opset_import: ["": 21, "my": 1]>
g (float[n,4] x) => (float[n,4] y) { h = my.twice(x)  y = my.twice(h) }
<domain: "my", opset_import: ["": 21]>
twice (a) => (c) { two = Constant<value = float {2.0}>()  c = Mul(a, two) }
"""

BRANCHES = """(float[n,4] x, bool c) => (float[n,4] y) {
    y = If<
        then_branch = a () => (float[n,4] t) { t = Mul(x, w) },
        else_branch = b () => (float[n,4] e) {
            w2 = Constant<value = float[4] {1, 2, 3, 4}>()  t = Add(x, w2)  e = Neg(t)
        }
    >(c)
}"""


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def outputs(model: onnx.ModelProto, **feeds: np.ndarray) -> None:
    """The network that is read gives what the model gives."""
    network = read_network(model)
    ours, theirs = open_session(network.model).run(feeds), execute(model, feeds)
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array)


def test_reads_a_file_and_its_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(build(MLP, normal(w=(4, 3))), tmp_path)
    monkeypatch.chdir(tmp_path)
    network = read_network("model.onnx")
    assert network.path == path
    assert network.label == str(path)
    assert network.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_data_files_are_read_once_for_the_digest_and_for_nan(tmp_path: Path) -> None:
    whole = build(MLP.replace("Relu(h)", "Add(h, b)"), {**normal(w=(4, 3)), "b": np.array([1, np.nan, 3], np.float32)})
    path, data = tmp_path / "m.onnx", tmp_path / "m.data"
    onnx.save_model(whole, path, save_as_external_data=True, location="m.data", size_threshold=0)
    data.write_bytes(data.read_bytes() + b"what no tensor holds")
    network = read_network(path)
    assert network.sha256 == hashlib.sha256(path.read_bytes() + data.read_bytes()).hexdigest()
    held = {name: network.weights.tensor(name) for name in network.weights}
    assert all(isinstance(tensor, ir.ExternalTensor) for tensor in held.values())
    noted = {str(value.name): value.const_value for value in network.graph.initializers.values()}
    assert {name: tensor.meta[HOLDS_NAN] for name, tensor in noted.items() if tensor is not None} == {
        "w": False,
        "b": True,
    }
    assert {name: network.weights.holds_nan(name) for name in noted} == {"w": False, "b": True}


def test_leaves_a_model_in_memory_as_it_is() -> None:
    proto = build(
        "(float[n,4] x) => (y) { h = Relu(x)  dead = Neg(x)  c = Constant<value_float = 1.0>()  y = Add(h, c) }"
    )
    before = proto.SerializeToString(deterministic=True)
    model = ir.from_proto(proto)
    assert len(read_network(model).graph) == 2
    assert len(read_network(proto).graph) == 2
    assert len(model.graph) == 4
    assert proto.SerializeToString(deterministic=True) == before
    assert read_network(model).sha256 == read_network(ir.from_proto(proto)).sha256


def test_inlines_functions() -> None:
    model = onnx.parser.parse_model(FUNCTION)
    network = read_network(model)
    assert [node.op_type for node in network.graph] == ["Mul", "Mul"]
    assert len(network.weights) == 2
    outputs(model, x=np.ones((2, 4), np.float32))


def test_lifts_constants_out_of_subgraphs() -> None:
    model = build(BRANCHES, normal(w=(4,)))
    network = read_network(model)
    assert set(network.weights) == {"w", "w2"}
    assert all(not graph.initializers for graph in network.graph.subgraphs())
    values = [value.name for node in network.graph.all_nodes() for value in node.outputs]
    assert len(values) == len(set(values)) == 4  # both branches had a "t"
    for choice in (True, False):
        outputs(model, x=np.ones((2, 4), np.float32), c=np.array(choice))


def test_detaches_initializers_that_are_outputs_of_a_subgraph() -> None:
    model = build(
        "(float[4] x, bool c) => (float[4] y) {"
        " y = If<then_branch = a () => (t) { t = Relu(x) }, else_branch = b () => (float[4] w) { }>(c) }",
    )
    model.graph.node[0].attribute[1].g.initializer.append(tensor("w", np.arange(4, dtype=np.float32)))
    assert list(read_network(model).weights) == ["w"]
    outputs(model, x=np.ones(4, np.float32), c=np.zeros((), np.bool_))


def test_writes_a_scaler_as_sub_and_mul() -> None:
    model = build(
        "(float[n,3] x) => (float[n,3] y) {"
        " s = ai.onnx.ml.Scaler<offset=[1.0,2.0,3.0], scale=[0.5,1.5,2.5]>(x)  y = Relu(s) }",
        domains={"ai.onnx.ml": 3},
    )
    network = read_network(model)
    assert [node.op_type for node in network.graph] == ["Sub", "Mul", "Relu"]
    assert [array.tolist() for array in network.weights.values()] == [[1, 2, 3], [0.5, 1.5, 2.5]]
    outputs(model, x=np.arange(6, dtype=np.float32).reshape(2, 3))


def test_sorts_names_and_drops_what_is_dead() -> None:
    model = build(MLP, {**normal(w=(4, 3)), "unused": np.ones(2, np.float32)})
    model.graph.node.reverse()
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [4, 3]))
    for node in model.graph.node:
        node.name = "same"
    network = read_network(model)
    assert [value.name for value in network.graph.inputs] == ["x"]
    assert [node.op_type for node in network.graph] == ["MatMul", "Relu"]
    assert {node.name for node in network.graph} == {"same", "same_1"}
    assert list(network.weights) == ["w"]


def test_keeps_omitted_outputs_without_a_name() -> None:
    model = build(
        "(float[t,1,3] x) => (float[1,1,2] y) { _, y = LSTM<hidden_size=2>(x, w, r) }", normal(w=(1, 8, 3), r=(1, 8, 2))
    )
    model.graph.node[0].output[0] = ""
    (node,) = read_network(model).graph
    assert [value.name for value in node.outputs] == ["", "y"]


def refuse(source: Path | onnx.ModelProto, pattern: str) -> None:
    with pytest.raises(InputError, match=pattern) as caught:
        read_network(source)
    assert "\n" not in str(caught.value)


def test_refuses_what_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    refuse(path, r"x\.onnx: does not exist")
    refuse(tmp_path, "is a directory")
    path.write_bytes(b"")
    refuse(path, "is empty")
    path.write_bytes(np.random.default_rng(0).bytes(4096))
    refuse(path, "not an ONNX model")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refuse(path, "Git LFS pointer")
    path.write_bytes(onnx.ModelProto(ir_version=8).SerializeToString())
    refuse(path, "no graph in it")


def test_refuses_every_cut_of_a_file(tmp_path: Path) -> None:
    path = saved(build(MLP, normal(w=(4, 3))), tmp_path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refuse(path, r"model\.onnx: ")


def test_refuses_versions_from_the_future() -> None:
    refuse(build(MLP, normal(w=(4, 3)), opset=999), "opset 999 is not one the installed onnx knows")
    refuse(build(MLP, normal(w=(4, 3)), ir_version=999), "IR version 999 is newer")


def test_refuses_broken_graphs() -> None:
    refuse(build(MLP), "node 'h' .* reads 'w', which nothing produces")
    refuse(build("(float[n] x) => (y) { a = Add(x, b)  b = Relu(a)  y = Neg(b) }"), "a cycle: node 'Add'")
    refuse(build("(float[n] x) => (y) { a = Relu(x) }"), "output 'y' is produced by no node")
    short = build(MLP, normal(w=(4, 3)))
    short.graph.initializer[0].raw_data = b"\0" * 40
    refuse(short, "'w' of shape .* needs 48 bytes but holds 40")
    short.graph.initializer[0].ClearField("raw_data")
    short.graph.initializer[0].float_data.extend([0.0] * 11)
    refuse(short, "'w'")


@pytest.mark.parametrize(
    ("entry", "value", "pattern"),
    [
        ("location", "gone.data", "does not exist"),
        ("location", "../model.data", "outside the model's folder"),
        ("location", "/etc/hosts", "outside the model's folder"),
        ("offset", "9999", "cut off or belongs to another model"),
        ("offset", "-1", "no usable offset and length"),
        ("length", "12", "cut off or belongs to another model"),
        ("length", "many", "no usable offset and length"),
    ],
)
def test_refuses_bad_external_data(tmp_path: Path, entry: str, value: str, pattern: str) -> None:
    path = tmp_path / "model.onnx"
    model = build(MLP, normal(w=(4, 3)))
    onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
    (tmp_path.parent / "model.data").write_bytes(b"\0" * 48)
    model = onnx.load(path, load_external_data=False)
    kept = [item for item in model.graph.initializer[0].external_data if item.key != entry]
    del model.graph.initializer[0].external_data[:]
    model.graph.initializer[0].external_data.extend([*kept, onnx.StringStringEntryProto(key=entry, value=value)])
    path.write_bytes(model.SerializeToString())
    refuse(path, pattern)


@pytest.mark.parametrize("dtype", [np.int8, np.int64])
def test_small_integers_may_lie_in_a_data_file(tmp_path: Path, dtype: type) -> None:
    model = build(
        "(float[n,6] x) => (float[n,4] y) { c = Cast<to=1>(w) y = MatMul(x, c) }", {"w": np.ones((6, 4), dtype)}
    )
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="d", size_threshold=0)
    np.testing.assert_array_equal(read_network(tmp_path / "m.onnx").weights["w"], np.ones((6, 4)))


def test_refuses_external_data_behind_a_link(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    onnx.save(
        build(MLP, normal(w=(4, 3))), inside / "model.onnx", save_as_external_data=True, location="d", size_threshold=0
    )
    (inside / "d").rename(tmp_path / "d")
    (inside / "d").symlink_to(tmp_path / "d")
    refuse(inside / "model.onnx", "outside the model's folder")
