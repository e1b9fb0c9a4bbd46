"""Errors a user can act on. The command line turns each into one line and its exit code."""

from __future__ import annotations


class OnnxmergeError(Exception):
    """Base of all errors raised on purpose. The message is one line: what, where, what to do."""

    exit_code = 1


class InputError(OnnxmergeError):
    """A file, model, tensor or calibration source is not what was expected (exit code 1)."""

    exit_code = 1


class StructureError(InputError):
    """Two models do not have the same structure; the message names the first difference (exit code 1)."""


class AdapterError(StructureError):
    """Models differ in the rank of their adapters, which nothing but folding these brings together (exit code 1)."""


class QuantisedError(InputError):
    """Models hold integers that stand for floats, and differ in them: these have no mean (exit code 1)."""


class ResourceError(InputError):
    """What was asked for takes more memory or time than it may (exit code 1)."""


class UsageError(OnnxmergeError):
    """The options contradict each other or name something that does not exist (exit code 2)."""

    exit_code = 2


class ValidationError(OnnxmergeError):
    """A check of the result failed, so nothing was published (exit code 3)."""

    exit_code = 3
