#!/usr/bin/env python3
"""Split MNIST unevenly over several small classifiers, merge them, and score all on the 10,000 test images, in percent.

    python tools/split_mnist.py [FOLDER] [--models 2 4 8] [--concentration 0.5] [--seed 0] [--damage 2]
        [--way default ...] [--samples 5000] [--markdown]

Each class is divided over the models by a draw of its own from a Dirichlet distribution of that concentration (0.5:
some models hardly see some classes; 10: nearly even). The models are 784-256-10 and start from initialisations of
their own; they are kept in FOLDER, so that a second call trains nothing. Merged on unlabelled training images, the
same of all models mixed. With --damage the last model gets noise on all its weights, of so many times their own
deviation. A way is a method, with "+ls" least squares, with "+answer" the ensemble's answer and with "+auto" weights of
the models that are found (`--weights auto`); "default" is what `onnxmerge run` does by itself. "What each knows" is the
ensemble by which weights are found. Needs onnxmerge and the folder of real material beside the checkout
(or in ONNXMERGE_SHARED).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from scipy.special import softmax

from onnxmerge import merge
from onnxmerge.merging.answer.votes import votes_of
from onnxmerge.model.session import open_session

SHARED = Path(os.environ.get("ONNXMERGE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
WAYS = ("average", "mudsc-align", "zipit +ls", "default", "default +auto")
HIDDEN, CLASSES = 256, 10
EPOCHS, BATCH, RATE = 10, 64, 1e-3

Images = NDArray[np.float32]
Labels = NDArray[np.int64]
Network = dict[str, NDArray[np.float32]]


def main() -> None:
    """Train what is missing, merge in each of the ways, and print a table for each number of models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(tempfile.gettempdir()) / "split_mnist")
    parser.add_argument("--models", nargs="*", type=int, default=[2, 4, 8])
    parser.add_argument("--concentration", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--damage", type=float, default=0.0)
    parser.add_argument("--way", nargs="*", default=WAYS)
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    data = np.load(SHARED / "data" / "mnist.npz")
    images, test = (pixels(data[name]) for name in ("x_train", "x_test"))
    labels, right = (data[name].astype(np.int64) for name in ("y_train", "y_test"))
    calibration = images[data["calib"][: arguments.samples]]
    print(_row(("models", "", "accuracy", "seconds", "what was done"), markdown=arguments.markdown))
    if arguments.markdown:
        print(_row(("---",) * 5, markdown=True))
    for count in arguments.models:
        name = f"{count}models-{arguments.concentration:g}-{arguments.seed}"
        files = trained(arguments.folder / name, images, labels, count, arguments.concentration, arguments.seed)
        if arguments.damage:
            files[-1] = _damaged(files[-1], arguments.damage)
        answers = [_answers(ir.load(file), {}, test) for file in files]
        known = votes_of([_answers(ir.load(file), {}, calibration) for file in files])
        own = [_accuracy(found, right) for found in answers]
        rows = [
            ("parents", ", ".join(f"{each:.1f}" for each in own), "", ""),
            ("best parent", f"{max(own):.2f}", "", ""),
            ("ensemble of logits", f"{_accuracy(np.mean(answers, axis=0), right):.2f}", "", ""),
            ("ensemble of probabilities", f"{_accuracy(softmax(answers, axis=2).mean(axis=0), right):.2f}", "", ""),
            ("what each knows", f"{_accuracy(known.chances(answers), right):.2f}", "", ""),
        ]
        for row in rows:
            print(_row((f"{count}", *row), markdown=arguments.markdown), flush=True)
        for way in arguments.way:
            started = time.perf_counter()
            result = merge(files, calibration=calibration, **_settings(way))
            seconds = time.perf_counter() - started
            accuracy = _accuracy(_answers(result.template.model, result.weights, test), right)
            done = f"{result.report.method}, {result.report.repair}"
            if result.report.weighing is not None:
                done += f", weights {', '.join(f'{weight:g}' for weight in result.report.weighing.weights)}"
            cells = (f"{count}", way, f"{accuracy:.2f}", f"{seconds:.0f}", done)
            print(_row(cells, markdown=arguments.markdown), flush=True)


def _settings(way: str) -> dict[str, Any]:
    method, *more = way.split(" +")
    found: dict[str, Any] = {} if method == "default" else {"method": method}
    if "ls" in more:
        found["refine"] = "ls"
    if "answer" in more:
        found["answer"] = "ensemble"
    if "auto" in more:
        found["weights"] = "auto"
    return found


def _damaged(file: Path, much: float) -> Path:
    """The model with noise on all its weights, beside it."""
    rng, model = np.random.default_rng(0), ir.load(file)
    for name, value in model.graph.initializers.items():
        if value.const_value is not None:
            array = value.const_value.numpy()
            noise = much * array.std() * rng.standard_normal(array.shape)
            value.const_value = ir.tensor((array + noise).astype(np.float32), name=name)
    target = file.with_name(f"{file.stem}-damaged-{much:g}.onnx")
    ir.save(model, target)
    return target


def trained(
    folder: Path,
    images: Images,
    labels: Labels,
    count: int,
    concentration: float,
    seed: int,
    *,
    hidden: int = HIDDEN,
) -> list[Path]:
    """The files of the models, 784-hidden-10, trained where they are not there yet."""
    files = [folder / f"{index}.onnx" for index in range(count)]
    if all(file.exists() for file in files):
        return files
    folder.mkdir(parents=True, exist_ok=True)
    for index, (file, mine) in enumerate(zip(files, _split(labels, count, concentration, seed), strict=True)):
        rng = np.random.default_rng((seed, count, index))
        ir.save(_model(_train(images[mine], labels[mine], rng, hidden)), file)
    return files


def _split(labels: Labels, count: int, concentration: float, seed: int) -> list[Labels]:
    """For each model which images are its own: each class is divided by shares drawn for it."""
    rng = np.random.default_rng((seed, count))
    parts: list[list[Labels]] = [[] for _ in range(count)]
    for label in range(CLASSES):
        members = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.cumsum(rng.dirichlet(np.full(count, concentration)))[:-1] * len(members)
        for part, own in zip(parts, np.split(members, cuts.astype(int)), strict=True):
            part.append(own)
    return [np.concatenate(part) for part in parts]


def _train(images: Images, labels: Labels, rng: np.random.Generator, hidden: int) -> Network:
    """784-hidden-10 by Adam on the cross entropy."""
    sizes = {"1": (images.shape[1], hidden), "2": (hidden, CLASSES)}
    net: Network = {
        f"w{name}": rng.normal(0, np.sqrt(2 / a), (a, b)).astype(np.float32) for name, (a, b) in sizes.items()
    }
    net |= {f"b{name}": np.zeros(b, np.float32) for name, (_, b) in sizes.items()}
    first, second = ({name: np.zeros_like(each) for name, each in net.items()} for _ in range(2))
    step = 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(images))
        for chosen in np.split(order, range(BATCH, len(order), BATCH)):
            step += 1
            x, rows = images[chosen], np.arange(len(chosen))
            seen = np.maximum(x @ net["w1"] + net["b1"], 0)
            slope = softmax(seen @ net["w2"] + net["b2"], axis=1)
            slope[rows, labels[chosen]] -= 1
            slope /= len(chosen)
            back = (slope @ net["w2"].T) * (seen > 0)
            for name, grad in (("w1", x.T @ back), ("b1", back.sum(0)), ("w2", seen.T @ slope), ("b2", slope.sum(0))):
                first[name] = 0.9 * first[name] + 0.1 * grad
                second[name] = 0.999 * second[name] + 0.001 * grad**2
                scale = np.sqrt(second[name] / (1 - 0.999**step)) + 1e-8
                net[name] -= (RATE * first[name] / (1 - 0.9**step) / scale).astype(np.float32)
    return net


