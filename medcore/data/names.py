"""Order of names."""

from __future__ import annotations

import re

#: Digits of a number that count. A manifest may hold names of thousands of digits, which Python reads no number from.
_DIGITS = 1000


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sorting key that reads runs of digits as numbers.

    `f2` then comes before `f10`.
    """
    pieces = re.split(r"(\d+)", name)
    return tuple((0, int(piece[:_DIGITS]), piece) if piece.isdecimal() else (1, 0, piece) for piece in pieces if piece)
