"""Models whose tensors lie in other files: what lies in the model's own folder may be read, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.helper
import onnx.parser
import onnx_ir as ir
import pytest

import onnxmerge
from onnxmerge.errors import InputError
from onnxmerge.model import read_network
from tests.attacks.attack import Attack, attacks
from tests.command_line import Cli
from tests.graphs import build, initializers, normal

MLP = "(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w)  g = Relu(h)  y = MatMul(g, v) }"
SECRET = np.full(8, 0.5, np.float32).tobytes()
"""What lies where no model may read it; as floats it would pass for weights."""
OUTSIDE = "outside the model's folder"

Placed = Callable[[onnx.ModelProto, onnx.TensorProto], None]


def outside(name: str, location: str, dims: Sequence[int] = (8,)) -> onnx.TensorProto:
    """A tensor of floats that is kept in a file."""
    made = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=dims)
    made.data_location = onnx.TensorProto.EXTERNAL
    made.external_data.add(key="location", value=location)
    return made


def mlp(seed: int = 0) -> onnx.ModelProto:
    return build(MLP, normal(w=(4, 8), v=(8, 3), seed=seed))


def _initializer(model: onnx.ModelProto, kept: onnx.TensorProto) -> None:
    model.graph.initializer.append(kept)


def _constant(model: onnx.ModelProto, kept: onnx.TensorProto) -> None:
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["c"], value=kept))


def _branch(model: onnx.ModelProto, kept: onnx.TensorProto, *, initializer: bool = False) -> None:
    body = onnx.GraphProto(name="body")
    if initializer:
        body.initializer.append(kept)
    else:
        body.node.append(onnx.helper.make_node("Constant", [], ["c"], value=kept))
    model.graph.node.append(onnx.helper.make_node("If", ["x"], [], then_branch=body, else_branch=body))


def _branch_initializer(model: onnx.ModelProto, kept: onnx.TensorProto) -> None:
    _branch(model, kept, initializer=True)


def _function(model: onnx.ModelProto) -> onnx.FunctionProto:
    model.opset_import.add(domain="my", version=1)
    made: onnx.FunctionProto = model.functions.add(domain="my", name="f")
    made.opset_import.add(domain="", version=21)
    return made


def _in_function(model: onnx.ModelProto, kept: onnx.TensorProto) -> None:
    _function(model).node.append(onnx.helper.make_node("Constant", [], ["c"], value=kept))


def _default(model: onnx.ModelProto, kept: onnx.TensorProto) -> None:
    _function(model).attribute_proto.append(onnx.helper.make_attribute("value", kept))


def _tensors(model: onnx.ModelProto, kept: onnx.TensorProto) -> None:
    attribute = model.graph.node[1].attribute.add(name="many", type=onnx.AttributeProto.TENSORS)
    attribute.tensors.append(kept)


def _sparse_values(model: onnx.ModelProto, kept: onnx.TensorProto) -> None:
    model.graph.sparse_initializer.add().values.CopyFrom(kept)


def _sparse_indices(model: onnx.ModelProto, kept: onnx.TensorProto) -> None:
    made = model.graph.node[1].attribute.add(name="s", type=onnx.AttributeProto.SPARSE_TENSOR)
    made.sparse_tensor.indices.CopyFrom(kept)


def _training(model: onnx.ModelProto, kept: onnx.TensorProto) -> None:
    model.training_info.add().initialization.initializer.append(kept)


def _deep(model: onnx.ModelProto, kept: onnx.TensorProto) -> None:
    graph = onnx.GraphProto(name="inner")
    graph.initializer.append(kept)
    for _ in range(20):
        branches = {"then_branch": graph, "else_branch": onnx.GraphProto(name="none")}
        graph = onnx.GraphProto(name="around", node=[onnx.helper.make_node("If", ["x"], [], **branches)])
    model.graph.node.extend(graph.node)


PLACES: tuple[Placed, ...] = (
    _initializer,
    _constant,
    _branch,
    _branch_initializer,
    _in_function,
    _default,
    _tensors,
    _training,
    _deep,
)


def _placed(place: Placed) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        (folder / "secret").write_bytes(SECRET)
        (folder / "sub").mkdir()
        model = mlp()
        place(model, outside("leak", str(folder / "secret")))
        (folder / "sub" / "a.onnx").write_bytes(model.SerializeToString())
        return ["inspect", "sub/a.onnx"]

    return write


@attacks(*(Attack(place.__name__.strip("_"), _placed(place), says=(OUTSIDE,)) for place in PLACES))
def test_no_tensor_leads_outside(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


@attacks(
    *(
        Attack(place.__name__.strip("_"), _placed(place), says=("is sparse",))
        for place in (_sparse_values, _sparse_indices)
    )
)
def test_sparse_tensors_are_refused_unread(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


def test_a_default_that_is_kept_in_a_file_is_found_in_the_model_s_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The working directory holds a file of the same name: it was read instead, as was any path of the system."""
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 21, "my": 1]> g (float[n,8] x) => (float[n,8] y) { y = my.f(x) }'
        '<domain: "my", opset_import: ["": 21]> f (a) => (c) { w = Constant<value: tensor = @kept>()  c = Mul(a, w) }'
    )
    model.functions[0].attribute_proto.append(onnx.helper.make_attribute("kept", outside("kept", "w.data")))
    for name, number in {"model": 3, "elsewhere": 7}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "w.data").write_bytes(np.full(8, number, np.float32).tobytes())
    (tmp_path / "model" / "a.onnx").write_bytes(model.SerializeToString())
    monkeypatch.chdir(tmp_path / "elsewhere")
    weights = read_network(tmp_path / "model" / "a.onnx").weights
    assert [set(weights[name].tolist()) for name in weights] == [{3.0}]


