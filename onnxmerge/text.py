"""Text that somebody else chose (names in models, paths, what libraries say), made fit for a line on a terminal."""

from __future__ import annotations

LONGEST = 400
"""Characters of a message, at most."""

_GAP = " ... "


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
