"""``run`` with separate heads, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result

from onnxmerge.cli.main import commands
from tests.graphs import build, execute, normal

MLP = """(float[n,16] x) => (float[n,{k}] logits) {{
    h = Gemm<transB=1>(x, w1, b1) r = Relu(h) g = Gemm<transB=1>(r, w2, b2) s = Relu(g)
    logits = Gemm<transB=1>(s, w3, b3)
}}"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(commands, ["run", *map(str, arguments)], standalone_mode=False, catch_exceptions=False)


def save(folder: Path, name: str, classes: int, seed: int) -> Path:
    weights = normal(w1=(24, 16), b1=(24,), w2=(20, 24), b2=(20,), w3=(classes, 20), b3=(classes,), seed=seed)
    onnx.save(build(MLP.format(k=classes), weights), folder / name)
    return folder / name


def test_models_of_other_class_counts_share_a_trunk(tmp_path: Path) -> None:
    files = [save(tmp_path, "birds.onnx", 5, 1), save(tmp_path, "fish.onnx", 7, 2)]
    x = np.random.default_rng(0).standard_normal((256, 16)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    done = run(
        *files,
        "--calib",
        tmp_path / "x.npy",
        "--method",
        "mudsc-align",
        "-o",
        tmp_path / "m.onnx",
        "--json",
        tmp_path / "r.json",
    )
    assert "merged up to     s" in done.output
    found = execute(onnx.load(tmp_path / "m.onnx"), {"x": x})
    assert {name: value.shape[1] for name, value in found.items()} == {"logits_birds": 5, "logits_fish": 7}
    report = json.loads((tmp_path / "r.json").read_text())
    counts = [each["parameters"] for each in report["footprints"]]
    trunk = 24 * 16 + 24 + 20 * 24 + 20
    assert counts == [trunk + 21 * 5, trunk + 21 * 7, trunk + 21 * 12]
    flops = [each["flops"] for each in report["footprints"]]
    trunk = 2 * (24 * 16 + 20 * 24)
    assert flops == [trunk + 40 * 5, trunk + 40 * 7, trunk + 40 * 12]
    errors = []
    for file, name in zip(files, found, strict=True):
        want = execute(onnx.load(file), {"x": x[4::5]})["logits"]
        errors.append(float(np.linalg.norm(found[name][4::5] - want) / np.linalg.norm(want)))
    assert report["reconstruction"] == pytest.approx(errors, rel=1e-3)
    assert "relative error on held-out data" in done.output
    assert report["heads"] == {"border": ["s"], "until": [], "outputs": [["logits_birds"], ["logits_fish"]]}


def test_until_names_the_last_node_to_merge(tmp_path: Path, digits: Path) -> None:
    node = next(node for node in onnx.load(digits / "a.onnx").graph.node if node.op_type == "Relu")
    done = run(
        digits / "a.onnx",
        digits / "b.onnx",
        "--method",
        "rebasin",
        "-o",
        tmp_path / "m.onnx",
        "--until",
        node.output[0],
    )
    assert f"merged up to     {node.output[0]}" in done.output
    assert [v.name for v in onnx.load(tmp_path / "m.onnx").graph.output] == ["embedding_a", "embedding_b"]
