"""``--cluster``: what is refused; and on real clusters of several processes (slow), that the bytes are the same."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from onnxmerge.activations.measuring import measure_statistics
from onnxmerge.activations.statistics import GramRequest
from onnxmerge.calibration.sources import open_source
from onnxmerge.calibration.specs import input_specs
from onnxmerge.cluster import ray_cluster
from onnxmerge.cluster.ray_cluster import LOCAL, RayCluster
from onnxmerge.errors import InputError, ResourceError
from onnxmerge.executor import HERE, Executor, Item, Result, Work
from onnxmerge.pipeline.prepare import load, type_models
from onnxmerge.pipeline.store import environment
from tests.cluster.test_executor import X, contents, networks
from tests.command_line import Cli

slow = pytest.mark.slow


@pytest.fixture
def ray() -> Any:
    """Ray, whose workers get what this file defines by value: they cannot import it."""
    found = pytest.importorskip("ray")
    for name in (__name__, "tests.cluster.test_executor"):
        found.cloudpickle.register_pickle_by_value(sys.modules[name])
    return found


@pytest.fixture
def run(digits: Path, cli: Cli) -> Callable[..., Any]:
    files = (digits / "a.onnx", digits / "b.onnx", "--calib", digits / "calib.npz", "-q")
    return lambda *words: cli("run", *files, *words)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("--cluster", "nowhere"), 2, "--cluster 'nowhere': expected local, auto, or HOST:PORT"),
        (("--cluster", "ray://head:10001"), 2, "expected local, auto, or HOST:PORT"),
        (("--cluster", "127.0.0.1:1"), 1, "--cluster 127.0.0.1:1: nobody answers there"),
        (("--cluster", "127.0.0.1:99999"), 1, "nobody answers there"),
        (("--worker-cpus", "2"), 2, "--worker-cpus is for --cluster; leave it out"),
        (("--cluster", "local", "--dry-run"), 2, "--cluster is where a merge is done"),
    ],
)
def test_what_is_refused(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: Sequence[str], code: int, told: str
) -> None:
    monkeypatch.setattr(ray_cluster, "ray", object())  # it is not asked
    ended = run(*words, *([] if "--dry-run" in words else ["-o", tmp_path / "m.onnx"]))
    assert (ended.returncode, ended.stderr.count("\n")) == (code, 1)
    assert told in ended.stderr
    assert not (tmp_path / "m.onnx").exists()


def test_without_ray_a_line_says_how_to_get_it(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray_cluster, "ray", None)
    ended = run("--cluster", "local", "-o", tmp_path / "m.onnx")
    assert ended.returncode == 2
    assert ended.stderr == 'error: --cluster needs Ray, which is not installed: pip install "onnxmerge[ray]"\n'


@contextmanager
def cluster_of(cpus: int = 1) -> Iterator[RayCluster]:
    with ray_cluster.ray_cluster(LOCAL, cpus=cpus, gpu=False, environment=environment) as found:
        yield found


@dataclass(frozen=True)
class Killing:
    """Work whose process is killed at the third item, the first time that it comes to it."""

    work: Any
    marker: Path

    def open(self) -> Callable[[Any], Any]:
        run, done = self.work.open(), []

        def killed(item: Any) -> Any:
            done.append(item)
            if len(done) == 2 and not self.marker.exists():
                self.marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return run(item)

        return killed


@dataclass(frozen=True)
class Deadly(Executor):
    """A cluster of which one worker is killed."""

    cluster: RayCluster
    marker: Path

    def map(self, work: Work[Item, Result], items: Any) -> Iterator[Result]:
        return self.cluster.map(Killing(work, self.marker), items)


@slow
@pytest.mark.usefixtures("ray")
def test_the_shard_of_a_worker_that_was_killed_is_done_again(tmp_path: Path) -> None:
    models = load(networks(2))
    data = np.random.default_rng(0).standard_normal((2000, 6)).astype(np.float32)
    source = open_source(data, input_specs(models.template.model))
    prepared = type_models(models, {"x": X[:2]}, None)
    requests = [GramRequest(space, names) for space, names in prepared.typing.taps.items()]
    steps: list[int] = []

    def measured(executor: Executor) -> list[bytes]:
        found = measure_statistics(
            models.template,
            models.weights,
            prepared.typing,
            requests,
            source,
            executor=executor,
            progress=lambda done, _: steps.append(done),
        )
        return contents(found)

    alone = measured(HERE)
    progress, steps[:] = list(steps), []
    with cluster_of() as cluster:
        assert measured(Deadly(cluster, tmp_path / "killed")) == alone
    assert (tmp_path / "killed").exists()
    assert steps == progress


@dataclass(frozen=True)
class Failing:
    how: str

    def open(self) -> Callable[[int], int]:
        def fail(item: int) -> int:
            if self.how == "error of ours":
                raise ResourceError(f"item {item} is too large")
            if self.how == "bug":
                raise ValueError(f"item {item} is odd")
            os.kill(os.getpid(), signal.SIGKILL)
            return item

        return fail


@slow
@pytest.mark.usefixtures("ray")
def test_work_that_fails_is_one_line() -> None:
    with cluster_of() as cluster:
        assert list(cluster.map(Failing("error of ours"), [])) == []
        for how, kind, told in (
            ("error of ours", ResourceError, "^item 7 is too large$"),
            ("bug", InputError, "a worker of the cluster failed: .*item 7 is odd"),
            ("kill", ResourceError, "workers of the cluster were lost 4 times at the same piece of work"),
        ):
            with pytest.raises(kind, match=told) as error:
                list(cluster.map(Failing(how), [7]))
            assert "\n" not in str(error.value)


def command(digits: Path, out: Path, *words: object) -> list[str]:
    files = [str(digits / name) for name in ("a.onnx", "b.onnx")]
    start = [sys.executable, "-m", "onnxmerge", "run", *files, "--calib", str(digits / "calib.npz"), "-q"]
    return [*start, "-o", str(out), *map(str, words)]


def left_over(command: int) -> list[str]:
    """Ray's processes that serve the command of this process id: Ray's folders are named after it."""
    listed = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True).stdout  # noqa: S607
    return [line for line in listed.splitlines() if re.search(rf"/onnxmerge-\w+/session_\S+_{command}/", line)]


@slow
@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize(
    "words", [("--method", "mudsc-align"), ("--method", "auto"), (), ("--method", "act-align", "--worker-cpus", "2")]
)
def test_the_same_bytes_come_out_and_no_cluster_stays(digits: Path, tmp_path: Path, words: Sequence[str]) -> None:
    alone, apart = tmp_path / "alone.onnx", tmp_path / "apart.onnx"
    here = [word for word in words if word not in ("--worker-cpus", "2")]
    subprocess.run(command(digits, alone, *here), check=True)
    given = command(digits, apart, *words, "--cluster", "local")
    with subprocess.Popen(given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.communicate() == ("", "")
    assert process.returncode == 0
    assert apart.read_bytes() == alone.read_bytes()
    assert not [line for line in left_over(process.pid) if "gcs_server" in line or "raylet/raylet" in line]


@slow
@pytest.mark.usefixtures("ray")
def test_many_models_and_a_work_folder(digits: Path, tmp_path: Path) -> None:
    third = digits / "a.onnx"
    words = ("--method", "auto", "--samples", "300", "--work-dir", tmp_path / "work")
    alone = command(digits, tmp_path / "alone.onnx", *words[:4])
    apart = command(digits, tmp_path / "apart.onnx", *words, "--cluster", "local", "--json", tmp_path / "r.json")
    for each in (alone, apart, [*apart, "--resume"]):
        each.insert(6, str(third))
        subprocess.run(each, check=True)
        if each is not alone:
            assert (tmp_path / "apart.onnx").read_bytes() == (tmp_path / "alone.onnx").read_bytes()
    assert any("used again" in note for note in json.loads((tmp_path / "r.json").read_text())["notes"])


@slow
@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_cluster_ends_with_its_command(digits: Path, tmp_path: Path, number: signal.Signals) -> None:
    words = ("--method", "auto", "--cluster", "local")
    with subprocess.Popen(command(digits, tmp_path / "m.onnx", *words), stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 60
        while not left_over(process.pid) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert left_over(process.pid)
        process.send_signal(number)
        process.wait(60)
    while left_over(process.pid) and time.monotonic() < deadline + 60:
        time.sleep(0.2)
    assert not left_over(process.pid)
    assert not (tmp_path / "m.onnx").exists()


@slow
@pytest.mark.usefixtures("ray")
def test_a_cluster_that_runs_already(digits: Path, tmp_path: Path) -> None:
    ray, port = str(Path(sys.executable).with_name("ray")), 6399
    quiet = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token"}
    start = [ray, "start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--block"]
    subprocess.run([ray, "get-auth-token", "--generate"], env=quiet, check=False, capture_output=True)
    words = ("--method", "mudsc-align")
    subprocess.run(command(digits, tmp_path / "alone.onnx", *words), check=True)
    with subprocess.Popen(start, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as head:
        try:
            apart = command(digits, tmp_path / "apart.onnx", *words, "--cluster", f"127.0.0.1:{port}")
            deadline = time.monotonic() + 90
            while (code := subprocess.run(apart, env=quiet, check=False).returncode) and time.monotonic() < deadline:
                time.sleep(1)
            assert code == 0
            assert head.poll() is None, "the cluster is not ours to end"
        finally:
            head.terminate()
            head.wait(60)
    assert (tmp_path / "apart.onnx").read_bytes() == (tmp_path / "alone.onnx").read_bytes()
