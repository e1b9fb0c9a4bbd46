"""Separate heads: identical parents, permuted, must all come out of the merged file as they went in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmerge import StructureError, UsageError, merge, permute
from tests.crossed import crossed
from tests.graphs import build, execute, initializers, normal
from tests.heads.networks import LAST, MLP, attention, cnn, data, mlp


def merged(models: list[Any], folder: Path, **options: Any) -> onnx.ModelProto:
    return onnx.load(merge(models, repair="none", **options).save(folder / "merged.onnx"))


def outputs(model: onnx.ModelProto, x: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
    return execute(model, {"x": x})


def copies(model: onnx.ModelProto, count: int, folder: Path) -> list[Path]:
    return [permute(model, seed=seed).save(folder / f"p{seed}.onnx") for seed in range(1, count + 1)]


@pytest.mark.parametrize(
    ("build_model", "how"),
    crossed(
        [mlp, cnn, attention],
        [((), "mudsc-align"), ((), "mudsc-zip"), (("r",), "act-align"), (("r",), "zipit")],
        every=2,
    ),
)
def test_permuted_parents_come_out_exactly(build_model: Any, how: tuple[tuple[str, ...], str], tmp_path: Path) -> None:
    until, method = how
    model = build_model()
    if build_model is attention and until:
        until = ("l",)
    x = data(model)
    # A zip of three copies may merge units of one model: it need not give that model back.
    files = copies(model, 1 if "zip" in method else 2, tmp_path)
    result = merged(
        [model, *files], tmp_path, heads="separate", until=until, method=method, calibration=data(model, 64)
    )
    found = outputs(result, x)
    want = outputs(model, x)["y"]
    assert list(found) == ["y_a", "y_b", "y_c"][: len(files) + 1]
    for name, value in found.items():
        np.testing.assert_allclose(value, want, rtol=1e-4, atol=1e-5, err_msg=name)


def test_without_the_right_order_permuted_parents_would_not_come_out(tmp_path: Path) -> None:
    """What the tests above rest on: the tails do read the border in orders of their own."""
    model = mlp()
    calibration = data(model, 64)
    files = copies(model, 1, tmp_path)
    result = merged([model, *files], tmp_path, heads="separate", method="act-align", calibration=calibration)
    gathers = [node for node in result.graph.node if node.op_type == "Gather"]
    assert [node.output[0] for node in gathers] == ["s_b"]
    for node in result.graph.node:
        for index, name in enumerate(node.input):
            if name == "s_b":
                node.input[index] = "s"
    found = outputs(result, data(model))
    assert not np.allclose(found["y_a"], found["y_b"], atol=0.1)


def test_heads_with_other_class_counts_keep_their_weights(tmp_path: Path) -> None:
    one, other = mlp(0, 3), mlp(1, 4)
    result = merge([one, other], method="rebasin")
    model = onnx.load(result.save(tmp_path / "m.onnx"))
    assert {o.name: o.type.tensor_type.shape.dim[1].dim_value for o in model.graph.output} == {"y_a": 3, "y_b": 4}
    weights = initializers(model)
    assert weights["w3_a"].tobytes() == initializers(one)["w3"].tobytes()
    assert weights["w3_b"].tobytes() == initializers(other)["w3"].tobytes()
    assert result.report.heads is not None
    assert result.report.heads.border == ("s",)
    assert any("structures part" in note for note in result.report.notes)


def test_what_is_computed_from_a_head_s_weights_alone_is_its_own(tmp_path: Path) -> None:
    """Transpose(w3) reads nothing of the tail, and is as alike in all models as anything of the trunk."""
    text = MLP.format(k=3, tail="t = Transpose(w3) y = MatMul(s, t)")
    models = [build(text, normal(w1=(5, 6), b1=(5,), w2=(5, 8), w3=(3, 8), seed=seed)) for seed in (0, 1)]
    result = merge(models, method="rebasin", heads="separate")
    assert result.report.heads is not None
    assert result.report.heads.border == ("s",)
    weights = initializers(onnx.load(result.save(tmp_path / "m.onnx")))
    for letter, model in zip("ab", models, strict=True):
        assert weights[f"w3_{letter}"].tobytes() == initializers(model)["w3"].tobytes()


def test_tails_may_be_of_other_structure_and_outputs(tmp_path: Path) -> None:
    first = mlp(0)
    text = MLP.format(k=2, tail="k = MatMul(s, w3) l = Sigmoid(k) y = MatMul(l, w4) ").replace(
        "(float[n,2] y)", "(float[n,2] y, float[n,4] k)"
    )
    second = build(text, normal(w1=(5, 6), b1=(5,), w2=(5, 8), w3=(8, 4), w4=(4, 2), seed=4))
    model = merged([first, second], tmp_path, method="average")
    x = data(first)
    found = outputs(model, x)
    assert list(found) == ["y_a", "y_b", "k_b"]
    trunk = {name: (initializers(first)[name] + initializers(second)[name]) / 2 for name in ("w1", "b1", "w2")}
    again = build(text, {**trunk, **{name: initializers(second)[name] for name in ("w3", "w4")}})
    for name, value in outputs(again, x).items():
        np.testing.assert_allclose(found[f"{name}_b"], value, rtol=1e-5, atol=1e-6)


def test_an_output_of_the_trunk_stays_joint(tmp_path: Path) -> None:
    text = MLP.format(k=3, tail=LAST).replace("(float[n,3] y)", "(float[n,8] s, float[n,3] y)")
    models = [build(text, normal(w1=(5, 6), b1=(5,), w2=(5, 8), w3=(8, 3), seed=seed)) for seed in (0, 1)]
    result = merge(models, method="rebasin", heads="separate")
    model = onnx.load(result.save(tmp_path / "m.onnx"))
    assert [value.name for value in model.graph.output] == ["s", "y_a", "y_b"]
    assert result.report.heads is not None
    assert result.report.heads.outputs == (("s", "y_a"), ("s", "y_b"))
    assert not any(node.op_type == "Gather" for node in model.graph.node)


def test_a_tail_that_skips_back_reads_two_borders(tmp_path: Path) -> None:
    text = """(float[n,6] x) => (float[n,3] y) { h = MatMul(x, w1) r = Relu(h) g = MatMul(r, w2) k = MatMul(r, w3)
        t = Tanh(k) y = Add(g, t) }"""
    model = build(text, normal(w1=(6, 5), w2=(5, 3), w3=(5, 3)))
    files = copies(model, 1, tmp_path)
    result = merged([model, *files], tmp_path, method="act-align", calibration=data(model, 64), until=("g",))
    x = data(model)
    for value in outputs(result, x).values():
        np.testing.assert_allclose(value, outputs(model, x)["y"], rtol=1e-4, atol=1e-5)
    assert sum(node.op_type == "MatMul" for node in result.graph.node) == 4


def test_several_last_nodes(tmp_path: Path) -> None:
    text = """(float[n,6] x) => (float[n,3] y) { h = MatMul(x, w1) r = Relu(h) g = MatMul(r, w2) k = Gemm(r, w3)
        t = Tanh(k) y = Add(g, t) }"""
    model = build(text, normal(w1=(6, 5), w2=(5, 3), w3=(5, 3)))
    files = copies(model, 1, tmp_path)
    options: dict[str, Any] = {"method": "act-align", "calibration": data(model, 64), "repair": "none"}
    result = merge([model, *files], until=("g", "k"), **options)
    assert result.report.heads is not None
    assert result.report.heads.border == ("g", "k")
    found = outputs(onnx.load(result.save(tmp_path / "m.onnx")), data(model))
    for value in found.values():
        np.testing.assert_allclose(value, outputs(model, data(model))["y"], rtol=1e-4, atol=1e-5)


def test_a_tail_may_branch(tmp_path: Path) -> None:
    """The bodies of an If read the border and a weight of their parent from outside."""
    branches = """c = Cast<to=9>(flag) y = If(c)<
        then_branch = yes () => (float[n,3] o1) { o1 = MatMul(s, w3) },
        else_branch = no () => (float[n,3] o2) { p = Neg(s) o2 = MatMul(p, w3) }>"""
    text = MLP.format(k=3, tail=branches).replace("(float[n,6] x)", "(float[n,6] x, int64 flag)")
    models = [build(text, normal(w1=(5, 6), b1=(5,), w2=(5, 8), w3=(8, 3), seed=seed)) for seed in (0, 0)]
    other = merge(models, method="rebasin", until=("s",)).save(tmp_path / "m.onnx")
    x = data(models[0])
    for flag in (0, 1):
        feeds: dict[str, NDArray[Any]] = {"x": x, "flag": np.array(flag, np.int64)}
        found, want = execute(onnx.load(other), feeds), execute(models[0], feeds)["y"]
        assert list(found) == ["y_a", "y_b"]
        for value in found.values():
            np.testing.assert_allclose(value, want, rtol=1e-5, atol=1e-6)


def test_what_nothing_tells_apart_cannot_be_the_last_node() -> None:
    text = """(float[n,6] x) => (float[n,3] y) { h = MatMul(x, w1) r = Relu(h) g = MatMul(r, w2) k = MatMul(r, w3)
        y = Add(g, k) }"""
    models = [build(text, normal(w1=(6, 5), w2=(5, 3), w3=(5, 3), seed=seed)) for seed in (0, 1)]
    with pytest.raises(StructureError, match="--until g: nothing tells"):
        merge(models, method="average", until=("g",))


def test_file_stems_name_the_outputs(tmp_path: Path) -> None:
    files = []
    for index, name in enumerate(("cats", "dogs")):
        files.append(tmp_path / f"{name}.onnx")
        onnx.save(mlp(index, 3 + index), files[-1])
    assert list(outputs(merged(files, tmp_path, method="average"), data(mlp()))) == ["y_cats", "y_dogs"]


def test_what_has_no_trunk_in_common_is_refused() -> None:
    narrow = build(MLP.format(k=3, tail=LAST), normal(w1=(4, 6), b1=(4,), w2=(4, 8), w3=(8, 3)))
    with pytest.raises(StructureError, match="differ in structure"):
        merge([mlp(), narrow], method="average")
    with pytest.raises(StructureError, match="no trunk in common"):
        merge([mlp(), narrow], method="average", heads="separate")
    with pytest.raises(StructureError, match="differ in structure"):
        merge([mlp(), mlp(1, 4)], method="average", heads="joint")


def test_a_tail_may_read_what_the_trunk_computes_twice(tmp_path: Path) -> None:
    """Both copies of ``r`` are one value, whichever of them a tail reads."""
    graph = "h = MatMul(x, w)  r = Relu(h)  again = Relu(h)  k = {}  s = Add(again, k)  y = MatMul(s, v)"
    models = [
        build(f"(float[n,4] x) => (float[n,3] y) {{ {graph.format(part)} }}", normal(w=(4, 6), v=(6, 3)))
        for part in ("Neg(r)", "Abs(again)", "Exp(r)")
    ]
    x = data(models[0])
    found = outputs(merged(models, tmp_path, heads="separate", method="rebasin"), x)
    for name, model in zip(("y_a", "y_b", "y_c"), models, strict=True):
        np.testing.assert_allclose(found[name], outputs(model, x)["y"], rtol=1e-4, atol=1e-5)


def test_a_trunk_that_one_network_has_inside_a_branch_is_none_of_the_trunk() -> None:
    layers = "h = MatMul(x, w)  r = Relu(h)"
    plain = build(f"(float[2,4] x) => (float[2,3] y) {{ {layers}  y = MatMul(r, v) }}", normal(w=(4, 6), v=(6, 3)))
    branch = f"""(float[2,4] x) => (float[2,6] y) {{
        y = If<then_branch = a () => (float[2,6] r) {{ {layers} }},
            else_branch = b () => (float[2,6] r) {{ {layers} }}>(c)
    }}"""
    with pytest.raises(StructureError):
        merge([plain, build(branch, {**normal(w=(4, 6)), "c": True})], heads="separate", method="rebasin")


def test_wrong_names_and_contradictions_are_usage_errors() -> None:
    with pytest.raises(UsageError, match=r"--until MatMu: .*names like it are MatMul"):
        merge([mlp(), mlp(1)], method="average", until=("MatMu",))
    with pytest.raises(UsageError, match="nothing to the heads"):
        merge([mlp(), mlp(1)], method="average", until=("y",))
    with pytest.raises(UsageError, match="--heads joint"):
        merge([mlp(), mlp(1)], method="average", until=("s",), heads="joint")


def test_a_tail_of_another_opset_is_refused_where_it_means_something_else() -> None:
    tail = "m = Softmax(s) y = MatMul(m, w3)"
    weights = normal(w1=(5, 6), b1=(5,), w2=(5, 8), w3=(8, 3))
    old, new = (build(MLP.format(k=3, tail=tail), weights, opset=opset) for opset in (11, 21))
    with pytest.raises(StructureError, match="export both with one opset"):
        merge([new, old], method="average")
    plain = build(MLP.format(k=4, tail=LAST), normal(w1=(5, 6), b1=(5,), w2=(5, 8), w3=(8, 4)), opset=13)
    assert merge([mlp(), plain], method="average").report.heads is not None


def test_twins_at_the_border_are_left_to_the_tails(tmp_path: Path) -> None:
    """Two matrices that read the same tensor are computed alike: nothing tells which tail would read which."""
    text = """(float[n,6] x) => (float[n,{k}] y) {{ h = MatMul(x, w1) r = Relu(h) q = MatMul(r, wq) k = MatMul(r, wk)
        p = Sigmoid(q) d = {op}(p, k) y = MatMul(d, w2) }}"""
    one, other = (
        build(text.format(k=2, op=op), normal(w1=(6, 5), wq=(5, 4), wk=(5, 4), w2=(4, 2), seed=seed))
        for seed, op in enumerate(("Mul", "Sub"))
    )
    with pytest.raises(StructureError, match="differ in structure"):  # most of it is not trailing, so not unasked
        merge([one, other], method="rebasin")
    result = merge([one, other], method="rebasin", heads="separate")
    assert result.report.heads is not None
    assert result.report.heads.border == ("r",)
    onnx.checker.check_model(str(result.save(tmp_path / "m.onnx")))


def test_a_border_that_no_order_of_axes_brings_back_is_fixed(tmp_path: Path) -> None:
    """The units of o in [n, head, s, unit] are permuted in each head by itself."""
    models = [attention(0), attention(1)]
    result = merge(models, method="average", until=("o",))
    assert result.report.heads is not None
    assert "o" in result.report.heads.border
    model = onnx.load(result.save(tmp_path / "m.onnx"))
    assert set(outputs(model, data(models[0]))) == {"y_a", "y_b"}
    free = {group.size for group in result.report.groups if group.varies_with}
    assert len([group for group in result.report.groups if group.varies_with]) == 1, free


def test_every_way_is_tried_where_heads_begin_behind_a_residual_block(tmp_path: Path) -> None:
    """Units of a feature map stand along its channels; a copy in another order is judged as the same network."""
    model = cnn()
    (file,) = copies(model, 1, tmp_path)
    effort = merge([model, file], until=("r",), calibration=data(model, 250)).report.effort
    assert effort is not None
    assert not any("left out" in note for note in effort.notes)
    tried = {way.flags[1]: way.agreement for way in effort.ways}
    assert list(tried) == ["mudsc-align", "zipit"]
    assert tried["mudsc-align"] == pytest.approx(1, abs=1e-3)


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    files = [merge([cnn(0), cnn(1)], method="rebasin", heads="separate").save(tmp_path / f"{i}.onnx") for i in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_heads_on_the_example_pair(digits: Path, tmp_path: Path) -> None:
    """With BatchNorm re-estimated and nothing else: each head answers near its own parent."""
    files = [digits / "a.onnx", digits / "b.onnx"]
    given: dict[str, Any] = {"calibration": digits / "calib.npz", "samples": 300, "method": "mudsc-align"}
    result = merge(files, heads="separate", **given)
    assert result.report.repair == "BatchNorm re-estimated"
    model = onnx.load(result.save(tmp_path / "m.onnx"))
    assert [value.name for value in model.graph.output] == ["embedding_a", "embedding_b"]
    joint = onnx.load(merge(files, **given).save(tmp_path / "j.onnx"))
    with np.load(digits / "calib.npz") as held:
        x = next(iter(held.values()))[:200]
    apart, together = (execute(each, {model.graph.input[0].name: x}) for each in (model, joint))
    for letter, file in zip("ab", files, strict=True):
        want = execute(onnx.load(file), {model.graph.input[0].name: x})["embedding"]
        error = np.linalg.norm(apart[f"embedding_{letter}"] - want)
        assert error < np.linalg.norm(together["embedding"] - want)


@pytest.mark.slow
@pytest.mark.parametrize("file", ["cifar5-resnet20/a.folded.onnx", "cifar5-resnet20gn/a.ts.onnx", "cifar5-vit/a.onnx"])
def test_real_networks_come_out_exactly(shared: Path, file: str, tmp_path: Path) -> None:
    source = shared / "pairs" / file
    x = np.random.default_rng(0).standard_normal((128, 3, 32, 32)).astype(np.float32)
    models = [source, permute(source, seed=1).save(tmp_path / "permuted.onnx")]
    model = onnx.load(
        merge(models, calibration=x, repair="none", heads="separate", method="act-align").save(tmp_path / "merged.onnx")
    )
    name = model.graph.input[0].name
    (want,) = execute(onnx.load(source), {name: x[:16]}).values()
    found = execute(model, {name: x[:16]})
    assert len(found) == 2
    for value in found.values():
        assert np.abs(value - want).max() < 1e-5 * np.abs(want).max()
