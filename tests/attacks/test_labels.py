"""Labels, tasks and class vectors that are damaged, deep, huge, without end, or say what cannot be."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.attacks.attack import Attack, attacks
from tests.attacks.pair import write_pair
from tests.command_line import Cli

Content = str | bytes | Any
EVAL = ("eval", "a.onnx", "--data", "x.npy")


def given(name: str, content: Content, *options: object) -> Callable[[Path], Sequence[object]]:
    """An evaluation of twelve samples with a file of that content."""

    def build(folder: Path) -> Sequence[object]:
        write_pair(folder)
        np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32))
        np.save(folder / "y.npy", np.arange(12) % 3)
        path = folder / name
        if callable(content):
            content(path)
        elif isinstance(content, str | bytes):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            np.save(path, content)
        return [*EVAL, *options]

    return build


def lines(*first: object) -> str:
    return "\n".join(map(str, [*first, *[1] * (12 - len(first))]))


LABELS: dict[str, tuple[str, Content, str]] = {
    "NaN": ("l.npy", np.array([np.nan] + [1.0] * 11), "label nan"),
    "infinity": ("l.npy", np.array([np.inf] + [1.0] * 11), "label inf"),
    "a fraction": ("l.npy", np.array([0.5] + [1.0] * 11), "label 0.5"),
    "below -1": ("l.npy", np.array([-2] + [1] * 11), "label -2"),
    "huge": ("l.npy", np.array([2**40] + [1] * 11), "label 1.09951e+12"),
    "more than the model tells apart": ("l.npy", np.array([7] + [1] * 11), "tells 3 classes apart"),
    "none": ("l.npy", np.zeros(0), "a label for each sample is expected"),
    "too few": ("l.npy", np.ones(11, int), "more samples than labels"),
    "too many": ("l.npy", np.ones(13, int), "12 samples and 13 labels"),
    "one number": ("l.npy", np.array(1), "a label for each sample is expected"),
    "three axes": ("l.npy", np.ones((12, 1, 1)), "l.npy"),
    "two columns": ("l.npy", np.ones((12, 2)), "2 numbers for each sample"),
    "complex": ("l.npy", np.ones(12, complex), "complex128"),
    "dates": ("l.npy", np.zeros(12, "M8[s]"), "datetime64"),
    "words": ("l.npy", np.array(["cat"] * 12), "no number"),
    "only -1": ("l.npy", np.full(12, -1), "none of the 12 samples has a label"),
    "text: NUL": ("l.csv", lines("0\0"), "NUL"),
    "text: not UTF-8": ("l.csv", b"\xff\xfe1\n", "is not UTF-8"),
    "text: an open quote": ("l.csv", lines('"1'), "unexpected end"),
    "text: a huge field": ("l.csv", lines("1" * 200_000), "field larger than"),
    "text: a huge number": ("l.csv", lines("1" * 400), "label inf"),
    "text: words": ("l.csv", lines("0", "one"), "no number: could not convert string to float: 'one'"),
    "text: ragged": ("l.csv", lines("1,2"), "line 2 has 1 cells, the first has 2"),
    "text: empty": ("l.csv", "", "it is empty"),
    "text: a header alone": ("l.csv", "labels\n", "a label for each sample is expected"),
    "pipe": ("l.csv", os.mkfifo, "is a pipe"),
    "pipe of an array": ("l.npy", os.mkfifo, "is a pipe"),
    "device": ("l.csv", lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "other kind": ("l.doc", "1", "labels are a .npy"),
    "corrupt": ("l.npz", b"PK\x03\x04" + bytes(99), "l.npz: cannot be read as labels"),
}
DEEP = "[" * 100_000
LAUGHS = "a0: &a0 [1]\n" + "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]\n" for i in range(30))
ONE = '{{"tasks": [{{"name": "t", {}}}]}}'
TASKS: dict[str, tuple[str, Content, str]] = {
    "deep JSON": ("t.json", DEEP, "is nested too deeply"),
    "deep YAML": ("t.yaml", DEEP, "is nested too deeply"),
    "aliases": ("t.yaml", LAUGHS, "its aliases repeat one another too often"),
    "an alias in itself": ("t.yaml", "tasks: &a [*a]", "stands inside what it names"),
    "a tag": ("t.yaml", "tasks: !!python/object/apply:os.system ['touch owned']", "line 1: could not determine"),
    "a bad date": ("t.yaml", "name: 2024-99-99\n", "is not YAML: month must be"),
    "a list as key": ("t.yaml", "? [1]\n: 2\n", "unhashable"),
    "a key twice": ("t.yaml", "tasks: []\ntasks: []\n", "line 2: key 'tasks' is there twice"),
    "a key twice in JSON": ("t.json", '{"tasks": [], "tasks": []}', "key 'tasks' is there twice"),
    "NUL": ("t.yaml", "tasks: \0", "NUL"),
    "not UTF-8": ("t.json", b'{"tasks": "\xff"}', "is not UTF-8"),
    "NaN": ("t.json", ONE.format('"threshold": NaN'), "NaN is no number in JSON"),
    "a huge integer": ("t.json", ONE.format('"columns": [' + "1" * 5000 + "]"), "is not JSON"),
    "a large integer": ("t.json", ONE.format('"columns": [' + "1" * 40 + "]"), "expected numbers from 0"),
    "an infinite row": ("t.json", ONE.format('"label_of": [1e999]'), "not a task file"),
    "a huge row": ("t.json", ONE.format('"label_of": [1000000000000]'), "huge"),
    "a huge class in YAML": ("t.yaml", f"tasks: [{{name: t, classes: [{'9' * 5000}]}}]", "is not YAML"),
    "a hexadecimal class": ("t.yaml", f"tasks: [{{name: t, classes: [0x{'f' * 5000}]}}]", "huge"),
    "a number": ("t.json", "1", "a mapping with 'tasks' is expected"),
    "a list": ("t.json", "[" * 50 + "]" * 50, "a mapping with 'tasks' is expected"),
    "no tasks": ("t.json", "{}", "entry 'tasks' is missing"),
    "vectors of a pipe": ("t.json", ONE.format('"vectors": "p.npy"'), "no such file"),
    "NaN among vectors": ("t.yaml", "tasks: [{name: t, vectors: [[.nan, 1], [1, 0]]}]", "each is to be a direction"),
    "pipe": ("t.json", os.mkfifo, "is a pipe"),
    "device": ("t.yaml", lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "folder": ("t.json", Path.mkdir, "is a folder"),
}
VECTORS: dict[str, tuple[str, Content, str]] = {
    "NaN": ("v.npy", np.full((3, 3), np.nan), "each is to be a direction"),
    "zero": ("v.npy", np.zeros((3, 3)), "each is to be a direction"),
    "another width": ("v.npy", np.ones((3, 4)), "4"),
    "text": ("v.npy", np.array([["a"]]), "expected numbers"),
    "pipe": ("v.npy", os.mkfifo, "is a pipe"),
    "corrupt": ("v.npy", b"\x93NUMPY", "v.npy: cannot be read as class vectors"),
}


@attacks(
    *(Attack(f"labels: {n}", given(f, c, "--labels", f), says=(s,)) for n, (f, c, s) in LABELS.items()),
    *(
        Attack(f"tasks: {n}", given(f, c, "--labels", "y.npy", "--tasks", f), says=(s,))
        for n, (f, c, s) in TASKS.items()
    ),
    *(
        Attack(f"vectors: {n}", given(f, c, "--labels", "y.npy", "--vectors", f), says=(s,))
        for n, (f, c, s) in VECTORS.items()
    ),
    Attack(
        "an infinite target",
        given("l.npy", np.full((12, 3), np.inf), "--labels", "l.npy", "--regression"),
        says=("infinite",),
    ),
)
def test_what_is_refused(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)
