"""Models that are each broken in one named way, with the gate that must find it, and models that are good."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir

import onnxmerge
from onnxmerge.matching.overrides import GroupRule
from onnxmerge.merging.task_vectors.options import ParameterRule
from onnxmerge.model.digest import WEIGHTS, tensors_of, weights_digest
from onnxmerge.types import Array
from tests.graphs import build, execute, normal

MLP = "(float[n,4] x) => (float[n,3] y) { h = Gemm<transB=1>(x, w, b)  r = Relu(h)  y = Gemm<transB=1>(r, v, c) }"
FIXED = MLP.replace("[n,", "[2,")

Build = Callable[[Path], Sequence[object]]


@dataclass(frozen=True, slots=True)
class Case:
    """``build`` writes files into a folder and gives the command line behind `check`; ``gate`` must fail, no other."""

    name: str
    build: Build
    gate: str | None
    exit_code: int = 3


def weights(seed: int = 0) -> dict[str, Array]:
    return {**normal(w=(5, 4), b=(5,), v=(3, 5), c=(3,), seed=seed)}


def mlp(graph: str = MLP, /, **changed: Array | None) -> onnx.ModelProto:
    """A small network, with some weights replaced (None: left out); never checked."""
    arrays = {name: array for name, array in {**weights(), **changed}.items() if array is not None}
    return build(graph, arrays, opset=17, ir_version=8, check=False)


def saved(model: onnx.ModelProto, folder: Path, name: str = "m.onnx") -> str:
    (folder / name).write_bytes(model.SerializeToString())
    return name


def one(model: Callable[[], onnx.ModelProto], *options: object) -> Build:
    """A model, and options behind its name."""
    return lambda folder: [saved(model(), folder), *options]


def against(model: Callable[[], onnx.ModelProto], parent: Callable[[], onnx.ModelProto], *options: object) -> Build:
    return lambda folder: [saved(model(), folder), "--against", saved(parent(), folder, "a.onnx"), *options]


def with_schema(model: Callable[[], onnx.ModelProto], schema: object) -> Build:
    def written(folder: Path) -> list[object]:
        (folder / "schema.json").write_text(json.dumps(schema))
        return [saved(model(), folder), "--schema", "schema.json"]

    return written


def schema(**changed: object) -> dict[str, object]:
    return {
        "inputs": {"x": {"type": "float32", "shape": ["N", 4]}},
        "outputs": {"y": {"type": "float32", "shape": ["N", 3]}},
        **changed,
    }


def with_opset(opset: int, ir_version: int = 8) -> onnx.ModelProto:
    model = mlp()
    model.opset_import[0].version = opset
    model.ir_version = ir_version
    return model


def external(location: str, *, there: bool = False, length: int | None = None) -> Build:
    """A model whose first weight is kept in a file."""

    def written(folder: Path) -> list[object]:
        model = mlp()
        tensor = model.graph.initializer[0]
        data = tensor.raw_data
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        if there:
            (folder / location).write_bytes(data if length is None else data[:length])
        return [saved(model, folder)]

    return written


def graph(text: str, **arrays: Array) -> Callable[[], onnx.ModelProto]:
    return lambda: build(text, arrays, opset=17, ir_version=8, check=False)


def spoilt(weight: str, value: float) -> Callable[[], onnx.ModelProto]:
    array = weights()[weight].copy()
    array.flat[1] = value
    return lambda: mlp(**{weight: array})


RENAMED = MLP.replace(" x)", " z)").replace("(x,", "(z,")
ANSWER = MLP.replace(" y)", " out)").replace("y = Gemm", "out = Gemm")
BAKED = "(float[n,4] x) => (float[n,4] y) { s = Reshape(x, shape)  y = Relu(s) }"
RANDOM = "(float[n,4] x) => (float[n,4] y) { r = RandomNormalLike(x)  y = Add(x, r) }"
SEEDED = "(float[n,4] x) => (float[n,4] y) { r = RandomUniformLike<seed=1.0>(x)  y = Add(x, r) }"
DROPOUT = "(float[n,4] x) => (float[n,4] y) { y = Dropout(x, ratio, training) }"
OVER_BATCH = "(float[n,4] x) => (float[n,4] y) { m = ReduceMean<axes=[0], keepdims=1>(x)  y = Sub(x, m) }"
SOFTMAX = "(float[n,4] x) => (float[n,4] y) { y = Softmax<axis=0>(x) }"
CUMULATED = "(float[n,4] x) => (float[n,4] y) { y = CumSum(x, axis) }"
LOG = "(float[n,4] x) => (float[n,4] y) { z = Sub(x, x)  y = Log(z) }"
ROOT = "(float[n,4] x) => (float[n,4] y) { z = Abs(x)  m = Neg(z)  y = Sqrt(m) }"
TOTAL = "(float[n,4] x) => (float s) { s = ReduceMean<keepdims=0>(x) }"
SQUEEZED = "(float[n,1] x) => (float[m] y) { y = Squeeze(x) }"
UNIQUE = "(float[n,4] x) => (float[m] y) { y = Unique(x) }"
DET = "(float[n,4,4] x) => (float[n] y) { y = Det(x) }"
CLASS = "(float[n,4] x) => (int64[n] y) { y = ArgMax<axis=1, keepdims=0>(x) }"
LEAST = CLASS.replace("ArgMax", "ArgMin")
RELU = "(float[n,4] x) => (float[n,4] y) { y = Relu(x) }"
ONE = "(float[n,4] x) => (float[n,1] y) { y = ReduceMean<axes=[1]>(x) }"
OWN = "(float[n,4] x) => (float[n,4] y) { y = com.microsoft.Gelu(x) }"
CONVOLUTION = """(float[n,3,h,w] x) => (float[n,2] y) {
    c = Conv<pads=[1,1,1,1]>(x, k)  r = Relu(c)  p = GlobalAveragePool(r)  f = Flatten(p)  y = Gemm<transB=1>(f, v)
}"""


def own() -> onnx.ModelProto:
    return build(OWN, opset=17, ir_version=8, domains={"com.microsoft": 1}, check=False)


def quick() -> onnx.ModelProto:
    """A model with an operator that ONNX Runtime has since 1.14."""
    return build(OWN.replace("Gelu", "QuickGelu"), opset=17, ir_version=8, domains={"com.microsoft": 1}, check=False)


def labelled(parent: Callable[[], onnx.ModelProto], model: Callable[[], onnx.ModelProto], *options: object) -> Build:
    """A model against a parent that is always right, on data with labels."""

    def written(folder: Path) -> list[object]:
        x = np.random.default_rng(0).standard_normal((200, 4)).astype(np.float32)
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", execute(parent(), {"x": x})["y"].argmax(axis=1))
        return [*against(model, parent)(folder), "--calib", "x.npy", "--labels", "y.npy", *options]

    return written


def merged(
    change: Callable[[onnx.ModelProto], None],
    *options: object,
    other: bool = False,
    method: str = "average",
    **settings: Any,
) -> Build:
    """A merge whose file was changed afterwards, against its parents (or ``other`` ones)."""

    def written(folder: Path) -> list[object]:
        parents = [saved(mlp(), folder, "a.onnx"), saved(mlp(**weights(1)), folder, "b.onnx")]
        paths = [folder / name for name in parents]
        onnxmerge.merge(paths, method=method, provider="cpu", **settings).save(folder / "m.onnx")
        model = onnx.load(folder / "m.onnx")
        change(model)
        saved(model, folder)
        if other:
            parents = [saved(mlp(**weights(2)), folder, "c.onnx")]
        return ["m.onnx", *(word for name in parents for word in ("--against", name)), *options]

    return written


def merged_onto_base(**settings: Any) -> Build:
    """A merge of fine-tunes, with their pretraining beside them: all that it takes to merge again."""

    def written(folder: Path) -> list[object]:
        names = [saved(mlp(**weights(seed)), folder, f"{seed}.onnx") for seed in range(3)]
        base, *parents = (folder / name for name in names)
        onnxmerge.merge(parents, base=base, provider="cpu", **settings).save(folder / "m.onnx")
        return ["m.onnx", *(word for name in names for word in ("--against", name)), "--reproduce"]

    return written


def unchanged(_model: onnx.ModelProto) -> None:
    """Nothing."""


def edited(model: onnx.ModelProto) -> None:
    tensor = next(each for each in model.graph.initializer if each.name == "w")
    array = onnx.numpy_helper.to_array(tensor).copy()
    array[0] += 0.5
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, "w"))


def edited_and_signed(model: onnx.ModelProto) -> None:
    """Weights changed, and the digest of them too."""
    edited(model)
    with_entry(WEIGHTS, lambda _: weights_digest(tensors_of(ir.from_proto(model))))(model)


def with_entry(key: str, change: Callable[[str], str]) -> Callable[[onnx.ModelProto], None]:
    def changed(model: onnx.ModelProto) -> None:
        entry = next(each for each in model.metadata_props if each.key == key)
        entry.value = change(entry.value)

    return changed


def with_noise(scale: float) -> Callable[[], onnx.ModelProto]:
    noise = normal(v=(3, 5), seed=9)["v"]
    return lambda: mlp(v=(weights()["v"] + scale * noise).astype(np.float32))


CASES: tuple[Case, ...] = (
    # integrity
    Case("nan in a weight", one(spoilt("w", np.nan)), "integrity.finite-weights"),
    Case("nan in a bias", one(spoilt("c", np.nan)), "integrity.finite-weights"),
    Case("external data gone", external("m.data"), "integrity.external-data"),
    Case("external data outside", external("../m.data"), "integrity.external-data"),
    Case("external data at an absolute path", external("/etc/hostname"), "integrity.external-data"),
    Case("external data cut off", external("m.data", there=True, length=8), "integrity.graph"),
    Case("a weight is missing", one(lambda: mlp(v=None)), "integrity.graph"),
    Case("a weight of another shape", one(lambda: mlp(v=np.ones((3, 6), np.float32))), "integrity.loads"),
    Case(
        "two nodes give one tensor",
        one(graph("(float[n,4] x) => (float[n,4] y) { y = Relu(x) y = Abs(x) }")),
        "integrity.graph",
    ),
    Case(
        "a cycle",
        one(graph("(float[n,4] x) => (float[n,4] y) { a = Add(x, c) c = Relu(a) y = Relu(c) }")),
        "integrity.graph",
    ),
    Case("an output of another type", one(lambda: mlp(MLP.replace("float[n,3] y", "int64[n,3] y"))), "integrity.graph"),
    Case("an output of another size", one(lambda: mlp(MLP.replace("float[n,3] y", "float[n,7] y"))), "integrity.graph"),
    Case(
        "an operator that nobody has",
        one(graph("(float[n,4] x) => (float[n,4] y) { y = Frobnicate(x) }")),
        "integrity.loads",
    ),
    # portability
    Case("an opset too new for the runtime", one(lambda: with_opset(21), "--min-runtime", "1.16"), "portability.opset"),
    Case("an IR version too new", one(lambda: with_opset(17, 10), "--min-runtime", "1.17"), "portability.ir"),
    Case("an opset too old for the target", one(lambda: with_opset(8), "--target", "tensorrt"), "portability.opset"),
    Case("an opset too new for the target", one(lambda: with_opset(22), "--target", "tensorrt"), "portability.opset"),
    Case(
        "an operator that TensorRT lacks",
        one(graph(UNIQUE), "--target", "tensorrt", "--skip", "interface"),
        "portability.operators",
    ),
    Case("an operator that OpenVINO lacks", one(graph(DET), "--target", "openvino"), "portability.operators"),
    Case("an operator of another domain", one(own, "--target", "tensorrt"), "portability.operators"),
    Case("an operator that an old runtime lacks", one(quick, "--min-runtime", "1.13"), "portability.operators"),
    # interface
    Case("an input renamed", against(lambda: mlp(RENAMED), mlp), "interface.parents"),
    Case("an output renamed", against(lambda: mlp(ANSWER), mlp), "interface.parents"),
    Case("a dimension frozen", against(lambda: mlp(FIXED), mlp), "interface.parents"),
    Case(
        "an input of another width",
        against(lambda: mlp(MLP.replace("[n,4]", "[n,6]"), w=np.ones((5, 6), np.float32)), mlp),
        "interface.parents",
    ),
    Case(
        "another type",
        with_schema(mlp, schema(inputs={"x": {"type": "float16", "shape": ["N", 4]}})),
        "interface.schema",
    ),
    Case("another shape", with_schema(mlp, schema(outputs={"y": {"shape": ["N", 10]}})), "interface.schema"),
    Case("another rank", with_schema(mlp, schema(outputs={"y": {"shape": ["N", 3, 1]}})), "interface.schema"),
    Case("not free as the schema wants", with_schema(lambda: mlp(FIXED), schema()), "interface.schema"),
    Case(
        "an output that the schema lacks",
        with_schema(
            graph("(float[n,4] x) => (float[n,4] y, float[n,4] z) { y = Relu(x) z = Abs(x) }"),
            schema(outputs={"y": {}}),
        ),
        "interface.schema",
    ),
    Case("batch baked in", one(graph(BAKED, shape=np.array([2, 4]))), "interface.free-sizes"),
    Case("batch of one baked in", one(graph(BAKED, shape=np.array([1, 4]))), "interface.free-sizes"),
    # certificate
    Case(
        "nothing to certify",
        one(graph("(float[n,4] x) => (float[n,4] y) { y = Relu(x) }"), "--certify"),
        "certificate.groups",
    ),
    # behaviour
    Case("a nondeterministic operator", one(graph(RANDOM)), "behaviour.deterministic"),
    Case("a random operator with a seed", one(graph(SEEDED)), "behaviour.deterministic"),
    Case(
        "dropout in training mode",
        one(graph(DROPOUT, ratio=np.array(0.5, np.float32), training=np.array(1, bool))),
        "behaviour.deterministic",
    ),
    Case("a mean over the batch", one(graph(OVER_BATCH)), "behaviour.batch-independent"),
    Case("a softmax over the batch", one(graph(SOFTMAX)), "behaviour.batch-independent"),
    # agreement, accuracy, cost
    Case("another class than the parent", labelled(mlp, with_noise(1.0), "--min-agreement", "0.95"), "agreement.top1"),
    Case(
        "values far from the parent's", labelled(mlp, with_noise(0.2), "--max-error", "0.01"), "agreement.largest-error"
    ),
    Case("accuracy down five points", labelled(mlp, with_noise(0.3), "--max-drop", "4"), "accuracy.drop"),
    Case("too few samples to tell a drop", labelled(mlp, mlp, "--max-drop", "0.9"), "accuracy.drop"),
    Case(
        "accuracy below that of the ensemble",
        labelled(mlp, with_noise(0.3), "--max-ensemble-drop", "4"),
        "accuracy.ensemble-drop",
    ),
    Case(
        "larger than the parent",
        against(lambda: mlp(extra=np.ones(999, np.float32)), mlp, "--max-size-ratio", "1.5"),
        "cost.size",
    ),
    Case(
        "more parameters",
        against(
            lambda: mlp(w=np.ones((50, 4), np.float32), b=np.ones(50, np.float32), v=np.ones((3, 50), np.float32)),
            mlp,
            "--max-parameters-ratio",
            "1",
        ),
        "cost.parameters",
    ),
    Case("slower than can be", against(mlp, mlp, "--max-latency-ratio", "0"), "cost.latency"),
    # asked for, but not to be told of the model
    Case(
        "no float output to hold to an error",
        against(graph(CLASS), graph(LEAST), "--max-error", "0"),
        "agreement.largest-error",
    ),
    Case(
        "no scores of classes",
        labelled(graph(ONE), graph(ONE), "--min-agreement", "0.9", "--skip", "accuracy"),
        "agreement.top1",
    ),
    Case(
        "a parent without parameters",
        against(mlp, graph(RELU), "--max-parameters-ratio", "1", "--skip", "interface"),
        "cost.parameters",
    ),
    Case("a parent that gives nan", against(mlp, spoilt("c", np.nan), "--max-error", "0.1"), "agreement.largest-error"),
    Case(
        "nan beside a parent that has none",
        against(spoilt("c", np.inf), mlp, "--max-error", "0.1", "--skip", "behaviour"),
        "agreement.largest-error",
    ),
    # provenance
    Case("weights changed after merging", merged(edited), "provenance.weights"),
    Case("made from other models", merged(unchanged, other=True), "provenance.parents"),
    Case(
        "the recipe names other models",
        merged(with_entry("onnxmerge.sources", lambda text: " ".join(text.split()[::-1]))),
        "provenance.recipe",
    ),
    Case("the recipe was changed", merged(with_entry("onnxmerge.recipe", lambda text: text[:-9])), "provenance.recipe"),
    Case("merging again gives another", merged(edited_and_signed, "--reproduce"), "provenance.reproduce"),
    Case("no recipe to repeat", against(mlp, mlp, "--reproduce"), "provenance.reproduce"),
    Case("a logarithm of zero", one(graph(LOG)), "behaviour.finite"),
    Case("a root of what is negative", one(graph(ROOT)), "behaviour.finite"),
)


def tied() -> Build:
    """A network with a state whose batch is no axis 0; a schema wants both sizes free."""
    model = "(float[n,4] x, float[2,m,4] h) => (float[2,k,4] y) { u = Unsqueeze(x, zero)  y = Add(u, h) }"
    wanted = {"inputs": {"x": {"shape": ["N", 4]}, "h": {"shape": [2, "N", 4]}}, "outputs": {"y": {}}}
    return with_schema(graph(model, zero=np.array([0])), wanted)


def with_rows(rows: int, model: Callable[[], onnx.ModelProto], *options: object) -> Build:
    """A model held to itself on so many rows of data, whatever batch it fixes."""

    def built(folder: Path) -> list[object]:
        np.save(folder / "x.npy", np.random.default_rng(0).standard_normal((rows, 4)).astype(np.float32))
        return [*against(model, model)(folder), "--calib", "x.npy", *options]

    return built


def good(*options: object, model: Callable[[], onnx.ModelProto] = mlp) -> Build:
    return one(model, *options)


GOOD: tuple[Case, ...] = (
    Case("merged again onto its pretraining", merged_onto_base(method="ties"), None, 0),
    Case(
        "merged again with rules for single initializers",
        merged_onto_base(method="task-arithmetic", parameters=(ParameterRule("w", 0.3),)),
        None,
        0,
    ),
    Case(
        "merged again with rules for single groups",
        merged(unchanged, "--reproduce", method="rebasin", groups=(GroupRule("p0", pin=True),)),
        None,
        0,
    ),
    Case("merged again by a zip", merged(unchanged, "--reproduce", method="weight-zip"), None, 0),
    Case("an output without rows", good(model=graph(TOTAL)), None, 0),
    Case("rows only where there are several", good(model=graph(SQUEEZED)), None, 0),
    Case("plain", good(), None, 0),
    Case("certified", good("--certify"), None, 0),
    Case("an old runtime", good("--min-runtime", "1.12"), None, 0),
    Case("every target", good("--target", "tensorrt,openvino,onnxruntime-web"), None, 0),
    Case("its schema", with_schema(mlp, schema()), None, 0),
    Case("free where the schema has a number", with_schema(mlp, schema(inputs={"x": {"shape": [8, 4]}})), None, 0),
    Case("against itself", against(mlp, mlp), None, 0),
    Case("against another", against(mlp, lambda: mlp(**weights(1))), None, 0),
    Case(
        "another name in the second parent",
        lambda folder: [*against(mlp, mlp)(folder), "--against", saved(mlp(RENAMED), folder, "b.onnx")],
        None,
        0,
    ),
    Case("a fixed batch", good(model=lambda: mlp(FIXED)), None, 0),
    *(
        Case(f"a fixed batch and {rows} rows of data", with_rows(rows, lambda: mlp(FIXED)), None, 0)
        for rows in (1, 2, 5, 64)
    ),
    Case("a fixed batch, held to its parents on data", with_rows(5, lambda: mlp(FIXED), "--max-error", 9), None, 0),
    Case("external data beside it", external("m.data", there=True), None, 0),
    Case(
        "infinities in a mask",
        good(
            model=graph(
                "(float[n,4] x) => (float[n,4] y) { m = Add(x, w) y = Softmax(m) }",
                w=np.array([0, 0, -np.inf, 0], np.float32),
            )
        ),
        None,
        0,
    ),
    Case("along the sequence", good(model=graph(CUMULATED, axis=np.array(1))), None, 0),
    Case(
        "a convolution",
        good(
            "--certify",
            model=graph(
                CONVOLUTION,
                **normal(k=(4, 3, 3, 3), v=(2, 4)),
            ),
        ),
        None,
        0,
    ),
    Case("two inputs", good(model=graph("(float[n,4] a, float[n,4] b) => (float[n,4] y) { y = Add(a, b) }")), None, 0),
    Case("an own operator where it is known", good("--target", "openvino", model=own), None, 0),
    Case("an own operator where it is new", good("--min-runtime", "1.15", model=quick), None, 0),
    Case("a merge", merged(unchanged, "--reproduce"), None, 0),
    Case("a merge whose documentation was changed", merged(lambda model: setattr(model, "doc_string", "x")), None, 0),
    Case(
        "as accurate as its parent",
        labelled(mlp, mlp, "--max-drop", "1", "--max-ensemble-drop", "1", "--min-agreement", "1", "--max-error", "0"),
        None,
        0,
    ),
    Case(
        "as large as its parent",
        against(mlp, lambda: mlp(**weights(1)), "--max-size-ratio", "1", "--max-parameters-ratio", "1"),
        None,
        0,
    ),
    Case("not much slower", against(mlp, mlp, "--max-latency-ratio", "1000"), None, 0),
    Case("integrity alone", good("--only", "integrity"), None, 0),
    Case("a newer opset", good("--min-runtime", "1.18", model=lambda: with_opset(21, 10)), None, 0),
    Case(
        "integers in",
        good(model=graph("(int64[n,6] ids) => (float[n,6,4] y) { y = Gather(t, ids) }", **normal(t=(10, 4)))),
        None,
        0,
    ),
    Case("sizes that go together under names of their own", tied(), None, 0),
    Case(
        "a sequence of any length",
        good(model=graph("(float[n,s,4] x) => (float[n,s,3] y) { y = MatMul(x, w) }", **normal(w=(4, 3)))),
        None,
        0,
    ),
)
