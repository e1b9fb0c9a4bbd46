"""Models to begin with, and mutations of them: of their bytes, of any protobuf field, and of what ONNX means by it."""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from onnx import AttributeProto, TensorProto, helper

from tests.graphs import batchnorm, build, normal
from tests.strategies import grow
from tests.zoo.topology import available, filled

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
LARGEST = 500_000
"""Bytes of a model: what is larger takes longer to merge than to break."""

NUMBERS = (-(2**63), -(2**31), -1000, -1, 0, 1, 2, 3, 7, 255, 4096, 2**31 - 1, 2**31, 2**40, 2**62, 2**63 - 1)
TEXTS = (
    "", " ", "\0", "a\0b", "\x1b[31mred", "x" * 5000, "../../../../etc/passwd", "/etc/passwd", "x", "y", "é\u202e",
    "w1", "ai.onnx", "ai.onnx.ml", "com.microsoft", "Identity", "MatMul", "Loop", "If", "Pad", "Reshape",
    "QuantizeLinear",
)  # fmt: skip
BLOBS = (b"", b"\0", b"\xff" * 16, b"\x80" * 11, b"/etc/passwd", bytes(range(256)))

HANDMADE = (
    (
        """(float[n,4] x) => (float[n,3] y) { h = MatMul(x, w1) r = Relu(h) l = LayerNormalization(r, g, g)
        y = MatMul(l, w2) }""",
        normal(w1=(4, 6), w2=(6, 3), g=(6,)),
    ),
    (
        """(float[n,3,8,8] x) => (float[n,2] y) { a = Conv<pads=[1,1,1,1]>(x, w)
        b = BatchNormalization(a, n_scale, n_bias, n_mean, n_var) c = Relu(b) d = Conv<group=2>(c, v)
        e = GlobalAveragePool(d) f = Flatten(e) y = Gemm(f, u) }""",
        {**normal(w=(6, 3, 3, 3), v=(4, 3, 1, 1), u=(4, 2)), **batchnorm("n", 6)},
    ),
    (
        "(float[5,1,3] x) => (float[5,1,1,4] y) { y = LSTM<hidden_size=4>(x, w, r, b) }",
        normal(w=(1, 16, 3), r=(1, 16, 4), b=(1, 32)),
    ),
    (
        """(float[n,4] x, bool c) => (float[n,4] y) {
        y = If<then_branch = a () => (float[n,4] t) { t = MatMul(x, w) },
            else_branch = b () => (float[n,4] e) { e = Neg(x) }>(c) }""",
        normal(w=(4, 4)),
    ),
    (
        """(float[2,3] x) => (float[2,3] y) { steps = Constant<value=int64 {3}>() go = Constant<value=bool {1}>()
        y = Loop<body = b (int64 i, bool c, float[2,3] s) => (bool d, float[2,3] t) {
            d = Identity(c) t = MatMul(s, w) }>(steps, go, x) }""",
        normal(w=(3, 3)),
    ),
    (
        """(float[n,4] x) => (float[n,2] y) { q = DequantizeLinear<axis=1>(w, s) h = MatMul(x, q) d = Shape(h)
        z = Reshape(h, d) p = Pad(z, k) y = MatMul(p, v) }""",
        {
            **normal(v=(8, 2)), "w": np.arange(24, dtype=np.int8).reshape(4, 6),
            "s": np.full(6, 0.1, np.float32), "k": [0, 1, 0, 1],
        },
    ),
    (
        """(int64[1,5] ids) => (float[1,5,7] y) { e = Gather(t, ids) a = MatMul(e, q) b = Reshape(a, s)
        c = Transpose<perm=[0,2,1,3]>(b) d = Transpose<perm=[0,2,3,1]>(b) m = MatMul(c, d) p = Softmax(m)
        o = MatMul(p, c) f = Transpose<perm=[0,2,1,3]>(o) g = Reshape(f, u) h = Concat<axis=2>(g, e)
        i, j = Split<num_outputs=2, axis=2>(h) k = Add(i, j) y = MatMul(k, v) }""",
        {**normal(t=(9, 8), q=(8, 8), v=(8, 7)), "s": [0, 0, 2, 4], "u": [0, 0, 8]},
    ),
)  # fmt: skip


