"""Runs models in one runtime that has a Python package: python run.py RUNTIME JOBS.json RESULT.json.

It needs nothing but that package and numpy, for it runs in an environment that has nothing else. A job says which
model, which file each input comes from and which file each output goes to; the result is the version of the runtime
and, for each job that it cannot do, what it said.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Model = Callable[[Mapping[str, Any], Sequence[str]], Sequence[Any]]


def onnxruntime(path: str, provider: str = "CPU") -> Model:
    """ONNX Runtime, on the CPU or by another of its execution providers."""
    ort = importlib.import_module("onnxruntime")
    # TensorFloat-32 keeps 10 bits of the mantissa, which is no fault of a model.
    options = {"use_tf32": "0"} if provider == "CUDA" else {}
    name = f"{provider}ExecutionProvider"
    session = ort.InferenceSession(path, providers=[(name, options)])
    if session.get_providers()[0] != name:
        raise RuntimeError(f"{name} does not start here")
    return lambda feeds, names: session.run(list(names), dict(feeds))


def reference(path: str) -> Model:
    """The evaluator of the onnx package, which says what operators mean."""
    evaluator = importlib.import_module("onnx.reference").ReferenceEvaluator(path)
    return lambda feeds, names: evaluator.run(list(names), dict(feeds))


def openvino(path: str) -> Model:
    """OpenVINO on the CPU, in float32: by default it takes bfloat16 where the processor has it."""
    core = importlib.import_module("openvino").Core()
    compiled = core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def run(feeds: Mapping[str, Any], names: Sequence[str]) -> Sequence[Any]:
        found = compiled(dict(feeds))
        return [found[name] for name in names]

    return run


def opencv(path: str) -> Model:
    """The DNN module of OpenCV."""
    network = importlib.import_module("cv2").dnn.readNetFromONNX(path)

    def run(feeds: Mapping[str, Any], names: Sequence[str]) -> Sequence[Any]:
        for name, value in feeds.items():
            network.setInput(value, name)
        return list(network.forward(list(names)))

    return run


RUNTIMES: Mapping[str, tuple[str, Callable[[str], Model]]] = {
    "onnxruntime": ("onnxruntime", onnxruntime),
    "cuda": ("onnxruntime", lambda path: onnxruntime(path, "CUDA")),
    "tensorrt": ("onnxruntime", lambda path: onnxruntime(path, "Tensorrt")),
    "reference": ("onnx", reference),
    "openvino": ("openvino", openvino),
    "opencv": ("cv2", opencv),
}
"""Each with the package whose version it has."""


def main() -> None:
    """Do every job that can be done."""
    numpy = importlib.import_module("numpy")
    name, jobs, result = sys.argv[1:]
    package, load = RUNTIMES[name]
    errors = {}
    for job in json.loads(Path(jobs).read_text()):
        try:
            model = load(job["model"])
            found = model({key: numpy.load(file) for key, file in job["inputs"].items()}, list(job["outputs"]))
        except Exception as error:  # noqa: BLE001 - what a runtime says of a model is what is asked for
            errors[job["name"]] = str(error) or type(error).__name__
            continue
        for file, values in zip(job["outputs"].values(), found, strict=True):
            numpy.save(file, values)
    version = importlib.import_module(package).__version__.partition("-")[0]
    Path(result).write_text(json.dumps({"version": version, "errors": errors}))


if __name__ == "__main__":
    main()
