"""Names out of a stranger's file, made fit for a message of one line."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

from medcore.errors import shown


def some(items: Iterable[object], most: int = 3) -> str:
    """Return the first few items and how many more there are."""
    listed = list(items)
    rest = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(map(shown, listed[:most])) + rest


def nearest(name: str, known: Collection[str]) -> str | None:
    """Return the most similar of the known names; None if none is similar."""
    # the comparison is quadratic in the names' lengths, and both come from a file
    found = difflib.get_close_matches(name[:200], [each[:200] for each in list(known)[:2000]], n=1, cutoff=0.6)
    return found[0] if found else None
