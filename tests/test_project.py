"""The project itself: what is installed, what ships, and that the README's commands are the ones that are run."""

from __future__ import annotations

import importlib.util
import itertools
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import onnxmerge.resources
from onnxmerge import examples
from onnxmerge.errors import InputError, UsageError
from onnxmerge.merging.task_vectors import TASK_VECTORS


def quoted(checkout: Path, start: str) -> list[str]:
    """The strings of pyproject.toml that begin with ``start`` (tomllib came with Python 3.11)."""
    return re.findall(rf'^ *"({re.escape(start)}[^"]*)",?$', (checkout / "pyproject.toml").read_text(), re.MULTILINE)


@pytest.mark.smoke
def test_the_checkout_is_what_is_tested(checkout: Path) -> None:
    assert Path(onnxmerge.resources.__file__).is_relative_to(checkout)


def test_exactly_one_onnxruntime_everywhere(checkout: Path) -> None:
    runtimes = [Requirement(text) for text in quoted(checkout, "onnxruntime")]
    assert sorted(item.name for item in runtimes) == ["onnxruntime", "onnxruntime-gpu"]
    systems, machines = ("linux", "win32", "darwin", "freebsd14"), ("x86_64", "AMD64", "aarch64", "arm64", "ARM64")
    for system, machine in itertools.product(systems, machines):
        environment = {"sys_platform": system, "platform_machine": machine}
        chosen = [item.name for item in runtimes if item.marker is not None and item.marker.evaluate(environment)]
        gpu = system in {"linux", "win32"} and machine in {"x86_64", "AMD64"}
        assert chosen == ["onnxruntime-gpu" if gpu else "onnxruntime"]


def test_every_rule_that_is_off_has_its_reason(checkout: Path) -> None:
    text = (checkout / "pyproject.toml").read_text()
    codes = re.findall(r'^ *"([A-Z]+\d*)",(.*)$', text[text.index("[tool.ruff.lint]") :], re.MULTILINE)
    assert codes
    assert not [code for code, reason in codes if not re.match(r" +# \S+", reason)]


def test_the_readme_s_test_command_is_what_ci_runs(checkout: Path) -> None:
    readme, ci = (checkout / "README.md").read_text(), (checkout / ".ci" / "run").read_text()
    lines = [line for line in readme.splitlines() if line.startswith("python -m venv") and "[test]" in line]
    (command,) = (line.rpartition(" && ")[2] for line in lines)
    program, *options = command.split()
    assert program == ".venv/bin/pytest"
    assert f'\ncheck "tests" "$venv/bin/pytest" {" ".join(options)}\n' in ci


@pytest.mark.parametrize(
    "module",
    [
        "matching/joint.py",
        "merging/refinements/methods/least_squares.py",
        "merging/refinements/methods/regmean.py",
        "merging/closed_form/consensus.py",
        "merging/repair/batchnorm.py",
        "merging/repair/repair.py",
        "matching/procrustes.py",
        *(f"merging/task_vectors/methods/{name.replace('-', '_')}.py" for name in TASK_VECTORS),
    ],
)
def test_a_method_names_its_source(checkout: Path, module: str) -> None:
    text = (checkout / "onnxmerge" / module).read_text()
    assert re.search(r"arXiv \d{4}\.\d{5}|[A-Z]\w+ \d+, \d{4}", text.split('"""', 2)[1].replace("\n", " "))


def test_the_changelog_knows_the_version(checkout: Path) -> None:
    assert f"\n## [{onnxmerge.__version__}]" in (checkout / "CHANGELOG.md").read_text()


@pytest.mark.smoke
def test_specs_are_found(checkout: Path) -> None:
    assert onnxmerge.resources.specs() == checkout / "specs"


def test_specs_inside_the_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "onnxmerge"
    for folder in (package / "specs" / "operators", tmp_path / "specs" / "operators"):
        folder.mkdir(parents=True)
    monkeypatch.setattr(onnxmerge.resources, "PACKAGE", package)
    assert onnxmerge.resources.specs() == package / "specs"


def test_specs_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxmerge.resources, "PACKAGE", tmp_path / "onnxmerge")
    with pytest.raises(InputError, match=r"no operator specifications at .*reinstall"):
        onnxmerge.resources.specs()


def test_examples_by_name(digits: Path) -> None:
    assert "digits" in examples.names()
    assert examples.path("digits") == digits
    with pytest.raises(UsageError, match="no example named 'letters'; there are: digits"):
        examples.path("letters")


def test_a_wheel_carries_specs_and_examples(checkout: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling is not installed (it comes with the extra dev)")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    (wheel,) = tmp_path.glob("*.whl")
    found = set(zipfile.ZipFile(wheel).namelist())
    for folder, prefix in ((checkout / "specs", "onnxmerge/specs"), (checkout / "onnxmerge", "onnxmerge")):
        files = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if "__pycache__" not in path.parts]
        assert files
        assert not {f"{prefix}/{name}" for name in files} - found
    assert "onnxmerge/examples/digits/a.onnx" in found
    assert not [name for name in found if not name.startswith(("onnxmerge/", "onnxmerge-"))]


def test_one_module_alone_writes_to_the_terminal(checkout: Path) -> None:
    """Elsewhere a name out of a model could steer the terminal: see onnxmerge/report/terminal.py."""
    direct = re.compile(
        r"(?<![.\w])print\(|click\.(echo|secho)\(|sys\.std(out|err)\.(?!flush\b)|import Console\b|rich\.(text|markup)"
    )
    for path in sorted((checkout / "onnxmerge").rglob("*.py")):
        if path.name not in {"terminal.py", "progress.py"}:
            found = [line for line in path.read_text().splitlines() if direct.search(line)]
            assert not found, f"{path}: {found}"


def test_one_module_runs_networks_in_onnx_runtime(checkout: Path) -> None:
    """Everything else depends on the contract of a runtime; float16 is a conversion."""
    package = checkout / "onnxmerge"
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"^ *(import|from) onnxruntime", path.read_text(), re.MULTILINE)
    }
    assert found == {"model/runtimes/onnx_runtime.py", "model/precision.py"}
