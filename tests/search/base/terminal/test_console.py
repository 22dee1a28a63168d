"""The console shows text out of files as it is."""

from __future__ import annotations

import io
import logging

import pytest
from rich.table import Table
from rich.text import Text

from search.base.terminal.console import PlainConsole
from search.cli import terminal

ODD = "[/b][red]:smile:\x1b]0;owned\x1b[2J\x9b1m"
SHOWN = r"[/b][red]:smile:\x1b]0;owned\x1b[2J\x9b1m"


def shown(*what: object) -> str:
    out = io.StringIO()
    console = PlainConsole(file=out, width=100, force_terminal=True, color_system=None)
    for each in what:
        console.print(each)
    return out.getvalue()


def test_texts_and_cells_are_neither_markup_nor_codes() -> None:
    table = Table(ODD, title=ODD, caption=ODD)
    table.add_row(ODD)
    for what in (ODD, Text(ODD), table):
        text = shown(what)
        assert SHOWN in text and not set(text) & {"\x1b", "\x9b"}
    assert shown(table).count(SHOWN) == 4


def test_line_breaks_and_styles_stay() -> None:
    out = io.StringIO()
    PlainConsole(file=out, force_terminal=True, color_system="standard").print("a\nb", style="red")
    assert out.getvalue().splitlines() == ["\x1b[31ma\x1b[0m", "\x1b[31mb\x1b[0m"]


def test_a_log_record_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(terminal, "errors", PlainConsole(file=out, width=40))
    command = "medcore sync " + "long/" * 30
    terminal.LineHandler().emit(
        logging.makeLogRecord({"levelno": logging.WARNING, "levelname": "WARNING", "msg": f"a\x1b[1m\nb: {command}"})
    )
    assert out.getvalue() == f"WARNING  a\\x1b[1m b: {command}\n"