@pytest.mark.parametrize("place", [_initializer, _constant, _branch, _branch_initializer, _in_function, _tensors])
def test_never_the_working_directory(place: Placed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = mlp()
    place(model, outside("leak", "w.data"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "a.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "w.data").write_bytes(SECRET)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="which does not exist"):
        read_network("model/a.onnx")


def test_attributes_that_are_kept_in_files_are_written_into_the_model(tmp_path: Path) -> None:
    model = build("(float[n,4] x) => (float[n,4] y) { c = Shape(x)  f = ConstantOfShape(c)  y = Add(x, f) }")
    model.graph.node[1].attribute.append(onnx.helper.make_attribute("value", outside("fill", "one.data", [1])))
    (tmp_path / "one.data").write_bytes(np.float32(2).tobytes())
    (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "out").mkdir()
    onnxmerge.merge([tmp_path / "a.onnx"] * 2, method="average").save(tmp_path / "out" / "m.onnx")
    (tmp_path / "one.data").unlink()
    written = onnx.load(tmp_path / "out" / "m.onnx")
    (fill,) = [node for node in written.graph.node if node.op_type == "ConstantOfShape"]
    assert onnx.numpy_helper.to_array(fill.attribute[0].t).tolist() == [2.0]


# --- what a model may call its data file ------------------------------------------------------------------------------


def _located(location: str, prepare: Callable[[Path], object] | None = None) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        (folder / "sub" / "inner").mkdir(parents=True)
        (folder / "secret").write_bytes(SECRET)
        (folder / "sub" / "inner" / "w").write_bytes(SECRET)
        if prepare is not None:
            prepare(folder)
        model = mlp()
        model.graph.initializer.append(outside("leak", location.replace("{}", str(folder))))
        (folder / "sub" / "a.onnx").write_bytes(model.SerializeToString())
        return ["inspect", "sub/a.onnx"]

    return write


@attacks(
    Attack("parent", _located("../secret"), says=(OUTSIDE,)),
    Attack("absolute", _located("{}/secret"), says=(OUTSIDE,)),
    Attack("absolute inside", _located("{}/sub/inner/w"), says=(OUTSIDE,)),
    Attack("there and back", _located("inner/../../secret"), says=(OUTSIDE,)),
    Attack("back inside", _located("inner/../inner/w"), says=(OUTSIDE,)),
    Attack("system file", _located("/etc/passwd"), says=(OUTSIDE,)),
    Attack("memory of the process", _located("/proc/self/mem"), says=(OUTSIDE,)),
    Attack("backslashes", _located(r"..\secret"), says=(OUTSIDE,)),
    Attack("drive", _located(r"C:\secret"), says=(OUTSIDE,)),
    Attack("drive without root", _located("C:secret"), says=(OUTSIDE,)),
    Attack("share", _located(r"\\server\share\secret"), says=(OUTSIDE,)),
    Attack("address", _located("file:///etc/passwd"), says=("no name of a file",)),
    Attack("web address", _located("https://example.org/w"), says=("no name of a file",)),
    Attack("nul", _located("inner/w\0.txt"), says=("no name of a file",)),
    Attack("nothing", _located(""), says=("names none",)),
    Attack("the folder", _located("."), says=(OUTSIDE,)),
    Attack("a folder", _located("inner"), says=("not a file",)),
    Attack("behind a file", _located("inner/w/x"), says=("does not exist",)),
    Attack("too long", _located("x" * 5000), says=("initializer 'leak'", "put the data file beside the model")),
    Attack("home", _located("~/secret"), says=("does not exist",)),
    Attack("variable", _located("$HOME/secret"), says=("does not exist",)),
    Attack("terminal codes", _located("\x1b[31m\n"), says=(r"\x1b[31m", "does not exist")),
    Attack("memory of ONNX Runtime", _located("*/_ORT_MEM_ADDR_/*"), says=("does not exist",)),
    Attack("link", _located("l", lambda at: (at / "sub/l").symlink_to(at / "secret")), says=(OUTSIDE,)),
    Attack("relative link", _located("l", lambda at: (at / "sub/l").symlink_to("../secret")), says=(OUTSIDE,)),
    Attack("linked folder", _located("l/secret", lambda at: (at / "sub/l").symlink_to("..")), says=(OUTSIDE,)),
    Attack("link to itself", _located("l", lambda at: (at / "sub/l").symlink_to("l")), says=("initializer 'leak'",)),
    Attack("broken link", _located("l", lambda at: (at / "sub/l").symlink_to("gone")), says=("does not exist",)),
    Attack("pipe", _located("p", lambda at: os.mkfifo(at / "sub/p")), says=("not a file",)),
    Attack("device", _located("d", lambda at: (at / "sub/d").symlink_to("/dev/zero")), says=(OUTSIDE,)),
)
def test_names_of_data_files(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


# --- where in the file ------------------------------------------------------------------------------------------------


def _at(
    offset: str | None = None, length: str | None = None, *, dims: Sequence[int] = (8,), data_type: int = 1
) -> Callable[[Path], list[str]]:
    def write(folder: Path) -> list[str]:
        (folder / "w").write_bytes(SECRET)
        model, kept = mlp(), outside("part", "w", dims)
        kept.data_type = data_type
        for key, text in {"offset": offset, "length": length}.items():
            if text is not None:
                kept.external_data.add(key=key, value=text)
        model.graph.initializer.append(kept)
        (folder / "a.onnx").write_bytes(model.SerializeToString())
        return ["inspect", "a.onnx"]

    return write


@attacks(
    Attack("all of it", _at("0", "32"), exit_code=0),
    Attack("past the end", _at("4"), says=("bytes 4 to 36", "which has 32")),
    Attack("at the end", _at("32", "32"), says=("which has 32",)),
    Attack("too short", _at("0", "28"), says=("of 32 bytes",)),
    Attack("too long", _at("0", "36"), says=("of 32 bytes",)),
    Attack("negative offset", _at("-4"), says=("no usable offset",)),
    Attack("negative length", _at("0", "-32"), says=("no usable offset",)),
    Attack("huge offset", _at("9223372036854775807"), says=("which has 32",)),
    Attack("larger than any", _at("9" * 5000), says=("no usable offset",)),
    Attack("wraps around", _at("18446744073709551612", "36"), says=("no usable offset",)),
    Attack("words", _at("one"), says=("no usable offset",)),
    Attack("other digits", _at("\u0664"), says=("no usable offset",)),
    Attack("of another type", _at(data_type=99), says=("which no tensor has",)),
    Attack("strings", _at(data_type=onnx.TensorProto.STRING), says=("keeps strings as bytes",)),
    Attack("huge shape", _at(dims=[2**40, 2**40]), says=("which no tensor has",)),
    Attack("negative shape", _at(dims=[-8]), says=("which no tensor has",)),
    Attack("many axes", _at(dims=[1] * 99), says=("which no tensor has",)),
)
def test_places_in_data_files(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


# --- what is right ----------------------------------------------------------------------------------------------------


def _cache(folder: Path, data: str = "model.onnx_data", names: Sequence[str] = ("0a", "1b")) -> Path:
    """The layout of a cache of Hugging Face: all files of a snapshot are links to blobs, which have other names."""
    snapshot = folder / "snapshots" / "rev" / "onnx"
    blobs = folder / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    onnx.save(mlp(), blobs / names[0], save_as_external_data=True, location=data, size_threshold=0)
    (blobs / data).rename(blobs / names[1])
    (snapshot / "model.onnx").symlink_to(f"../../../blobs/{names[0]}")
    (snapshot / data).symlink_to(f"../../../blobs/{names[1]}")
    return snapshot / "model.onnx"


def test_a_cache_of_links_is_read(tmp_path: Path, cli: Cli) -> None:
    path = _cache(tmp_path)
    network = read_network(path)
    assert network.path == path
    np.testing.assert_array_equal(network.weights["w"], initializers(mlp())["w"])
    np.save(tmp_path / "blobs" / "2c", np.random.default_rng(0).standard_normal((64, 4)).astype(np.float32))
    (tmp_path / "x.npy").symlink_to("blobs/2c.npy")
    ended = cli("run", path, path, "--calib", "x.npy", "-o", "m.onnx")
    assert ended.returncode == 0, ended.stderr
    np.testing.assert_allclose(initializers(onnx.load(tmp_path / "m.onnx"))["w"], initializers(mlp())["w"], rtol=1e-6)


def test_a_cache_may_not_lead_out_of_its_blobs(tmp_path: Path) -> None:
    path = _cache(tmp_path)
    (tmp_path / "secret").write_bytes((tmp_path / "blobs" / "1b").read_bytes())
    (path.parent / "model.onnx_data").unlink()
    (path.parent / "model.onnx_data").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=OUTSIDE):
        read_network(path)


def test_a_link_to_a_model_alone_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    onnx.save(mlp(), tmp_path / "real" / "a.onnx", save_as_external_data=True, location="w", size_threshold=0)
    (tmp_path / "a.onnx").symlink_to("real/a.onnx")
    with pytest.raises(InputError, match="the model is a link: give the path that it leads to"):
        read_network(tmp_path / "a.onnx")


def test_linked_folders_and_hard_links_are_read(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    onnx.save(mlp(), tmp_path / "real" / "a.onnx", save_as_external_data=True, location="w", size_threshold=0)
    os.link(tmp_path / "real" / "w", tmp_path / "twin")
    (tmp_path / "link").symlink_to("real", target_is_directory=True)
    network = read_network(tmp_path / "link" / "a.onnx")
    np.testing.assert_array_equal(network.weights["v"], initializers(mlp())["v"])


def _swapped(path: Path) -> None:
    path.unlink()
    path.with_name("other").write_bytes(np.ones(56, np.float32).tobytes())
    path.symlink_to("other")


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(np.ones(56, np.float32).tobytes()),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        _swapped,
    ],
    ids=["written", "cut", "gone", "a link now"],
)
def test_data_that_changes_after_it_was_checked_is_not_read(change: Callable[[Path], object], tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "a.onnx", save_as_external_data=True, location="w", size_threshold=0)
    weights = read_network(tmp_path / "a.onnx").weights
    change(tmp_path / "w")
    with pytest.raises(InputError, match="cannot be read"):
        weights["w"]


# --- models that come in memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_a_message_in_memory_may_keep_nothing_in_files(
    place: Placed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").write_bytes(SECRET)
    model = mlp()
    place(model, outside("leak", "w"))
    with pytest.raises(InputError, match="the model came without a path"):
        read_network(model)


def test_a_loaded_model_reads_its_own_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    onnx.save(mlp(), tmp_path / "sub" / "a.onnx", save_as_external_data=True, location="w", size_threshold=0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").write_bytes(SECRET)
    np.testing.assert_array_equal(
        read_network(ir.load(tmp_path / "sub" / "a.onnx")).weights["w"], initializers(mlp())["w"]
    )
    for base, location, says in (
        ("", "w", "came without a path"),
        ("sub", "../w", OUTSIDE),
        ("sub", str(tmp_path / "w"), OUTSIDE),
    ):
        model = ir.from_proto(mlp())
        leak = ir.ExternalTensor(location, 0, 32, ir.DataType.FLOAT, shape=ir.Shape([8]), name="leak", base_dir=base)
        model.graph.initializers.add(ir.val("leak", const_value=leak))
        with pytest.raises(InputError, match=says):
            read_network(model)
