"""Names of samples: their order and their text."""

from __future__ import annotations

import re
import unicodedata


def natural_key(name: str) -> tuple[tuple[int, int, str, str], ...]:
    """Return a sorting key that reads runs of digits as numbers.

    `f2` then comes before `f10`. A run may have any length.
    """
    pieces = re.split(r"(\d+)", name)
    return tuple((0, *_number(piece), piece) if piece.isdecimal() else (1, 0, "", piece) for piece in pieces if piece)


def _number(digits: str) -> tuple[int, str]:
    """Return what compares like the number of a run of digits: how many there are, and which."""
    plain = digits if digits.isascii() else "".join(str(unicodedata.decimal(digit)) for digit in digits)
    plain = plain.lstrip("0")
    return len(plain), plain


def readable(name: str) -> str:
    r"""Return the name of a file as text that every file and database can hold.

    Equal letters get equal codes (NFC), because systems differ in how they store an umlaut. Bytes that are no UTF-8
    become `\xfc` and the like.
    """
    return unicodedata.normalize("NFC", name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))
