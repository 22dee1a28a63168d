"""Text out of files as Markdown shows it: nothing in it is a heading, a link, HTML or the end of a cell."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medcore.errors import printable

#: What Markdown reads. An underscore within a word is not read, and names of metrics are full of them.
_READ = re.compile(r"[\\`*\[\]<>~$&|]|(?<!\w)_|_(?!\w)")

_BAR = re.compile(r"\\*\|")


def plain(text: object) -> str:
    """Return a text in one line that reads as it is."""
    return _READ.sub(lambda found: f"\\{found[0]}", printable(str(text)))


def code(text: object) -> str:
    """Return a text in one line as code."""
    inner = printable(str(text))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", inner)), default=0))
    space = " " if inner.startswith("`") or inner.endswith("`") or not inner.strip() else ""
    return f"{fence}{space}{inner}{space}{fence}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are Markdown."""
    return "\n".join([row(head), row(["---"] * len(head)), *map(row, rows)])


def row(cells: Sequence[str]) -> str:
    """Return a row of a table of cells in Markdown."""
    return f"| {' | '.join(re.sub(_BAR, _escaped, cell) for cell in cells)} |"


def _escaped(bar: re.Match[str]) -> str:
    """Return a bar that ends no cell, not even within code: one with an odd number of backslashes before it."""
    return bar[0] if len(bar[0]) % 2 == 0 else bar[0][:-1] + "\\|"
