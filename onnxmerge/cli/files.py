"""What a command reads and writes, as its options say: checked together before the work, written together after it.

An option that names a file has the type `InputFile` or `OutputFile`, and so is known to `Files`, which a command opens
with `publishing`. Nothing else is needed to keep inputs and outputs apart.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

from onnxmerge.errors import InputError, UsageError

STANDARD_OUTPUT = Path("-")


@dataclass(slots=True)
class Files:
    """The files of one command: what it reads, what it writes, and what of that is there."""

    read: list[tuple[str, str, bool]] = field(default_factory=list)
    written: list[tuple[str, str, bool]] = field(default_factory=list)
    published: tuple[Path, ...] = ()

    def reads(self, what: str, path: str, *, model: bool = False) -> None:
        """Note that a file, a folder or `script.py:function` is read; messages call it ``what``."""
        self.read.append((what, path, model))

    def writes(self, name: str, path: str, *, model: bool = False) -> None:
        """Note that a file is written, or standard output; ``name`` is the option, or the key of a recipe."""
        self.written.append((name, path, model))

    def check(self, like: str | None, factor: float) -> None:
        """Raise unless all outputs can be written and are no inputs; see ``pipeline.publish``."""
        from onnxmerge.model.paths import absolute
        from onnxmerge.pipeline.publish import Output, require_apart, require_room, sources

        if sum(path == str(STANDARD_OUTPUT) for _, path, _ in self.written) > 1:
            raise UsageError("only one of the outputs can be standard output (-)")
        read = [source for what, path, model in self.read for source in sources(what, path, model=model)]
        for name, path, _ in self.written:
            if "\0" in path:
                raise InputError(f"{name}: {path!r} is no path; give the name of a file")
        outputs = [
            Output(f"{name} {path}", absolute(path), model)
            for name, path, model in self.written
            if path != str(STANDARD_OUTPUT)
        ]
        require_apart(outputs, read)
        require_room(outputs, None if like is None else Path(like), factor)

    @property
    def outcome(self) -> str:
        """What the command has written so far."""
        if not self.published:
            return "nothing was written"
        names = ", ".join(str(path) for path in self.published)
        return f"{names} {'was' if len(self.published) == 1 else 'were'} written"


def files_of(context: click.Context) -> Files:
    """The files of the command that runs."""
    return context.ensure_object(Files)


@contextmanager
def publishing(context: click.Context, like: str | None = None, factor: float = 1.0) -> Iterator[Any]:
    """Check the command's files, and yield the `Publication` in which its outputs are staged; they appear at the end.

    A model that is written takes about ``factor`` times the bytes of the model ``like``.
    """
    from onnxmerge.model.publication import Publication

    files = files_of(context)
    files.check(like, factor)
    with Publication() as publication:
        yield publication
        publication.publish()
        files.published = publication.published


class _Place(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A place in the file system, which a shell completes."""

    completes = "file"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Let the shell look for files or folders."""
        del ctx, param
        return [CompletionItem(incomplete, type=self.completes)]


class InputFile(_Place):
    """A file that is read, or where the command takes it a folder or `script.py:function`."""

    name = "file"

    def __init__(self, what: str, *, model: bool = False) -> None:
        self.what = what
        self.model = model

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Note the file."""
        path = _path(value, param, ctx)
        if ctx is not None:
            files_of(ctx).reads(self.what, path, model=self.model)
        return path


class OutputFile(_Place):
    """A file that is written, given on as an absolute path; - is standard output where ``dash`` allows it."""

    name = "file"

    def __init__(self, *, model: bool = False, dash: bool = False, suffixes: tuple[str, ...] = ()) -> None:
        self.model = model
        self.dash = dash
        self.suffixes = suffixes

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Note the file. An ending that says what is written must be one of ``suffixes``."""
        path = _path(value, param, ctx)
        if path == str(STANDARD_OUTPUT) and not self.dash:
            self.fail("standard output cannot take this; name a file (./- if it shall be called -)", param, ctx)
        if path.endswith((os.sep, os.altsep or os.sep)):
            self.fail(f"{path!r} is the name of a folder; give the name of a file in it", param, ctx)
        if self.suffixes and Path(path).suffix not in self.suffixes:
            self.fail(f"{path!r}: expected a file name that ends in {' or '.join(self.suffixes)}", param, ctx)
        if ctx is not None and param is not None:
            files_of(ctx).writes(param.opts[0], path, model=self.model)
        if path == str(STANDARD_OUTPUT):
            return STANDARD_OUTPUT
        from onnxmerge.model.paths import absolute

        return absolute(path)


class OutputFolder(_Place):
    """A folder that a command keeps files in, given on as an absolute path; it need not be there yet."""

    name = "folder"
    completes = "dir"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Refuse what cannot be one."""
        path = Path(_path(value, param, ctx))
        if path.exists() and not path.is_dir():
            self.fail(f"{str(path)!r} is a file; name a folder", param, ctx)
        from onnxmerge.model.paths import absolute

        return absolute(path)


def _path(value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
    path = os.fsdecode(value)
    if not path or "\0" in path:
        raise click.BadParameter(f"{path!r} is no path; give the name of a file", ctx, param)
    return path
