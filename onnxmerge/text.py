"""Text that somebody else chose (names in models, paths, what libraries say), made fit for a line on a terminal."""

from __future__ import annotations

import reprlib

LONGEST = 400
"""Characters of a message, at most."""

_GAP = " ... "

_LONGEST_REASON = 200
"""Characters of another program's message that are passed on."""

_LONGEST_VALUE = 60
"""Characters of a value that is shown."""


def printable(text: str) -> str:
    r"""The text with all that a terminal would act on, or not show, written as an escape.

    Control codes, line breaks, zero-width characters and those that change the direction of text come as ``\x1b``,
    ``\n``, ``\u202e``; bytes of a file name that are not UTF-8 as ``\xff``.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that it could not decode (PEP 383)
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def clamped(text: str, longest: int = LONGEST) -> str:
    """The text, shortened in the middle: a message begins with what is wrong and ends with what to do."""
    if len(text) <= longest:
        return text
    head = (longest - len(_GAP)) * 5 // 8
    return text[:head] + _GAP + text[head + len(_GAP) - longest :]


def said(error: BaseException) -> str:
    """All that an exception of a library or of the user's code says, as one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - a program's exception may fail in any way to say what it is
        text = ""
    return printable(text) or type(error).__name__


def reason(error: BaseException) -> str:
    """What an exception says, in at most 200 characters."""
    return clamped(said(error), _LONGEST_REASON)


def counted(number: float, what: str) -> str:
    """A number of things: 1 point, 0.5 points."""
    return f"{number:g} {what}" if number == 1 else f"{number:g} {what}s"


def shown(value: object) -> str:
    """A value out of a file as messages show it: however large, deep or odd it is, in a few characters."""
    try:
        return clamped(printable(reprlib.repr(value)), _LONGEST_VALUE)
    except Exception:  # noqa: BLE001 - an integer of too many digits cannot be printed, a user's object may do anything
        return f"a value of type {type(value).__name__}"