def seeds() -> list[Callable[[], onnx.ModelProto]]:
    """Models to mutate; each is made when it is asked for. Always the same ones, in the same order."""
    examples = sorted((ROOT / "onnxmerge" / "examples" / "digits").glob("*.onnx"))
    folders = [SHARED / "corpus", SHARED / "faults"]
    shared = sorted(path for folder in folders for path in folder.glob("*.onnx") if path.stat().st_size < LARGEST)
    found: list[Callable[[], onnx.ModelProto]] = []
    found += [partial(_grown, at) for at in range(24)]
    found += [partial(build, *pair, check=False) for pair in HANDMADE for _ in range(4)]
    found += [partial(onnx.load, path, load_external_data=False) for path in (*examples, *shared)]
    found += [partial(_topology, path) for path in available()[::5]]
    return found


def _grown(seed: int) -> onnx.ModelProto:
    random = Random(seed)
    return grow(random.randrange, 1 + seed % 12)


def _topology(path: Path) -> onnx.ModelProto:
    model = onnx.ModelProto.FromString(lzma.decompress(path.read_bytes()))
    size = sum(4 * int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    return filled(model) if size < 4 * LARGEST else _grown(size)


def mutate(model: onnx.ModelProto, random: Random) -> bytes:
    """The bytes of a mutated copy."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        change = random.choice((_any_field, _any_field, _any_field, *MEANINGFUL))
        try:
            change(copy, random)
        except (
            ValueError,
            TypeError,
            IndexError,
            AttributeError,
            KeyError,
            DecodeError,
        ):  # there is nothing of the kind, or it does not fit
            _any_field(copy, random)
    data = copy.SerializePartialToString()
    return scrambled(data, random) if random.random() < 0.25 else data


def scrambled(data: bytes, random: Random) -> bytes:
    """Bytes flipped, cut off, doubled or put in between."""
    found = bytearray(data)
    kind = random.randrange(4)
    if not found or kind == 0:
        at = random.randrange(len(found) + 1)
        found[at:at] = random.choice((*BLOBS, random.randbytes(9)))
    elif kind == 1:
        del found[random.randrange(len(found)) :]
    elif kind == 2:
        begin = random.randrange(len(found))
        found[begin:begin] = found[begin : begin + random.randrange(200)]
    else:
        for _ in range(random.choice((1, 1, 2, 5, 50))):
            # Headers stand at the beginning and the end of most formats: half of all flips go there.
            where = random.choice((len(found), min(len(found), 300)))
            found[random.randrange(where)] = random.randrange(256)
    return bytes(found)


# --- any field ---------------------------------------------------------------------------------------------------


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                yield from _messages(inner)


def _any_field(model: onnx.ModelProto, random: Random) -> None:
    """Change a random field of a random message, set or not."""
    found = list(_messages(model))
    for _ in range(20):
        message = random.choice(found)
        given = [field for field, _ in message.ListFields()]
        pool = given if given and random.random() < 0.7 else list(message.DESCRIPTOR.fields)
        try:
            _change(message, random.choice(pool), random)
        except (ValueError, TypeError):  # an enumeration is closed, a text is no text
            continue
        return


def _change(message: Message, field: FieldDescriptor, random: Random) -> None:
    if not field.is_repeated:
        if random.random() < 0.3:
            message.ClearField(field.name)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            getattr(message, field.name).SetInParent()
        else:
            setattr(message, field.name, _scalar(field, random))
        return
    values = getattr(message, field.name)
    kind = random.randrange(5)
    if kind == 0 or not values:
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            values.add()
        else:
            values.append(_scalar(field, random))
    elif kind == 1:
        del values[random.randrange(len(values))]
    elif kind == 2:
        values.append(random.choice(list(values)))
    elif kind == 3:
        kept = list(values)
        random.shuffle(kept)
        message.ClearField(field.name)
        getattr(message, field.name).extend(kept)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        values[random.randrange(len(values))].CopyFrom(random.choice(list(values)))
    else:
        values[random.randrange(len(values))] = _scalar(field, random)


def _scalar(field: FieldDescriptor, random: Random) -> Any:
    if field.type == FieldDescriptor.TYPE_STRING:
        return random.choice(TEXTS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return random.choice((*BLOBS, *(text.encode() for text in TEXTS)))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return random.choice(field.enum_type.values).number
    if field.cpp_type in {FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE}:
        return random.choice((0.0, -1.0, 1e38, float("nan"), float("inf")))
    return random.choice(NUMBERS if random.random() < 0.6 else range(30))


# --- what ONNX means ---------------------------------------------------------------------------------------------


def _graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    return [message for message in _messages(model) if isinstance(message, onnx.GraphProto)]


def _nodes(model: onnx.ModelProto, random: Random) -> Any:
    return random.choice(_graphs(model)).node


def _names(model: onnx.ModelProto) -> list[str]:
    names = {name for graph in _graphs(model) for node in graph.node for name in (*node.input, *node.output)}
    return sorted(names) or [""]


def _rewire(model: onnx.ModelProto, random: Random) -> None:
    """An operand becomes another tensor: of another shape, from behind, or of another graph."""
    node = random.choice(_nodes(model, random))
    side = random.choice((node.input, node.input, node.output))
    side[random.randrange(len(side))] = random.choice(_names(model))


def _swap_operands(model: onnx.ModelProto, random: Random) -> None:
    node = random.choice(_nodes(model, random))
    operands = list(node.input)
    random.shuffle(operands)
    node.input[:] = operands[: random.randrange(len(operands) + 1)] if random.random() < 0.3 else operands


def _double_node(model: onnx.ModelProto, random: Random) -> None:
    nodes = _nodes(model, random)
    copy = nodes.add()
    copy.CopyFrom(random.choice(list(nodes[:-1])))
    if random.random() < 0.5:
        copy.output[:] = [f"{name}_again" for name in copy.output]


def _other_operator(model: onnx.ModelProto, random: Random) -> None:
    node = random.choice(_nodes(model, random))
    operators = sorted(
        {(node.domain, node.op_type) for graph in _graphs(model) for node in graph.node}
        | {("", schema.name) for schema in onnx.defs.get_all_schemas()}
    )
    node.domain, node.op_type = random.choice(operators)


def _retype_attribute(model: onnx.ModelProto, random: Random) -> None:
    attribute = random.choice(random.choice(_nodes(model, random)).attribute)
    kind = random.randrange(4)
    if kind == 0:
        attribute.type = random.choice(list(AttributeProto.AttributeType.values()))
    elif kind == 1:
        name = attribute.name
        value = random.choice((random.choice(NUMBERS), [random.choice(NUMBERS)] * random.randrange(5), 0.5, "text", []))
        made = (
            helper.make_attribute(name, value) if value != [] else AttributeProto(name=name, type=AttributeProto.INTS)
        )
        attribute.CopyFrom(made)
    elif kind == 2:
        attribute.ref_attr_name = random.choice(TEXTS)
    else:
        attribute.ints[:] = [random.choice(NUMBERS) for _ in range(random.randrange(8))]


def _cut_initializer(model: onnx.ModelProto, random: Random) -> None:
    """Data that is shorter or longer than the dims say, of another type, or in the field of another type."""
    tensor = random.choice(model.graph.initializer)
    kind = random.randrange(5)
    if kind == 0:
        tensor.raw_data = tensor.raw_data[: random.randrange(len(tensor.raw_data) + 1)]
    elif kind == 1:
        tensor.data_type = random.choice(list(TensorProto.DataType.values()))
    elif kind == 2:
        tensor.dims[random.randrange(len(tensor.dims))] = random.choice(NUMBERS)
    elif kind == 3:
        tensor.ClearField("raw_data")
        random.choice((tensor.int64_data, tensor.int32_data, tensor.uint64_data)).extend([1, 2, 3, 2**31 - 1])
    else:
        width = {1: np.float32, 7: np.int64}[tensor.data_type]
        values = np.frombuffer(tensor.raw_data, width).copy()
        values[random.randrange(len(values))] = random.choice((0, -1, 2**31) if width is np.int64 else (np.nan, np.inf))
        tensor.raw_data = values.tobytes()


def _move_outside(model: onnx.ModelProto, random: Random) -> None:
    """External data that is absent, elsewhere, in the model itself, or of an impossible extent."""
    tensors = [message for message in _messages(model) if isinstance(message, TensorProto)]
    tensor = random.choice(tensors)
    if random.random() < 0.7:
        tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    places = ("data.bin", "a.onnx", "missing.bin", "../a.onnx", "/etc/passwd", "", ".", "a\0b", "x" * 300)
    numbers = (*map(str, NUMBERS), "", "ten", "1e9", " 1", "0x10")
    for key, values in (("location", places), ("offset", numbers), ("length", numbers), ("checksum", TEXTS)):
        if random.random() < 0.7:
            tensor.external_data.add(key=key, value=random.choice(values))


def _nest(model: onnx.ModelProto, random: Random) -> None:
    """The nodes of the graph inside branches inside branches."""
    depth = random.choice((1, 2, 5, 20, 30))
    inner = onnx.GraphProto(name="inner")
    inner.node.extend(model.graph.node)
    inner.output.extend(model.graph.output)
    names = [value.name for value in model.graph.output]
    for _ in range(depth):
        node = onnx.NodeProto(op_type="If", input=["condition"], output=names)
        for branch in ("then_branch", "else_branch")[: 2 if depth < 3 else 1]:
            node.attribute.append(helper.make_attribute(branch, inner))
        inner = onnx.GraphProto(name="outer", node=[node])
        inner.output.extend(model.graph.output)
    model.graph.ClearField("node")
    model.graph.node.extend(inner.node)
    model.graph.initializer.append(helper.make_tensor("condition", TensorProto.BOOL, [], [True]))


def _call_functions(model: onnx.ModelProto, random: Random) -> None:
    """Functions that call one another: a chain, twice each time, or in a circle."""
    depth, calls = random.choice(((3, 1), (30, 2), (2, 40))), random.choice(("chain", "circle"))
    opset = helper.make_opsetid("", 18), helper.make_opsetid("my", 1)
    for level in range(depth[0]):
        last = level == depth[0] - 1
        called = "f0" if calls == "circle" else f"f{level + 1}"
        nodes = [
            helper.make_node("Identity" if last and calls == "chain" else called, [f"t{at}"], [f"t{at + 1}"],
                             domain="" if last and calls == "chain" else "my")
            for at in range(depth[1])
        ]  # fmt: skip
        model.functions.append(helper.make_function("my", f"f{level}", ["t0"], [f"t{depth[1]}"], nodes, opset))
    model.opset_import.append(opset[1])
    node = random.choice(model.graph.node)
    node.domain, node.op_type = "my", "f0"


def _other_opset(model: onnx.ModelProto, random: Random) -> None:
    random.choice(model.opset_import).version = random.choice((*range(1, 27), *NUMBERS))


def _resize_input(model: onnx.ModelProto, random: Random) -> None:
    value = random.choice((*model.graph.input, *model.graph.output, *model.graph.value_info))
    kind = random.randrange(4)
    tensor = value.type.tensor_type
    if kind == 0:
        tensor.elem_type = random.choice(list(TensorProto.DataType.values()))
    elif kind == 1:
        tensor.shape.dim[random.randrange(len(tensor.shape.dim))].dim_value = random.choice(NUMBERS)
    elif kind == 2:
        tensor.shape.dim[random.randrange(len(tensor.shape.dim))].dim_param = random.choice(("n", "m", *TEXTS))
    else:
        inner = onnx.TypeProto.FromString(value.type.SerializeToString())
        value.type.sequence_type.elem_type.CopyFrom(inner)


def _huge_constant(model: onnx.ModelProto, random: Random) -> None:
    """A tensor of any size, made from a few numbers."""
    sizes = [random.choice(NUMBERS[4:]) for _ in range(random.randrange(1, 4))]
    name = f"sizes{len(model.graph.initializer)}"
    model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [len(sizes)], sizes))
    operator, *operands = random.choice(
        (("ConstantOfShape", name), ("Expand", "x", name), ("Tile", "x", name), ("Range", name, name, name))
    )
    model.graph.node.insert(0, helper.make_node(operator, operands, [f"{name}_made"]))
    node = random.choice(model.graph.node[1:])
    node.input[random.randrange(len(node.input))] = f"{name}_made"


MEANINGFUL: tuple[Callable[[onnx.ModelProto, Random], None], ...] = (
    _rewire, _swap_operands, _double_node, _other_operator, _retype_attribute, _cut_initializer, _cut_initializer,
    _move_outside, _nest, _call_functions, _other_opset, _resize_input, _huge_constant,
)  # fmt: skip
