"""What was proved with half of a group's units apart holds at every width."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxmerge.merging.combine import combine
from onnxmerge.model.session import open_session
from onnxmerge.pipeline.prepare import Prepared, load, type_models
from onnxmerge.resizing.layout import Budget, apart
from onnxmerge.resizing.network import resized_network
from onnxmerge.resizing.proof import provable
from onnxmerge.units.resize import resizable_spaces
from onnxmerge.units.zips import Zipped, identity_zip
from tests.heads.networks import attention, cnn
from tests.resizing.test_resizing import residual
from tests.strategies import networks


def prepared(model: onnx.ModelProto) -> Prepared:
    """The model twice, typed beside one of other weights: what is equal in all models is a table, not weights."""
    other, rng = onnx.ModelProto(), np.random.default_rng(0)
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f":
            moved = (array * rng.uniform(0.9, 1.1, array.shape)).astype(array.dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
    found = type_models(load([model, other]), None, None)
    first = found.models.weights[0]
    return replace(found, models=replace(found.models, weights=(first, first)))


def outputs(found: Prepared, zips: Zipped) -> dict[str, Any]:
    network = resized_network(found.models, found.typing, zips.widths)
    weights = combine(found.models, found.typing, zips)
    return open_session(network.model, weights=weights).run(found.trace.sample)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(model=networks(max_steps=6), draw=st.data())
def test_a_network_of_any_other_width_runs(model: onnx.ModelProto, draw: st.DataObject) -> None:
    found = prepared(model)
    typing = found.typing
    sizes = {name: typing.spaces[name].size for name in resizable_spaces(typing)}
    names = provable(list(sizes), found.models, typing, found.trace.sample)
    expected = open_session(found.models.template.model).run(found.trace.sample)
    budgets, widths, narrow = {}, dict[str, int](), dict[str, Any]()
    for name in names:
        shared = draw.draw(st.integers(0, sizes[name]))
        budgets[name] = Budget(np.arange(shared), np.arange(shared, sizes[name]), 2)
        widths[name] = draw.draw(st.integers(1, sizes[name]))
        narrow[name] = np.arange(sizes[name]) % widths[name]
    unmoved = identity_zip(typing.spaces)
    wide = outputs(found, apart(budgets, [unmoved, unmoved]))
    fewer = outputs(found, Zipped(({**unmoved, **narrow},) * 2, widths))
    for name, array in expected.items():
        scale = np.abs(array).max(initial=1e-6)
        np.testing.assert_allclose(wide[name], array, rtol=1e-3, atol=1e-4 * scale)
        assert fewer[name].shape == array.shape


def proved(model: onnx.ModelProto) -> list[int]:
    """The sizes of the groups that can have another width."""
    found = prepared(model)
    names = provable(resizable_spaces(found.typing), found.models, found.typing, found.trace.sample)
    return sorted(found.typing.spaces[name].size for name in names)


def test_what_is_read_as_a_whole_is_not_proved() -> None:
    assert proved(residual()) == [6, 8]
    assert proved(attention()) == [2]


def test_groups_of_channels_are_widened_as_a_whole() -> None:
    assert proved(cnn()) == [4]


def test_a_reshape_that_names_the_old_size_names_the_new_one() -> None:
    found = prepared(residual())
    network = resized_network(found.models, found.typing, dict.fromkeys(resizable_spaces(found.typing), 3))

    def target(graph: ir.Graph) -> list[int]:
        (value,) = (node.inputs[1] for node in graph if node.op_type == "Reshape")
        assert value is not None
        assert value.const_value is not None
        return [int(size) for size in value.const_value.numpy()]

    assert target(network.graph) == [-1, 3]
    assert target(found.models.template.graph) == [-1, 8]
