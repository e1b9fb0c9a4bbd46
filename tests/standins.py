"""Files under the names that the pages of docs/ use, so that the commands on them run as they stand.

Small ones: the digits that ship with the package, classifiers and detectors of random weights, and data to fit.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import yaml
from numpy.typing import NDArray
from PIL import Image

import onnxmerge
from tests.graphs import build, normal
from tests.zoo.topology import FOLDER, SUFFIX, filled, load_packed

CLASSIFIER = """(float[n,1,8,8] images) => (float[n,%d] logits) {
    x = Flatten(images) h = Gemm<transB=1>(x, w1, b1) r = Relu(h) g = Gemm<transB=1>(r, w2, b2) s = Relu(g)
    logits = Gemm<transB=1>(s, w3, b3)
}"""

CLASSES = {"cats": 10, "dogs": 5, "birds": 5, "fish": 5, "cars": 5, "pretrained": 5}


def stand_ins(folder: Path, digits: Path) -> None:
    """Fill a folder."""
    for name in ("a.onnx", "b.onnx", "task.json"):
        shutil.copy(digits / name, folder / name)
    for copy in ("exported.onnx", "model.onnx"):
        shutil.copy(digits / "a.onnx", folder / copy)
    shutil.copy(digits / "task.json", folder / "tasks.json")
    with np.load(digits / "test.npz") as test:
        images, labels = test["images"], test["labels"]
    for name in ("calib.npz", "test.npz", "data/x.npz", "test/x.npz"):
        (folder / name).parent.mkdir(exist_ok=True)
        np.savez(folder / name, images=images, **({"labels": labels} if name == "test.npz" else {}))
    np.save(folder / "x.npy", images)
    np.save(folder / "labels.npy", labels)
    (folder / "y.csv").write_text("".join(f"{label}\n" for label in labels))
    tasks = json.loads((digits / "task.json").read_text())["tasks"]
    np.save(folder / "words.npy", np.array([vector for task in tasks for vector in task["vectors"]], np.float32))
    pictures(folder / "photos", np.round((images[:150, 0] + 1) * 127.5).astype(np.uint8))
    for seed, (name, classes) in enumerate(CLASSES.items()):
        onnx.save(classifier(classes, seed), folder / f"{name}.onnx")
    adapters(folder)
    recipe = {"models": ["a.onnx", "b.onnx"], "calibration": {"data": "calib.npz"}, "method": "average"}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "output": "recipe.onnx"}))
    onnxmerge.merge([folder / "a.onnx", folder / "b.onnx"], method="average").save(folder / "merged.onnx")


def adapters(folder: Path) -> None:
    """A model with a low-rank branch, one that takes such a branch as inputs, and an adapter for it."""
    layer = "h = MatMul(x, w) p = MatMul(x, a) q = MatMul(p, b) y = Add(h, q)"
    factors = normal(a=(6, 2), b=(2, 8))
    onnx.save(
        build(f"(float[n,6] x) => (float[n,8] y) {{ {layer} }}", normal(w=(6, 8)) | factors), folder / "lora.onnx"
    )
    head = "(float[n,6] x, float[6,r] a, float[r,8] b) => (float[n,8] y)"
    onnx.save(build(f"{head} {{ {layer} }}", normal(w=(6, 8))), folder / "base.onnx")
    adapter = ort.AdapterFormat()
    adapter.set_adapter_version(1)
    adapter.set_model_version(1)
    adapter.set_parameters({name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in factors.items()})
    adapter.export_adapter(str(folder / "task.onnx_adapter"))


def classifier(classes: int, seed: int) -> onnx.ModelProto:
    """A classifier of digits, of random weights."""
    weights = normal(w1=(24, 64), b1=(24,), w2=(20, 24), b2=(20,), w3=(classes, 20), b3=(classes,), seed=seed)
    return build(CLASSIFIER % classes, weights)


def detector(classes: int, seed: int) -> onnx.ModelProto:
    """A YOLO in small, as torch exports it, of random weights and so many classes."""
    model = load_packed(FOLDER / f"hand/yolo.torchscript{SUFFIX}")
    for tensor in model.graph.initializer:
        if tensor.name.startswith("network.classes.") and tensor.name.count(".") == 4 and ".1." in tensor.name[-10:]:
            tensor.dims[0] = classes
    return filled(model, seed)


def pictures(folder: Path, pixels: NDArray[np.uint8]) -> None:
    """A folder of pictures, one for each array."""
    folder.mkdir()
    for number, each in enumerate(pixels):
        Image.fromarray(each).save(folder / f"{number:04}.png")
