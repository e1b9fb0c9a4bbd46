"""Load a merge into the PyTorch class of its parents.

python to_torch.py merged.onnx parent.onnx parent.pt merged.pt

``parent.pt`` is the state_dict that ``parent.onnx``, the first model of the merge, was exported from. The two hold the
same numbers, whatever the exporter called them: that says which tensor of the class is which of the file, and whether
it lies there transposed. Needs onnx and torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


def tensors(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """All constants of a model by name; what the exporter stored once for two has both names."""
    found = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Identity" and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def state_of(
    merged: onnx.ModelProto, parent: onnx.ModelProto, state: Mapping[str, NDArray[Any]]
) -> dict[str, NDArray[Any]]:
    """The merge as a state_dict, by the ``state`` that the parent was exported from.

    Raises SystemExit for a tensor of the class that the parent's file does not hold, or holds more than once with
    different counterparts in the merge, and for one that was learned and is none of the class.
    """
    told = {each.key: each.value for each in merged.metadata_props}
    if "onnxmerge.training" not in told:
        raise SystemExit("the merge was not made with --export-for-training")
    learned = set(json.loads(told["onnxmerge.training"])["learned"])
    before, after = tensors(parent), tensors(merged)
    found: dict[str, NDArray[Any]] = {}
    used: set[str] = set()
    for name, own in state.items():
        if not np.issubdtype(own.dtype, np.floating):
            found[name] = own  # a count, such as num_batches_tracked
            continue
        places = [name] if name in before and np.array_equal(before[name], own) else _places(own, before)
        values = [_like(own, before[place], after[place]) for place in places if place in after]
        if not values:
            raise SystemExit(
                f"{name}: the parent's file holds no such numbers; export it in evaluation mode with BatchNorm kept "
                "(torch.onnx.export(..., training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False))"
            )
        if any(not np.array_equal(values[0], other) for other in values[1:]):
            raise SystemExit(f"{name}: may be any of {', '.join(places)}, which are equal in the parent only")
        used.update(places)
        found[name] = values[0]
    if learned - used:
        raise SystemExit(f"{min(learned - used)}: was learned, and is none of the state_dict")
    return found


def _places(own: NDArray[Any], known: Mapping[str, NDArray[Any]]) -> list[str]:
    """The names under which a file holds an array, as it is or transposed."""
    both = [own, own.T] if own.ndim == 2 else [own]
    return [name for name, array in known.items() if any(np.array_equal(array, each) for each in both)]


def _like(own: NDArray[Any], before: NDArray[Any], after: NDArray[Any]) -> NDArray[Any]:
    """What became of an array, as it lies in the class."""
    return after if np.array_equal(own, before) else np.ascontiguousarray(after.T)


def main() -> None:
    """Read, match, and write a state_dict."""
    import torch

    merged, parent, checkpoint, output = sys.argv[1:]
    state = {name: value.numpy() for name, value in torch.load(checkpoint, weights_only=True).items()}
    made = state_of(onnx.load(merged), onnx.load(parent), state)
    torch.save({name: torch.tensor(value) for name, value in made.items()}, output)


if __name__ == "__main__":
    main()
