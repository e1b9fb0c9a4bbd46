"""Where the files that are not code lie: in the package when installed, at the top of the checkout otherwise."""

from __future__ import annotations

from pathlib import Path

from onnxmerge.errors import InputError

PACKAGE = Path(__file__).resolve().parent


def specs() -> Path:
    """The folder of operator signatures and recipes.

    A wheel carries ``specs/`` inside the package (hatchling's force-include); an editable install and a checkout
    have it beside the package. Raises InputError if neither is there.
    """
    for folder in (PACKAGE / "specs", PACKAGE.parent / "specs"):
        if (folder / "operators").is_dir():
            return folder
    raise InputError(
        f"no operator specifications at {PACKAGE / 'specs'}: the installation is broken, reinstall onnxmerge"
    )
