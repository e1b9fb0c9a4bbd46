"""Train a merge for some steps with ONNX Runtime alone, and write it back.

python on_device.py merged.onnx data.npz trained.onnx

``data.npz`` has an array for the model's input and one of what it is to answer, named as the output. The loss is the
mean squared error. Needs onnxruntime-training-cpu (1.19.2), onnx 1.17, and torch, which that package imports.

ONNX Runtime trains BatchNormalization on each batch's own statistics, and leaves the running ones as they were: they
are measured afterwards, layer after layer.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.training import artifacts
from onnxruntime.training.api import CheckpointState, Module, Optimizer

BATCH, EPOCHS, RATE = 64, 5, 1e-4


def main() -> None:
    """Make the graphs of training, go through the data, and put the parameters into the merge."""
    source, data, target = sys.argv[1:]
    model = onnx.load(source)
    told = json.loads({each.key: each.value for each in model.metadata_props}["onnxmerge.training"])
    with np.load(data) as arrays:
        images, wanted = arrays[model.graph.input[0].name], arrays[model.graph.output[0].name]
    with tempfile.TemporaryDirectory() as folder:
        artifacts.generate_artifacts(
            model,
            requires_grad=told["learned"],
            frozen_params=told["statistics"] + told["fixed"],
            loss=artifacts.LossType.MSELoss,
            optimizer=artifacts.OptimType.AdamW,
            artifact_directory=folder,
        )
        state = CheckpointState.load_checkpoint(Path(folder, "checkpoint"))
        module = Module(Path(folder, "training_model.onnx"), state, Path(folder, "eval_model.onnx"))
        optimizer = Optimizer(Path(folder, "optimizer_model.onnx"), module)
        optimizer.set_learning_rate(RATE)
        module.train()
        for epoch in range(EPOCHS):
            order = np.random.default_rng(epoch).permutation(len(images))
            losses = []
            for start in range(0, len(order) - BATCH + 1, BATCH):
                rows = order[start : start + BATCH]
                losses.append(float(module(images[rows], wanted[rows])))
                optimizer.step()
                module.lazy_reset_grad()
            print(f"epoch {epoch + 1}: loss {np.mean(losses):.4f}")
        for tensor in model.graph.initializer:
            if tensor.name in told["learned"]:
                value = np.array(state.parameters[tensor.name].data, np.float32)
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    measure(model, images)
    onnx.save(model, target)


def measure(model: onnx.ModelProto, images: NDArray[np.float32]) -> None:
    """Set the running statistics of each BatchNormalization to those of the images."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in [each for each in model.graph.node if each.op_type == "BatchNormalization"]:
        probe = onnx.ModelProto()
        probe.CopyFrom(model)
        del probe.graph.output[:]
        probe.graph.output.add().name = node.input[0]
        session = ort.InferenceSession(probe.SerializeToString(), providers=["CPUExecutionProvider"])
        parts = np.array_split(images, -(-len(images) // 256))
        seen = np.concatenate([session.run(None, {model.graph.input[0].name: part})[0] for part in parts])
        axes = (0, *range(2, seen.ndim))
        for name, value in ((node.input[3], seen.mean(axes)), (node.input[4], seen.var(axes))):
            stored[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))


if __name__ == "__main__":
    main()
