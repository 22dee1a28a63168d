"""The console shows text out of files as it is."""

from __future__ import annotations

import errno
import io
import logging
import os
import subprocess
import sys

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


class Full(io.StringIO):
    """A file on a disk that is full for a while."""

    full = True

    def write(self, text: str) -> int:
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def test_text_for_a_full_disk_is_lost_but_a_result_is_not() -> None:
    out = Full()
    console = PlainConsole(file=out)
    console.print("lost")
    out.full = False
    console.print("written")
    assert out.getvalue() == "written\n"
    out.full = True
    with pytest.raises(OSError, match="No space left"):
        PlainConsole(file=out, result=True).print("result")


def without_reader(stream: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run code with the modules `sys` and `terminal`, whose standard output or error is a pipe that has no reader."""
    read, write = os.pipe()
    os.close(read)
    out, err = (write if name == stream else subprocess.PIPE for name in ("stdout", "stderr"))
    command = [sys.executable, "-c", f"import sys; from search.cli import terminal; {code}"]
    try:
        return subprocess.run(command, stdout=out, stderr=err, text=True, check=False)
    finally:
        os.close(write)


def test_a_result_without_a_reader_ends_the_command_quietly() -> None:
    ended = without_reader("stdout", "terminal.show('a', 'b'); sys.stderr.write('not reached')")
    assert (ended.returncode, ended.stderr) == (1, "")


def test_a_command_continues_without_readers_of_what_it_says() -> None:
    said = without_reader("stdout", "terminal.say('a'); terminal.say('b'); sys.stderr.write('reached')")
    assert (said.returncode, said.stderr) == (0, "reached")
    code = "terminal.status.doing('a'); terminal.warn('b'); terminal.show('result')"
    shown = without_reader("stderr", code)
    assert (shown.returncode, shown.stdout) == (0, "result\n")
