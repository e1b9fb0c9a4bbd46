"""Options for folders of images: ``--image-size``, ``--mean``, ``--std``, ``--layout``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_SIZE = re.compile(r"(\d{1,9})(?:[x,](\d{1,9}))?")

_NAMES = ("image_size", "mean", "std", "layout")


def image_options(command: F) -> F:
    """Add the options; `take_image_options` takes their values out of the settings again."""
    for option in (
        click.option("--layout", type=click.Choice(["nchw", "nhwc"]), help="Axis order of image inputs."),
        click.option("--std", callback=numbers, metavar="S,S,S", help="Divides images."),
        click.option("--mean", callback=numbers, metavar="M,M,M", help="Subtracted from images."),
        click.option("--image-size", callback=_size, metavar="N|HxW", help="Resize images."),
    ):
        command = option(command)
    return command


def take_image_options(settings: dict[str, Any]) -> dict[str, Any]:
    """Remove the options from ``settings``, and return those that were given."""
    images = {name: settings.pop(name) for name in _NAMES}
    return {name: value for name, value in images.items() if value is not None}


def numbers(_context: click.Context, _option: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    """Read numbers separated by commas."""
    if value is None:
        return None
    try:
        return tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(
            f"{value!r}: expected numbers separated by commas, such as 0.485,0.456,0.406"
        ) from None


def _size(_context: click.Context, _option: click.Parameter, value: str | None) -> int | tuple[int, int] | None:
    if value is None:
        return None
    found = _SIZE.fullmatch(value.lower())
    if found is None:
        raise click.BadParameter(f"{value!r}: expected 224 or HEIGHTxWIDTH")
    return int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))
