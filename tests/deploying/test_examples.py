"""The examples of docs/examples do what their READMEs say: their commands are run, in a copy, as they stand there."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from tools.environments import Absent, browser, cache, npm

pytestmark = pytest.mark.slow

UNREACHABLE = re.compile(
    r"ENOTFOUND|ECONNREFUSED|ECONNRESET|ETIMEDOUT|ENETUNREACH|EHOSTUNREACH|EAI_AGAIN|EAI_FAIL"  # npm
    r"|Retry\(total=0, .* after connection broken by"  # pip, at the last time that it tries
)
"""What a program says whose registry cannot be reached. One that lacks what was asked for is a fault of the example."""

PATIENCE = 300.0


class Example:
    """A copy of an example in a folder as deep as in the checkout, and its README's commands."""

    def __init__(self, name: str, checkout: Path, folder: Path) -> None:
        absent = [program for program in ("bash", "curl", "npm", "node") if shutil.which(program) is None]
        if absent:
            pytest.skip(f"no {absent[0]} here")
        self.bash = str(shutil.which("bash"))
        self.folder = folder / "docs" / "examples" / name
        own = shutil.ignore_patterns(*(checkout / "docs" / "examples" / ".gitignore").read_text().split())
        shutil.copytree(checkout / "docs" / "examples" / name, self.folder, ignore=own)
        (folder / "onnxmerge").symlink_to(checkout / "onnxmerge")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        text = (self.folder / "README.md").read_text(encoding="utf-8").replace("8000", str(self.port))
        self.blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}

    def run(self, block: str) -> str:
        """Run commands to their end."""
        ended = subprocess.run(
            [self.bash, "-euc", block],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        return printed(ended)

    @contextlib.contextmanager
    def started(self) -> Iterator[str]:
        """Run the first block, whose last command serves until it is stopped."""
        *before, serve = self.blocks[0].strip().splitlines()
        self.run("\n".join(before))
        with subprocess.Popen(
            [self.bash, "-c", serve],
            cwd=self.folder,
            env=self.environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                self._wait(process)
                yield f"http://127.0.0.1:{self.port}"
            finally:
                os.killpg(process.pid, signal.SIGTERM)

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5):
                return
            time.sleep(0.2)
        pytest.fail(f"{process.args!r} does not serve")


def printed(ended: subprocess.CompletedProcess[str]) -> str:
    """What commands printed; skips where they failed for want of a network."""
    if ended.returncode and UNREACHABLE.search(ended.stderr):
        pytest.skip(ended.stderr[-300:])
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


UNKNOWN = "ERROR: No matching distribution found for fastapy"
"""What pip says at the end, with a network and without one."""


@pytest.mark.parametrize(
    ("stderr", "outcome"),
    [
        ("npm error code ENOTFOUND\nnpm error network request to https://registry.npmjs.org/x failed", pytest.skip),
        ("npm error code ECONNREFUSED", pytest.skip),
        ("npm error code E404\nnpm error 404 Not Found - GET https://registry.npmjs.org/onnxruntime-nod", None),
        (f"WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by 'X'\n{UNKNOWN}", pytest.skip),
        (UNKNOWN, None),
        ("Traceback (most recent call last):\nModuleNotFoundError: No module named 'x'", None),
    ],
)
def test_only_a_network_that_is_missing_excuses(stderr: str, outcome: Any) -> None:
    ended = subprocess.CompletedProcess("", 1, "", stderr)
    with pytest.raises(AssertionError if outcome is None else outcome.Exception):
        printed(ended)


def asked(address: str, value: object) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{address}/classify", json.dumps(value).encode())  # noqa: S310 - our own server
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, json.load(refused)


def expected(folder: Path, image: Any) -> dict[str, int]:
    """The class of each task that the merged model answers to one image [1, 8, 8]."""
    session = ort.InferenceSession(folder / "merged.onnx", providers=["CPUExecutionProvider"])
    [embedding] = session.run(None, {"images": image[None]})[0]
    tasks = json.loads((folder / "task.json").read_text())["tasks"]
    return {task["name"]: task["classes"][int(np.argmax(np.array(task["vectors"]) @ embedding))] for task in tasks}


@pytest.mark.parametrize("name", ["fastapi", "node"])
def test_a_service_answers_both_tasks(name: str, checkout: Path, digits: Path, tmp_path: Path) -> None:
    example = Example(name, checkout, tmp_path)
    test = np.load(digits / "test.npz")
    with example.started() as address:
        right = 0
        for image, label in zip(test["images"][:40], test["labels"], strict=False):
            code, answer = asked(address, {"pixels": ((image[0] + 1) * 8).tolist()})
            assert code == 200
            assert {task: each["class"] for task, each in answer["tasks"].items()} == expected(example.folder, image)
            right += answer["class"] == label
        assert right > 32
        row = [0] * 8
        refused: list[object] = [
            {},
            {"pixels": [row] * 7},
            {"pixels": [[*row, 1]] * 8},
            {"pixels": [[17] * 8] * 8},
            {"pixels": [[None] * 8] * 8},
            [],
            None,
        ]
        for wrong in refused:
            code, answer = asked(address, wrong)
            assert code == 422, answer
        for block in example.blocks[1:]:
            assert json.loads(example.run(block))["class"] == 1


def test_a_page_answers_what_is_drawn(checkout: Path, tmp_path: Path) -> None:
    example = Example("browser", checkout, tmp_path)
    try:
        modules, chromium = npm(["playwright-core"], cache() / "playwright-core"), browser()
    except Absent as reason:
        pytest.skip(str(reason))
    script = str(checkout / "tests" / "deploying" / "draw.mjs")
    with example.started() as address:
        command = [
            str(shutil.which("node")),
            script,
            str(modules),
            chromium,
            f"{address}/draw.html",
            str(tmp_path / "page.png"),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["elsewhere"] == found["complaints"] == []
    for digit, answer in found["answers"].items():
        assert answer["said"] == f"It is a {digit}"
        low, high = answer["best"]
        assert low < 5 <= high
        assert int(digit) in {low, high}


def test_conversions_answer_the_same(checkout: Path, tmp_path: Path) -> None:
    example = Example("convert", checkout, tmp_path)
    said = example.run(example.blocks[0]).splitlines()
    assert [line.split(":")[0] for line in said[-2:]] == ["merged.ort", "merged.xml"]
    assert all(float(line.split(": ")[1]) < 1e-4 for line in said[-2:])
