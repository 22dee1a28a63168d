"""Text out of files in Markdown, read back by a Markdown parser."""

from __future__ import annotations

import html
import re

import pytest
from markdown_it import MarkdownIt

from results.pages.markdown import code, plain, table

ODD = [
    "t0003",
    "a_b _c_ *d* ~~e~~",
    "[here](http://evil)",
    "![x](http://evil/y.png)",
    "<script>alert(1)</script>&lt;",
    "a|b\\|c\\",
    "`code` ``",
    "$x$",
    "\n# heading",
    "\x1b[2J",
]
_PARSER = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def read(text: str) -> list[str]:
    """Return the text of each cell, and no tag but those of the table and of code."""
    page = _PARSER.render(text)
    assert {*re.findall(r"<(\w+)", page)} <= {"table", "thead", "tbody", "tr", "th", "td", "code"}
    cells = re.findall(r"<t[hd]>(?:<code>)?(.*?)(?:</code>)?</t[hd]>", page, flags=re.DOTALL)
    return [html.unescape(cell) for cell in cells]


@pytest.mark.parametrize("text", ODD)
def test_a_cell_reads_as_its_text(text: str) -> None:
    shown = text.replace("\n", r"\x0a").replace("\x1b", r"\x1b")
    assert read(table(["a", "b"], [[plain(text), plain("next")]])) == ["a", "b", shown, "next"]


@pytest.mark.parametrize("text", ["t0003", "val/search", "a|b", "`x`", "``", "<b>", "flops<=120G"])
def test_code_reads_as_its_text(text: str) -> None:
    assert read(table(["a"], [[code(text)]])) == ["a", text]
