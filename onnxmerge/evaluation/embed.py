"""The outputs of a model on test data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmerge.model.network import Network
from onnxmerge.model.session import open_session, run

BATCH = 256


def embed(
    network: Network,
    inputs: NDArray[Any],
    *,
    weights: Mapping[str, NDArray[Any]] | None = None,
    provider: str = "auto",
) -> NDArray[np.float64]:
    """First output of a one-input network on ``inputs`` [N, ...], batch by batch, as float64 [N, ...].

    ``weights`` replaces the network's own (a merge that is not written yet).
    """
    session = open_session(network.model, weights=weights, provider=provider, optimise=True)
    name, output = str(network.graph.inputs[0].name), str(network.graph.outputs[0].name)
    parts = [run(session, {name: inputs[start : start + BATCH]})[output] for start in range(0, len(inputs), BATCH)]
    return np.concatenate(parts).astype(np.float64)
