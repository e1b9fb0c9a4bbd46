"""Graphs that ONNX does not allow: the first command that reads them says so, whatever it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.parser
import pytest

from onnxmerge.model import open_session, read_network
from tests.attacks.attack import Attack, attacks
from tests.command_line import Cli
from tests.graphs import build, normal, tensor

MLP = "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w)  g = Relu(h)  y = MatMul(g, v) }"
SOFTMAX = "(float[n,4] x) => (float[n,4] y) { y = Softmax<axis=1>(x) }"
BRANCHES = """(float[n,4] x, bool c) => (float[n,4] y) { y = If<
    then_branch = a () => (float[n,4] t) { t = Relu(x) }, else_branch = b () => (float[n,4] e) { e = Neg(x) } >(c) }"""
LOOP = """(float[n,4] x, int64 t, bool c) => (float[n,4] y) { y = Loop<body = a (int64 i, bool b, float[n,4] s) =>
    (bool going, float[n,4] after) { going = Identity(b)  after = Relu(s) }>(t, c, x) }"""
SCAN = """(float[n,4] x, float[4] s0) => (float[4] sf, float[n,4] y) { sf, y = Scan<num_scan_inputs=1,
    body = a (float[4] s, float[4] xi) => (float[4] so, float[4] yo) { so = Add(s, xi)  yo = Relu(so) }>(s0, x) }"""
FUNCTION = """<ir_version: 10, opset_import: ["": 21, "my": 1]>
    g (float[n,4] x) => (float[n,4] y) { y = my.f(x) }
    <domain: "my", opset_import: ["": 21, "my": 1]> f (a) => (c) { c = Relu(a) }"""
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64

Change = Callable[[onnx.ModelProto], object]


def parsed(text: str) -> onnx.ModelProto:
    if text.startswith("<"):
        return onnx.parser.parse_model(text)
    return build(text, normal(w=(4, 8), v=(8, 3)) if "w)" in text else None, check=False)


def case(name: str, text: str, change: Change, *says: str, exit_code: int = 1) -> Attack:
    def write(folder: Path) -> list[str]:
        model = parsed(text)
        change(model)
        (folder / "a.onnx").write_bytes(model.SerializeToString())
        return ["inspect", "a.onnx"]

    return Attack(name, write, exit_code, says)


def _retyped(dtype: int, model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = dtype


def info(name: str, dtype: int = FLOAT, dims: list[int] | None = None) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, dtype, dims)


def node(operator: str, reads: str, gives: str, **attributes: Any) -> onnx.NodeProto:
    return onnx.helper.make_node(operator, reads.split(), gives.split(), **attributes)


def unchanged(model: onnx.ModelProto) -> None:
    """As it was parsed."""


def set_attribute(index: int, name: str, value: object) -> Change:
    """Another value, and with it another type, for the attribute of a name."""

    def change(model: onnx.ModelProto) -> None:
        attributes = model.graph.node[index].attribute
        kept = [copy.deepcopy(each) for each in attributes if each.name != name]
        del attributes[:]
        attributes.extend([*kept, onnx.helper.make_attribute(name, value)])

    return change


def without(index: int, name: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        attributes = model.graph.node[index].attribute
        kept = [copy.deepcopy(each) for each in attributes if each.name != name]
        del attributes[:]
        attributes.extend(kept)

    return change


def body(change: Callable[[onnx.GraphProto], object]) -> Change:
    """A change of the first body of the first node."""
    return lambda model: change(
        next(each.g for each in model.graph.node[0].attribute if each.type == onnx.AttributeProto.GRAPH)
    )


def each_named(name: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        for each in model.graph.node:
            each.name = name

    return change


def clear(*path: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        found = model.graph
        for step in path[:-1]:
            found = getattr(found, step)[0]
        found.ClearField(path[-1])

    return change


@attacks(
    case("no changes", MLP, unchanged, exit_code=0),
    *(
        case(f"input of {name}", MLP, partial(_retyped, dtype), "declares no type" if not dtype else "a.onnx: ")
        for name, dtype in onnx.TensorProto.DataType.items()
        if dtype not in (FLOAT, onnx.TensorProto.BFLOAT16)  # types that ONNX Runtime can be fed here
    ),
    case("initializer twice", MLP, lambda m: m.graph.initializer.append(m.graph.initializer[0]), "initializer 'w' twi"),
    case("input twice", MLP, lambda m: m.graph.input.append(m.graph.input[0]), "input 'x' twice"),
    case("output twice", MLP, lambda m: m.graph.output.append(m.graph.output[0]), "output 'y' twice"),
    case("value twice", MLP, lambda m: m.graph.node.append(node("Relu", "x", "h")), "'h', which comes from node 'h'"),
    case("input given again", MLP, lambda m: m.graph.node.append(node("Relu", "h", "x")), "'x', which is an input"),
    case("weight given again", MLP, lambda m: m.graph.node.append(node("Relu", "h", "w")), "'w', which is an input"),
    case("nodes named alike", MLP, each_named("a"), exit_code=0),
    case("nodes without names", MLP, each_named(""), exit_code=0),
    case("initializer without name", MLP, lambda m: m.graph.initializer.append(tensor("", [1.0])), "has no name"),
    case("input without name", MLP, lambda m: m.graph.input.append(info("")), "has no name"),
    case("output without name", MLP, lambda m: m.graph.output.append(info("")), "has no name"),
    case("output of nothing", MLP, lambda m: m.graph.output.append(info("z")), "'z' is produced by no node"),
    case("no outputs", MLP, clear("output"), "no output"),
    case("reads nothing", MLP, lambda m: m.graph.node.append(node("Relu", "q", "z")), "'q', which nothing produces"),
    case("cycle", "(float[n] x) => (y) { a = Add(x, b)  b = Relu(a)  y = Neg(b) }", unchanged, "cycle"),
    case("reads itself", "(float[n] x) => (y) { y = Add(x, y) }", unchanged, "has a cycle"),
    case("no operator", MLP, clear("node", "op_type"), "has no operator"),
    case("unknown operator", MLP, lambda m: setattr(m.graph.node[1], "op_type", "What"), "What"),
    case("long operator", MLP, lambda m: setattr(m.graph.node[1], "op_type", "Q" * 10**5), "QQQ"),
    case("unknown domain", MLP, lambda m: setattr(m.graph.node[1], "domain", "who.knows"), "who.knows"),
    case("too many operands", MLP, lambda m: m.graph.node[0].input.append("v"), "not valid", "h"),
    case("too few operands", MLP, lambda m: m.graph.node[0].input.pop(), "not valid"),
    case("too many results", MLP, lambda m: m.graph.node[0].output.append("z"), "not valid"),
    case("operand left out", MLP, lambda m: m.graph.node[0].input.__setitem__(1, ""), "a.onnx"),
)
def test_names_and_edges(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


def _declared(dtype: int, dims: list[int]) -> Change:
    return lambda m: m.graph.value_info.append(info("h", dtype, dims))


def _output(dtype: int, dims: list[int]) -> Change:
    return lambda m: m.graph.output[0].CopyFrom(info("y", dtype, dims))


CONTRADICTION = "what is declared is not what is computed"


@attacks(
    case("value of another shape", MLP, _declared(FLOAT, [7, 7]), CONTRADICTION, "(8) vs (7)"),
    case("value of another rank", MLP, _declared(FLOAT, [7, 8, 1]), CONTRADICTION),
    case("value of another type", MLP, _declared(INT64, [7, 8]), "int64"),
    case("output of another shape", MLP, _output(FLOAT, [2, 9]), CONTRADICTION),
    case("output of another rank", MLP, _output(FLOAT, [2, 3, 1]), CONTRADICTION),
    case("output of another type", MLP, _output(INT64, [2, 3]), CONTRADICTION),
    case("what is declared is right", MLP, _declared(FLOAT, [2, 8]), exit_code=0),
    case("output without shape", MLP, lambda m: m.graph.output[0].type.tensor_type.ClearField("shape"), exit_code=0),
    case("output without type", MLP, lambda m: m.graph.output[0].ClearField("type"), exit_code=0),
    case("input without type", MLP, clear("input", "type"), "a.onnx"),
    case("input of an unknown type", MLP, lambda m: m.graph.input[0].CopyFrom(info("x", 99, [2, 4])), "a.onnx"),
)
def test_declared_shapes(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


def _typeless(m: onnx.ModelProto) -> None:
    m.graph.node[0].attribute[0].ClearField("type")


def _valueless(kind: int) -> Change:
    return lambda m: m.graph.node[1].attribute.add(name="a", type=kind)


def _on_a_nameless_device(m: onnx.ModelProto) -> None:
    m.ir_version = 11  # the first that has devices
    m.graph.node[0].device_configurations.add()


def _referring(kind: int) -> Change:
    return lambda m: m.graph.node[1].attribute.add(name="a", type=kind, ref_attr_name="b")


@attacks(
    case("of another type", SOFTMAX, set_attribute(0, "axis", "one"), "axis"),
    case("of a list", SOFTMAX, set_attribute(0, "axis", [1]), "axis"),
    case("of a float", SOFTMAX, set_attribute(0, "axis", 1.0), "axis"),
    case("without type", SOFTMAX, _typeless, "'axis'", "no type"),
    case("twice", SOFTMAX, lambda m: m.graph.node[0].attribute.append(m.graph.node[0].attribute[0]), "'axis' twice"),
    case("without name", SOFTMAX, set_attribute(0, "", 1), "a.onnx"),
    case("unknown", MLP, set_attribute(1, "what", 1), "what"),
    case("tensor without value", MLP, _valueless(onnx.AttributeProto.TENSOR), "'a'", "has no value"),
    case("graph without value", MLP, _valueless(onnx.AttributeProto.GRAPH), "'a'", "has no value"),
    case("type without value", MLP, _valueless(onnx.AttributeProto.TYPE_PROTO), "'a'", "has no value"),
    case("sparse without value", MLP, _valueless(onnx.AttributeProto.SPARSE_TENSOR), "'a'", "has no value"),
    case("number of no function", MLP, _referring(onnx.AttributeProto.INT), "'a'", "stands in none"),
    case("graph of no function", MLP, _referring(onnx.AttributeProto.GRAPH), "'a'", "stands in none"),
    case("graph where none is read", MLP, set_attribute(1, "g", onnx.GraphProto(name="g")), "a.onnx"),
    case(
        "constant of two",
        MLP,
        lambda m: m.graph.node.append(node("Constant", "", "c", value_int=1, value_float=1.0)),
        "2 attributes",
    ),
    case("constant of none", MLP, lambda m: m.graph.node.append(node("Constant", "", "c")), "0 attributes"),
    case("constant for nobody", MLP, lambda m: m.graph.node.append(node("Constant", "", "", value_int=1)), "0 outputs"),
    case("device without name", MLP, _on_a_nameless_device, "cannot be written"),
    case("huge", SOFTMAX, set_attribute(0, "axis", 2**63 - 1), "which it cannot be"),
    case("most negative", SOFTMAX, set_attribute(0, "axis", -(2**63)), "which it cannot be"),
)
def test_attributes(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


@attacks(
    case("branches of two and one", BRANCHES, body(lambda g: g.output.append(g.output[0])), "numbers of outputs"),
    case("branch of none", BRANCHES, body(lambda g: g.ClearField("output")), "gives 0"),
    case("no else", BRANCHES, without(0, "else_branch"), "else_branch"),
    case("a number for a branch", BRANCHES, set_attribute(0, "then_branch", 3), "then_branch"),
    case("branch with inputs", BRANCHES, body(lambda g: g.input.append(info("q"))), "a.onnx"),
    case("branch reads nothing", BRANCHES, body(lambda g: g.node[0].input.__setitem__(0, "q")), "nothing produces"),
    case("branch gives nothing", BRANCHES, body(lambda g: setattr(g.output[0], "name", "q")), "produced by no node"),
    case("branch gives what is outside", BRANCHES, body(lambda g: setattr(g.output[0], "name", "x")), "by no node"),
    case("no condition", BRANCHES, lambda m: m.graph.node[0].input.pop(), "a.onnx"),
    case("more than the branches", BRANCHES, lambda m: m.graph.node[0].output.append("z"), "a.onnx"),
    case("read from outside", BRANCHES, lambda m: m.graph.node.append(node("Relu", "t", "z")), "nothing produces"),
    case("body of too few", LOOP, body(lambda g: g.input.pop()), "takes 2"),
    case("body of none", LOOP, body(lambda g: g.ClearField("output")), "a.onnx"),
    case("no body", LOOP, without(0, "body"), "body"),
    case("numbers for a body", LOOP, set_attribute(0, "body", [1.0, 2.0]), "'body'"),
    case("more than the body", LOOP, lambda m: m.graph.node[0].output.append("z"), "a.onnx"),
    case("more states", LOOP, lambda m: m.graph.node[0].input.append("x"), "a.onnx"),
    case("no trips", LOOP, lambda m: m.graph.node[0].ClearField("input"), "a.onnx"),
    *(
        case(f"scan of {count}", SCAN, set_attribute(0, "num_scan_inputs", count), "a.onnx")
        for count in (0, 2, -1, 2**62, -(2**63))
    ),
    case("scan without count", SCAN, without(0, "num_scan_inputs"), "num_scan_inputs"),
    case("scan along nothing", SCAN, set_attribute(0, "scan_input_axes", [7]), "a.onnx"),
    case("scan of too many axes", SCAN, set_attribute(0, "scan_output_axes", [0, 0, 0]), "a.onnx"),
    case("scan body of one", SCAN, body(lambda g: g.output.pop()), "a.onnx"),
)
def test_bodies(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


def _calls(*names: str) -> Change:
    """Functions that call each other, in this order and round again."""

    def change(model: onnx.ModelProto) -> None:
        first = copy.deepcopy(model.functions[0])
        del model.functions[:]
        for name, called in zip(names, (*names[1:], names[0]), strict=True):
            made = copy.deepcopy(first)
            made.name, made.node[0].op_type, made.node[0].domain = name, called, "my"
            model.functions.append(made)

    return change


def _function(change: Callable[[onnx.FunctionProto], object]) -> Change:
    return lambda model: change(model.functions[0])


@attacks(
    case("no changes", FUNCTION, unchanged, exit_code=0),
    case("calls itself", FUNCTION, _calls("f"), "circle"),
    case("call each other", FUNCTION, _calls("f", "g"), "circle"),
    case("a long ring", FUNCTION, _calls("f", *(f"f{n}" for n in range(2000))), "a.onnx"),
    case("no body", FUNCTION, _function(lambda f: f.ClearField("node")), "nothing produces its output 'c'"),
    case("no outputs", FUNCTION, _function(lambda f: f.ClearField("output")), "a.onnx"),
    case("no name", FUNCTION, _function(lambda f: f.ClearField("name")), "has no name"),
    case("twice", FUNCTION, lambda m: m.functions.append(m.functions[0]), "'my.f.' twice"),
    case("reads nothing", FUNCTION, _function(lambda f: f.node[0].input.__setitem__(0, "q")), "nothing produces"),
    case("value twice", FUNCTION, _function(lambda f: f.node.append(node("Neg", "a", "c"))), "'c', which comes from"),
    case("other opset", FUNCTION, _function(lambda f: setattr(f.opset_import[0], "version", 13)), "pset"),
    case("too many operands", FUNCTION, lambda m: m.graph.node[0].input.extend(["x", "x"]), "a.onnx"),
    case("too few operands", FUNCTION, lambda m: m.graph.node[0].ClearField("input"), "a.onnx"),
    case("too many results", FUNCTION, lambda m: m.graph.node[0].output.append("z"), "a.onnx"),
    case("there is none", FUNCTION, lambda m: m.ClearField("functions"), "my"),
)
def test_functions(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


def test_a_call_may_leave_outputs_out() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21, "my": 1]> g (float[n,4] x) => (float[n,4] y) { y = my.f(x) }'
        '<domain: "my", opset_import: ["": 21]> f (a) => (c, d) { c = Relu(a)  d = Neg(a) }'
    )
    found = open_session(read_network(model).model).run({"x": np.full((1, 4), -1, np.float32)})
    assert found["y"].tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("command", ["inspect", "permute", "run"])
def test_every_command_refuses_what_the_last_would(command: str, tmp_path: Path, cli: Cli) -> None:
    model = parsed(MLP)
    model.opset_import[0].domain = "ai.onnx.ml"
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    rest = {"inspect": [], "permute": ["-o", "m.onnx"], "run": ["a.onnx", "--method", "average", "-o", "m.onnx"]}
    ended = cli(command, "a.onnx", *rest[command])
    assert ended.returncode == 1
    assert "No opset import for domain ''" in ended.stderr
    assert "nothing was written" not in ended.stderr


CYCLE = "(float[n,4] x) => (y) { a = Add(x, c)  b = Relu(a)  c = Neg(b)  y = Abs(c) }"
INNER_CYCLE = """(float[n,4] x, bool c) => (float[n,4] y) { y = If<
    then_branch = a () => (float[n,4] t) { t = Add(x, u)  u = Neg(t) },
    else_branch = b () => (float[n,4] e) { e = Neg(x) } >(c) }"""
CAPTURED_CYCLE = """(float[n,4] x, bool c) => (float[n,4] z) { y = If<
    then_branch = a () => (float[n,4] t) { t = Add(x, z) }, else_branch = b () => (float[n,4] e) { e = Neg(x) } >(c)
    z = Relu(y) }"""


def _sparse_constant(model: onnx.ModelProto) -> None:
    value = onnx.SparseTensorProto(values=_ONE, indices=onnx.helper.make_tensor("", INT64, [1], [0]), dims=[4])
    model.graph.node.insert(0, onnx.helper.make_node("Constant", [], ["k"], name="kept", sparse_value=value))


@attacks(
    case("a cycle", CYCLE, unchanged, "cycle: node 'Add' (Add)", "by way of node 'Relu' (Relu)"),
    case("a cycle in a branch", INNER_CYCLE, unchanged, "reads what follows from its own results"),
    case("a cycle by way of a branch", CAPTURED_CYCLE, unchanged, "reads what follows from its own results"),
    case("a sparse constant", MLP, _sparse_constant, "attribute 'sparse_value' of node 'kept' (Constant) is sparse"),
)
def test_what_is_wrong_is_named(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


GATHER = "(float[n,4] x, int64[1,1] i) => (y) { y = GatherND<batch_dims=0>(x, i) }"
SPREAD = "(float[1,4,2,2] x) => (y) { y = DepthToSpace<blocksize=2>(x) }"
ONE_HOT = "(int64[n] x) => (y) { y = OneHot(x, depth, values) }"


SPLIT = "(float[n,4] x) => (y, z) { y, z = Split<axis=1, num_outputs=2>(x) }"
UNTYPED = "(float[n,4] x) => (z) { y = Unknown(x)  z = Neg(y) }"
"""Unknown is no operator: what the second node reads has no type."""
_ONE = onnx.helper.make_tensor("", FLOAT, [1], [1])
TREE = {
    "nodes_featureids": [0], "nodes_splits": _ONE, "nodes_modes": onnx.helper.make_tensor("", 2, [1], [0]),
    "nodes_truenodeids": [0], "nodes_falsenodeids": [0], "nodes_trueleafs": [1], "nodes_falseleafs": [1],
    "leaf_targetids": [0], "leaf_weights": _ONE, "tree_roots": [0],
}  # fmt: skip


def _other_operator(domain: str, operator: str, **attributes: Any) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 4 if operator == "LabelEncoder" else 5))
        changed = node(operator, "y", "z", domain=domain, **attributes)
        model.graph.node[1].CopyFrom(changed)

    return change


def _empty_depth(model: onnx.ModelProto) -> None:
    model.graph.initializer.extend([tensor("depth", np.zeros(0, np.int64)), tensor("values", [0.0, 1.0])])


@attacks(
    case("batch before the first", GATHER, set_attribute(0, "batch_dims", -1), "'batch_dims' is -1"),
    case("a block without end", SPREAD, set_attribute(0, "blocksize", 2**62), "'blocksize' is"),
    case("a block of nothing", SPREAD, set_attribute(0, "blocksize", 0), "'blocksize' is 0"),
    case("more batches than axes", GATHER, set_attribute(0, "batch_dims", 2**31 - 1), "'batch_dims' is 2147483647"),
    case("fewer parts than outputs", SPLIT, set_attribute(0, "num_outputs", 1), "2 outputs", "'num_outputs' is 1"),
    *(
        case(f"{operator} of no type", UNTYPED, _other_operator(domain, operator, **attributes), "a.onnx")
        for domain, operator, attributes in (
            ("", "EyeLike", {}),
            ("", "RegexFullMatch", {"pattern": "a"}),
            ("ai.onnx.ml", "DictVectorizer", {"int64_vocabulary": [1]}),
            ("ai.onnx.ml", "LabelEncoder", {"keys_int64s": [1], "values_int64s": [2]}),
            ("ai.onnx.ml", "TreeEnsemble", TREE),
        )
    ),
    case("a depth that is empty", ONE_HOT, _empty_depth, "'depth', which is empty"),
)
def test_what_native_code_does_not_survive(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    """Without the check these end the process."""
    attack.check(tmp_path, cli)


def test_strings_that_declare_no_rank_are_written(tmp_path: Path, cli: Cli) -> None:
    model = parsed(MLP)
    model.graph.node.append(node("Constant", "", "c", value_strings=["cat", "dog"]))
    model.graph.node.append(node("Identity", "c", "classes"))
    model.graph.output.append(info("classes", onnx.TensorProto.STRING))
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    ended = cli("permute", "a.onnx", "-o", "m.onnx")
    assert ended.returncode == 0, ended.stderr
