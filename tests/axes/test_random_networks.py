"""Random networks: whatever the calculus calls free must be free."""

from __future__ import annotations

import onnx
import pytest
from hypothesis import HealthCheck, given, settings

from onnxmerge.axes.infer import type_graph
from onnxmerge.model.read import read_network
from onnxmerge.model.trace import trace
from onnxmerge.validation.certificate import certify
from tests.strategies import networks


def check(model: onnx.ModelProto) -> None:
    network = read_network(model)
    found = trace(network)
    certificate = certify(type_graph(network, found, [network.weights]), found, samples=2)
    assert certificate.passed or certificate.values_compared == 0, certificate.failure


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(networks())
def test_permuting_what_is_free_changes_nothing(model: onnx.ModelProto) -> None:
    check(model)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(networks(max_steps=18))
def test_permuting_what_is_free_changes_nothing_in_thousands(model: onnx.ModelProto) -> None:
    check(model)
