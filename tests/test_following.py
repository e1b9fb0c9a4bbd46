"""A page is followed only as far as its commands end as they should."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.following import follow

PAGE = """Text.

```sh
onnxmerge check {code}  # a gate
```
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One whose onnxmerge ends with the code that it is given."""
    package = tmp_path / "onnxmerge"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import sys; sys.exit(int(sys.argv[2]))")
    return tmp_path


@pytest.mark.parametrize(("code", "failing"), [(0, []), (3, ["onnxmerge check 3"])])
def test_a_command_ends_with_0_or_is_listed(code: int, failing: list[str], checkout: Path) -> None:
    follow(PAGE.format(code=code), checkout, checkout, failing)


@pytest.mark.parametrize(
    ("code", "failing"), [(3, []), (0, ["onnxmerge check 0"]), (1, []), (1, ["onnxmerge check 1"])]
)
def test_a_command_that_ends_otherwise_is_found(code: int, failing: list[str], checkout: Path) -> None:
    with pytest.raises(AssertionError, match="onnxmerge check"):
        follow(PAGE.format(code=code), checkout, checkout, failing)
