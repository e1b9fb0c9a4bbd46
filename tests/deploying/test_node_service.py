"""The service of docs/examples/node outlives what clients do to it; a stand-in takes the place of ONNX Runtime."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

RUNTIME = """export default {
  InferenceSession: { create: async () => ({ run: async () => ({ embedding: { data: new Float32Array([1, 0]) } }) }) },
  Tensor: class { constructor(type, data) { if (data[0] === 1) throw new Error("no such tensor"); } },
};
"""
"""Answers one embedding to every image, and fails where the first pixel is 16."""

TASK = {"tasks": [{"name": "low", "classes": [0, 1], "vectors": [[1, 0], [0, 1]]}]}
ROW = [0] * 8


@pytest.fixture(scope="module")
def port(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    folder = tmp_path_factory.mktemp("node")
    shutil.copy(checkout / "docs" / "examples" / "node" / "service.mjs", folder)
    package = folder / "node_modules" / "onnxruntime-node"
    package.mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"name": package.name, "type": "module", "main": "index.js"}))
    (package / "index.js").write_text(RUNTIME)
    (folder / "merged.onnx").touch()
    (folder / "task.json").write_text(json.dumps(TASK))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = int(free.getsockname()[1])
    environment = {**os.environ, "PORT": str(number), "MODEL_FOLDER": str(folder)}
    with subprocess.Popen([node, "service.mjs"], cwd=folder, env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", number)):
                    break
                assert process.poll() is None
                time.sleep(0.05)
            yield number
        finally:
            process.terminate()


def asked(port: int, body: bytes) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/classify", body)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (json.dumps({"pixels": [ROW] * 8}), 200),
        (json.dumps({"pixels": [[16] * 8] * 8}), 500),
        (json.dumps({"pixels": [[None] * 8] * 8}), 422),
        (json.dumps({"pixels": [[[]] * 8] * 8}), 422),
        (json.dumps({"pixels": [["x"] * 8] * 8}), 422),
        (json.dumps({"pixels": [[-1] * 8] * 8}), 422),
        ('{"pixels": [' + ", ".join(["[1e999, 0, 0, 0, 0, 0, 0, 0]"] * 8) + "]}", 422),
        ("{", 422),
        ("[" * 20000, 422),
    ],
    ids=["an image", "a model that fails", "null", "lists", "words", "negative", "infinite", "no JSON", "too long"],
)
def test_a_request_has_its_answer_and_the_next_one_too(body: str, code: int, port: int) -> None:
    assert asked(port, body.encode()) == code
    assert asked(port, json.dumps({"pixels": [ROW] * 8}).encode()) == 200


def test_a_client_that_goes_away_does_not_end_the_service(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"POST /classify HTTP/1.1\r\nHost: here\r\nContent-Length: 999\r\n\r\n{")
        time.sleep(0.1)  # for the service to begin to read
    for _ in range(3):
        assert asked(port, json.dumps({"pixels": [ROW] * 8}).encode()) == 200
        time.sleep(0.05)
