"""Files that are no models, and models whose tensors, versions or names are not what they must be."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest

from onnxmerge.errors import InputError, StructureError
from onnxmerge.model import pair, read_network
from tests.attacks.attack import Attack, attacks
from tests.command_line import Cli
from tests.graphs import build, normal, tensor

MLP = "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w)  g = Relu(h)  y = MatMul(g, v) }"
FLOAT = onnx.TensorProto.FLOAT


def mlp() -> onnx.ModelProto:
    return build(MLP, normal(w=(4, 8), v=(8, 3)))


def _inspected(change: Callable[[onnx.ModelProto], object]) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        model = mlp()
        change(model)
        (folder / "a.onnx").write_bytes(model.SerializeToString())
        return ["inspect", "a.onnx"]

    return write


def _file(prepare: Callable[[Path], object]) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        prepare(folder / "a.onnx")
        return ["inspect", "a.onnx"]

    return write


def _sparse(path: Path, size: int) -> None:
    path.touch()
    os.truncate(path, size)


def _nested(depth: int) -> bytes:
    """A model with graphs inside graphs, written by hand: protobuf writes no deeper than it reads."""
    data = b""
    for _ in range(depth):
        for tag in (b"\x32", b"\x2a", b"\x0a"):  # AttributeProto.g, NodeProto.attribute, GraphProto.node
            data = tag + _varint(len(data)) + data
    return b"\x08\x0a\x42\x02\x10\x15\x3a" + _varint(len(data)) + data


def _varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


@attacks(
    Attack("pipe", _file(os.mkfifo), says=("not a regular file",)),
    Attack("device", _file(lambda path: path.symlink_to("/dev/zero")), says=("not a regular file",)),
    Attack("link to itself", _file(lambda path: path.symlink_to("a.onnx")), says=("a.onnx",)),
    Attack("zeros", _file(lambda path: _sparse(path, 4096)), says=("is not an ONNX model",)),
    Attack("deep nesting", _file(lambda path: path.write_bytes(_nested(5000))), says=("a.onnx",)),
    Attack("nesting as deep as read", _file(lambda path: path.write_bytes(_nested(30))), says=("a.onnx",)),
    Attack("twice over", _file(lambda path: path.write_bytes(mlp().SerializeToString() * 2)), says=("twice",)),
)
def test_files(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


@pytest.mark.parametrize("size", [2**31, 2**42])
def test_files_larger_than_protobuf_reads(size: int, tmp_path: Path, cli: Cli) -> None:
    """They are refused by their size: what lies in them (here nothing, on no disk space) is not loaded."""
    _sparse(tmp_path / "a.onnx", size)
    ended = cli("inspect", "a.onnx")
    assert ended.returncode == 1
    assert "larger than 2 GB" in ended.stderr
    assert "external data" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("path", ["a\0.onnx", "b/\0/../a.onnx"])
def test_paths_that_hold_a_nul(path: str) -> None:
    with pytest.raises(InputError, match="NUL"):
        read_network(path)


# --- versions ---------------------------------------------------------------------------------------------------------


def _opset(model: onnx.ModelProto, domain: str, version: int) -> None:
    model.opset_import.add(domain=domain, version=version)


def _ir(version: int) -> Callable[[Path], list[str]]:
    return _inspected(lambda model: setattr(model, "ir_version", version))


@attacks(
    *(Attack(f"ir {version}", _ir(version), says=(f"IR version {version}",)) for version in (-1, 0, 1, 2, 2**40)),
    Attack("ir 3", _ir(3), exit_code=0),
    Attack("no ir", _inspected(lambda model: model.ClearField("ir_version")), says=("IR version 0",)),
    Attack("opset twice", _inspected(lambda model: _opset(model, "", 13)), says=("'ai.onnx' twice",)),
    Attack("opset by both names", _inspected(lambda model: _opset(model, "ai.onnx", 21)), says=("'ai.onnx' twice",)),
    Attack("negative", _inspected(lambda model: setattr(model.opset_import[0], "version", -5)), says=("opset -5",)),
    Attack("huge, of another", _inspected(lambda model: _opset(model, "other", 2**62)), says=("not valid",)),
    Attack("other domain alone", _inspected(lambda model: setattr(model.opset_import[0], "domain", "x")), says=("''",)),
)
def test_versions(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


# --- tensors ----------------------------------------------------------------------------------------------------------


def _held(change: Callable[[onnx.TensorProto], object]) -> Callable[[Path], list[str]]:
    """An initializer whose data is changed; ``_emptied`` has none before."""
    return _inspected(lambda model: change(model.graph.initializer[0]))


def _emptied(field: str, *values: object) -> Callable[[Path], list[str]]:
    def change(held: onnx.TensorProto) -> None:
        held.ClearField("raw_data")
        getattr(held, field).extend(values * 32)

    return _held(change)


WRONG = ("initializer 'w'", "where it cannot be")


@attacks(
    Attack("uint64 in a float", _emptied("uint64_data", 1), says=(*WRONG, "uint64_data")),
    Attack("int32 in a float", _emptied("int32_data", 1), says=(*WRONG, "int32_data")),
    Attack("double in a float", _emptied("double_data", 1.0), says=(*WRONG, "double_data")),
    Attack("strings in a float", _emptied("string_data", b"a"), says=(*WRONG, "string_data")),
    Attack("both", _held(lambda held: held.float_data.append(1.0)), says=WRONG),
    Attack("raw strings", _held(lambda held: setattr(held, "data_type", 8)), says=("initializer 'w'", "strings")),
    Attack("segments", _held(lambda held: setattr(held.segment, "begin", 3)), says=(*WRONG, "segments")),
    Attack("too little", _held(lambda held: setattr(held, "raw_data", b"1234")), says=("needs 128 bytes but holds 4",)),
    Attack("nothing", _held(lambda held: held.ClearField("raw_data")), says=("needs 32 elements but holds 0",)),
    Attack("no type", _held(lambda held: held.ClearField("data_type")), says=("which no tensor has",)),
    Attack("huge", _held(lambda held: held.dims.extend([2**62, 2**62])), says=("which no tensor has",)),
    Attack("huge but empty", _held(lambda held: held.dims.extend([2**62, 2**62, 0])), says=("which no tensor has",)),
    Attack("negative", _held(lambda held: held.dims.extend([-1])), says=("which no tensor has",)),
    Attack("many axes", _held(lambda held: held.dims.extend([1] * 10_000)), says=("which no tensor has",)),
    Attack("of floats", _emptied("float_data", 1.0), exit_code=0),
)
def test_tensors(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


def test_string_initializers_are_read_merged_and_written(tmp_path: Path, cli: Cli) -> None:
    for name, seed in {"a": 0, "b": 1}.items():
        model = build(MLP, normal(w=(4, 8), v=(8, 3), seed=seed))
        model.graph.initializer.append(
            onnx.numpy_helper.from_array(np.array(["cat", "d\u00f6g"], dtype=object), "names")
        )
        model.graph.node.append(onnx.helper.make_node("Identity", ["names"], ["classes"]))
        model.graph.output.append(onnx.helper.make_tensor_value_info("classes", onnx.TensorProto.STRING, [2]))
        onnx.save(model, tmp_path / f"{name}.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32))
    ended = cli("run", "a.onnx", "b.onnx", "--calib", "x.npy", "-o", "m.onnx")
    assert ended.returncode == 0, ended.stderr
    (written,) = [each for each in onnx.load(tmp_path / "m.onnx").graph.initializer if each.name == "names"]
    assert [each.decode() for each in written.string_data] == ["cat", "d\u00f6g"]


def test_string_initializers_must_be_equal() -> None:
    models = []
    for word in ("cat", "dog"):
        model = mlp()
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([word], dtype=object), "names"))
        model.graph.node.append(onnx.helper.make_node("Identity", ["names"], ["classes"]))
        model.graph.output.append(onnx.helper.make_tensor_value_info("classes", onnx.TensorProto.STRING, [1]))
        models.append(model)
    with pytest.raises(StructureError, match="differ"):
        pair([read_network(model) for model in models])


# --- names ------------------------------------------------------------------------------------------------------------

BYTES = b"\xc7\xe9\xff\x80"
"""No UTF-8."""


def _renamed(name: str) -> onnx.ModelProto:
    """The model with a name in every place that has one."""
    model = mlp()
    for node in model.graph.node:
        node.name = name + node.op_type
        node.doc_string = name
        node.metadata_props.add(key=name, value=name)
        for names in (node.input, node.output):
            names[:] = [name + each for each in names]
    for each in (*model.graph.initializer, *model.graph.input, *model.graph.output):
        each.name = name + each.name
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = name
    model.graph.doc_string = model.producer_name = model.domain = model.graph.name = name
    model.metadata_props.add(key=name, value=name)
    model.graph.quantization_annotation.add(tensor_name=name).quant_parameter_tensor_names.add(key=name, value=name)
    return model


def _bytes() -> bytes:
    written: bytes = _renamed("QQQQ").SerializeToString()
    return written.replace(b"QQQQ", BYTES)


def test_names_that_are_not_utf_8_become_escapes(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "a.onnx").write_bytes(_bytes())
    ended = cli("run", "a.onnx", "a.onnx", "--method", "rebasin", "-o", "m.onnx")
    assert ended.returncode == 0, ended.stderr
    written = onnx.load(tmp_path / "m.onnx")
    assert written.graph.input[0].name == r"\xc7\xe9\xff\x80x"
    assert written.graph.initializer[0].name == r"\xc7\xe9\xff\x80w"


def _named(content: Callable[[], bytes], *command: str) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        (folder / "a.onnx").write_bytes(content())
        return [*command, "a.onnx"]

    return write


def _fails(name: str) -> Callable[[], bytes]:
    """A model that is refused by a message that says the name."""

    def content() -> bytes:
        model = _renamed(name)
        del model.graph.initializer[0]
        written: bytes = model.SerializeToString()
        return written

    return content


TERMINALS: tuple[dict[str, str], ...] = (
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "ascii"},
)


@attacks(
    Attack("control codes", _named(lambda: _renamed("\x1b[2J\x00\r\n\u202e").SerializeToString(), "inspect"), 0),
    Attack("control codes in a message", _named(_fails("\x1b[2J\x00\r\n\u202e"), "inspect"), says=(r"\x1b[2J",)),
    Attack("a hundred thousand letters", _named(lambda: _renamed("q" * 10**5).SerializeToString(), "inspect"), 0),
    Attack(
        "a hundred thousand letters in a message", _named(_fails("q" * 10**5), "inspect"), says=("nothing produces",)
    ),
    Attack("bytes", _named(_bytes, "inspect", "--certify", "--all"), 0, says=(r"\xc7\xe9\xff\x80",)),
    *(
        Attack(
            f"khmer on terminal {number}",
            _named(lambda: _renamed("\u1797\u17b6").SerializeToString(), "inspect", "--all"),
            exit_code=0,
            apart=True,
            environment=environment,
        )
        for number, environment in enumerate(TERMINALS)
    ),
    Attack("khmer in a message", _named(_fails("\u1797\u17b6"), "inspect"), apart=True, environment=TERMINALS[1]),
)
def test_names(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


def _metadata(key: str, value: str) -> Callable[[onnx.ModelProto], object]:
    return lambda model: model.metadata_props.add(key=key, value=value)


@attacks(
    Attack("huge", _inspected(_metadata("k" * 10**5, "v" * 10**7)), exit_code=0),
    Attack("control codes", _inspected(_metadata("\x1b[2J", "\x00\x1b")), exit_code=0),
    Attack("no key", _inspected(_metadata("", "v")), exit_code=0),
)
def test_metadata(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


def test_a_declared_initializer_must_be_what_it_is_declared() -> None:
    for kind in ("input", "value_info"):
        for dtype, dims in ((FLOAT, [5, 5]), (FLOAT, [4]), (onnx.TensorProto.INT64, [4, 8])):
            model = mlp()
            getattr(model.graph, kind).append(onnx.helper.make_tensor_value_info("w", dtype, dims))
            with pytest.raises(InputError, match=r"initializer 'w' is FLOAT.*but declared as"):
                read_network(model)
    model = mlp()
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", FLOAT, ["a", 8]))
    assert read_network(model).graph.initializers["w"].shape == (4, 8)


def test_tensors_may_be_named_alike_in_different_graphs() -> None:
    """What is refused is one name for two things in one graph."""
    model = build(
        "(float[n,4] x, bool c) => (float[n,4] y) { y = If<"
        "then_branch = a () => (float[n,4] t) { t = Mul(x, w) }, else_branch = b () => (float[n,4] t) { t = Add(x, w) }"
        ">(c) }",
        check=False,
    )
    for attribute in model.graph.node[0].attribute:
        attribute.g.initializer.append(tensor("w", np.ones(4, np.float32)))
    assert set(read_network(model).weights) == {"w", "w_1"}
