"""Recipes and files of operators that are damaged, deep, multiply themselves, or say what cannot be."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tests.attacks.attack import Attack, attacks
from tests.attacks.pair import write_pair
from tests.attacks.test_labels import DEEP, LAUGHS
from tests.command_line import Cli

MODELS = "models: [a.onnx, b.onnx]\noutput: m.onnx\n"
Content = str | bytes | Callable[[Path], object]


def recipe(content: Content) -> Callable[[Path], Sequence[object]]:
    return lambda folder: written(folder, "r.yaml", content, ["run", "r.yaml"])


def operators(content: Content) -> Callable[[Path], Sequence[object]]:
    return lambda folder: written(folder, "o.yaml", content, ["inspect", "a.onnx", "--operators", "o.yaml"])


def written(folder: Path, name: str, content: Content, arguments: Sequence[object]) -> Sequence[object]:
    write_pair(folder)
    np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(99, 6)).astype(np.float32))
    if callable(content):
        content(folder / name)
    else:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return arguments


YAML: dict[str, tuple[Content, str]] = {
    "deep": (DEEP, "is nested too deeply"),
    "deep in braces": ("{a: " * 50_000, "is nested too deeply"),
    "aliases": (LAUGHS, "its aliases repeat one another too often"),
    "an alias in itself": ("models: &a [*a]", "stands inside what it names"),
    "a tag": ("models: !!python/object/apply:os.system ['touch owned']", "could not determine a constructor"),
    "a bad date": ("models: 2024-99-99\n", "is not YAML: month must be"),
    "a list as key": ("? [1]\n: 2\n", "unhashable"),
    "a key twice": ("models: [a]\nmodels: [b]\n", "line 2: key 'models' is there twice"),
    "NUL": ("models: \0", "NUL"),
    "not UTF-8": (b"models: \xff", "is not UTF-8"),
    "an open quote": ('models: "a', "is not YAML: line 1"),
    "two documents": ("--- a\n--- b\n", "is not YAML"),
    "a huge integer": ("1" * 5000, "is not YAML"),
    "too long": ("# " + "x" * (1 << 22), "bytes, "),
    "empty": ("", "expected a mapping"),
    "a list": ("[1]", "expected a mapping"),
    "pipe": (os.mkfifo, "is a pipe"),
    "folder": (Path.mkdir, "is a folder"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is a device"),
    "missing": (lambda _: None, "no such file"),
}
VALUES: dict[str, tuple[str, str, int]] = {
    "a negative seed": ("seed: -1", "--seed", 2),
    "a huge seed": (f"seed: 0x{'f' * 5000}", "--seed", 2),
    "a large seed": (f"seed: {10**30}", "--seed", 2),
    "no samples": ("calibration: {data: x.npy}\nsamples: 0", "--samples", 2),
    "no batch": ("batch_size: -1", "--batch-size", 2),
    "NaN": ("calibration: {data: x.npy}\nalpha: .nan", "--alpha", 2),
    "infinity": ("method: zipit\ncalibration: {data: x.npy}\nzip_a: .inf", "--zip-a", 2),
    "too large for a float": (f"alpha: {10**400}", "r.yaml: alpha", 1),
    "a date": ("method: 2024-01-01", "r.yaml: method", 1),
    "bytes": ("method: !!binary aGVsbG8=", "there is no method", 2),
    "an unknown method": ("method: " + "x" * 9000, "there is no method", 2),
    "an unknown key": (f"? {'x' * 9000}\n: 1", "there is no key 'x", 1),
    "a control code": (r'"\e[2J": 1', r"there is no key '\x1b[2J'", 1),
    "a deep value": (f"alpha: {'[' * 200}{']' * 200}", "r.yaml: alpha", 1),
    "a long value": (f"alpha: [{'1, ' * 9000}]", "r.yaml: alpha", 1),
    "a list of models": ("base: [a.onnx]", "r.yaml: base", 1),
    "NUL in a path": (r'calibration: {data: "x\0.npy"}', "path", 1),
    "an option without effect": ("method: rebasin\nalpha: 0.3", "--alpha is for methods mudsc-align", 2),
    "zips without a zip": ("method: act-align\nzip_a: 0.1\ncalibration: {data: x.npy}", "--zip-a is for methods", 2),
    "images without images": ("calibration: {data: x.npy, mean: [1, 2, 3]}", "--mean", 2),
    "weights": ("weights: [1, .nan]\nmethod: average", "--weights", 2),
}
OPERATORS: dict[str, str] = {
    "laughs as an entry": f"{LAUGHS}",
    "a number as rule": "d: {Op: {rule: [1]}}",
    "a long entry": f"d: {{Op: [{'[], ' * 5000}]}}",
    "a deep entry": f"d: {{Op: {'[' * 100}{']' * 100}}}",
}


@attacks(
    *(Attack(f"recipe: {name}", recipe(content), says=(said,)) for name, (content, said) in YAML.items()),
    *(Attack(f"operators: {name}", operators(content), says=("o.yaml",)) for name, (content, _) in YAML.items()),
    *(Attack(f"value: {name}", recipe(MODELS + text), code, (said,)) for name, (text, said, code) in VALUES.items()),
    *(Attack(f"operators: {name}", operators(text), says=("o.yaml",)) for name, text in OPERATORS.items()),
)
def test_what_is_refused(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


IDLE = {
    "alpha": ("--method", "rebasin", "--alpha", 0.5),
    "objective": ("--method", "act-align", "--calib", "x.npy", "--objective", "correlation"),
    "zip-a": ("--method", "rebasin", "--zip-a", 0.5),
    "zip-b": ("--method", "average", "--zip-b", 1),
    "samples": ("--method", "rebasin", "--samples", 9),
    "mean": ("--calib", "x.npy", "--mean", 0.5),
    "layout": ("--calib", "x.npy", "--layout", "nchw"),
}


def idle(options: Sequence[object]) -> Callable[[Path], Sequence[object]]:
    return lambda folder: written(folder, "r", "", ["run", "a.onnx", "b.onnx", "-o", "m.onnx", *options])


@attacks(*(Attack(name, idle(options), 2, (f"--{name}",)) for name, options in IDLE.items()))
def test_options_without_effect_are_refused_even_at_their_defaults(attack: Attack, tmp_path: Path, cli: Cli) -> None:
    attack.check(tmp_path, cli)


def test_what_a_recipe_says_of_another_method_goes_with_it(tmp_path: Path, cli: Cli) -> None:
    arguments = recipe(MODELS + "alpha: 0.3\ncalibration: {data: x.npy}\n")(tmp_path)
    ended = cli(*arguments, "--method", "rebasin", "-q")
    assert ended.returncode == 0, ended.stderr
