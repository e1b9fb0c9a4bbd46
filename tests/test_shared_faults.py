"""Small inputs that failed when the tool was tried as a new user would: each gives the right answer now."""

from __future__ import annotations

import shutil
from itertools import permutations
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.command_line import Cli
from tests.graphs import execute, initializers


@pytest.fixture
def faults(shared: Path) -> Path:
    if not (shared / "faults").is_dir():
        pytest.skip("no shared faults")
    return shared / "faults"


def merged(cli: Cli, *arguments: object) -> tuple[onnx.ModelProto, str]:
    ended = cli("run", *arguments, "-o", "merged.onnx")
    assert ended.returncode == 0, ended.stderr
    return onnx.load("merged.onnx"), ended.stdout


@pytest.mark.parametrize("order", list(permutations(("a1.onnx", "b1b.onnx"))))
def test_a_fixed_batch_pairs_up_with_a_free_one(order: tuple[str, ...], faults: Path, cli: Cli) -> None:
    found, _ = merged(cli, *(faults / name for name in order), "--calib", faults / "x16.npz")
    assert execute(found, {"x": np.ones((7, 16), np.float32)})["y"].shape == (7, 5)


@pytest.mark.parametrize("method", ["rebasin", "mudsc-align", "weight-zip"])
def test_an_infinite_row_is_kept(method: str, faults: Path, cli: Cli) -> None:
    models = [faults / "inf_row.onnx", faults / "inf_row.perm.onnx"]
    options = ("--method", method, "--repair", "none")
    found, _ = merged(cli, *models, "--calib", faults / "ids20.npz", *options)
    assert np.isneginf(initializers(found)["emb.weight"][0]).all()
    ids = {"ids": np.load(faults / "ids20.npz")["ids"]}
    wanted = execute(onnx.load(models[0]), ids)["logits"]
    np.testing.assert_allclose(execute(found, ids)["logits"], wanted, rtol=1e-4, atol=1e-5)


def test_a_batch_that_is_fixed_inside_is_found_out(faults: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copy(faults / "khmersm.onnx", tmp_path)
    data = faults / "model.onnx.data"  # which may have stayed behind: then any weights serve
    if data.exists():
        shutil.copy(data, tmp_path)
    else:
        proto = onnx.load(tmp_path / "khmersm.onnx", load_external_data=False)
        ends = [
            int(info["offset"]) + int(info["length"])
            for tensor in proto.graph.initializer
            if "offset" in (info := {entry.key: entry.value for entry in tensor.external_data})
        ]
        rng = np.random.default_rng(0)
        (0.05 * rng.standard_normal(max(ends) // 4)).astype(np.float32).tofile(tmp_path / "model.onnx.data")
    _, said = merged(
        cli,
        "khmersm.onnx",
        "khmersm.onnx",
        "--calib",
        faults / "khmer.calib.npz",
        "--method",
        "rebasin",
        "--repair",
        "none",
    )
    assert "runs on 1 sample at a time only" in " ".join(said.split())


@pytest.mark.parametrize("order", list(permutations(("tied.onnx", "untied.onnx"))))
def test_tied_and_untied_exports_are_one_network(order: tuple[str, ...], faults: Path, cli: Cli) -> None:
    found, _ = merged(cli, *(faults / name for name in order), "--method", "rebasin")
    assert [value.name for value in found.graph.output] == ["logits"]
    ids = {"ids": np.arange(20).reshape(4, 5)}
    wanted = execute(onnx.load(faults / order[0]), ids)["logits"]
    np.testing.assert_allclose(execute(found, ids)["logits"], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gqa_rot", "gqa_past", "gqa_pastrot", "mqa_rot", "mha_rot"])
def test_heads_of_shared_keys_are_free(name: str, faults: Path, cli: Cli) -> None:
    ended = cli("inspect", faults / f"{name}.onnx", "--certify")
    assert ended.returncode == 0, ended.stderr
    assert "certificate  passed" in ended.stdout
    assert float(ended.stdout.partition("free         ")[2].partition("%")[0]) > 75


def test_one_sample_is_few(faults: Path, cli: Cli) -> None:
    _, said = merged(cli, faults / "a1.onnx", faults / "a1.onnx", "--calib", faults / "one.npz")
    assert "1 calibration sample is few: the widest group, p0 of 32 units, needs 64 or more" in " ".join(said.split())


REFUSED = {
    "adapters": (("lora4.onnx", "lora8.onnx"), "fold each adapter into its base weight first"),
}


def test_quantised_pairs_are_merged_in_floats_and_quantised_again(faults: Path, cli: Cli) -> None:
    found, said = merged(cli, faults / "a1.qdq.onnx", faults / "a1b.qdq.onnx", "--method", "average")
    own = onnx.load(faults / "a1.qdq.onnx")
    assert sorted(node.op_type for node in found.graph.node) == sorted(node.op_type for node in own.graph.node)
    assert "quantised as the first model" in " ".join(said.split())


@pytest.mark.parametrize("planned", [(), ("--dry-run",)])
@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_what_helps(case: str, planned: tuple[str, ...], faults: Path, cli: Cli) -> None:
    models, helps = REFUSED[case]
    ended = cli("run", *(faults / name for name in models), "--method", "average", "-o", "merged.onnx", *planned)
    assert ended.returncode == 1
    assert helps in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1