def _model(net: Network) -> ir.Model:
    """The network as ONNX: two Gemm with a Relu between, logits at the end."""
    x = ir.val("image", ir.DataType.FLOAT, ["batch", net["w1"].shape[0]])
    tensors = {name: ir.val(name, const_value=ir.tensor(array, name=name)) for name, array in net.items()}
    layer = ir.node("Gemm", [x, tensors["w1"], tensors["b1"]], name="hidden")
    relu = ir.node("Relu", layer.outputs, name="relu")
    last = ir.node("Gemm", [relu.outputs[0], tensors["w2"], tensors["b2"]], name="last")
    last.outputs[0].name, last.outputs[0].dtype, last.outputs[0].shape = (
        "logits",
        ir.DataType.FLOAT,
        ir.Shape(["batch", CLASSES]),
    )
    graph = ir.Graph(
        [x],
        last.outputs,
        nodes=[layer, relu, last],
        initializers=list(tensors.values()),
        opset_imports={"": 17},
        name="mlp",
    )
    return ir.Model(graph, ir_version=8)


def _answers(model: ir.Model, weights: Any, images: Images) -> NDArray[np.float32]:
    session = open_session(model, weights=weights)
    return np.asarray(session.run({"image": images})["logits"], np.float32)


def _accuracy(answers: NDArray[Any], right: Labels) -> float:
    return 100 * float((answers.argmax(axis=1) == right).mean())


def pixels(images: NDArray[np.uint8]) -> Images:
    """Images as the networks take them [n, 784]."""
    return ((images.reshape(len(images), -1) / 255 - 0.1307) / 0.3081).astype(np.float32)


def _row(cells: Sequence[str], *, markdown: bool) -> str:
    if markdown:
        return f"| {' | '.join(cells)} |"
    return f"{cells[0]:>6s} {cells[1]:26s} {cells[2]:>8s} {cells[3]:>8s}  {cells[4]}"


if __name__ == "__main__":
    main()
