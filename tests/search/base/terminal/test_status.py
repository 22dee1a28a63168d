"""What a command does right now, on a terminal and in a log file."""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
from rich.console import Group, RenderableType
from rich.text import Text

from search.base.terminal.console import PlainConsole
from search.base.terminal.status import Status
from search.cli import terminal
from tests.support.screen import Screen


class Clock:
    """Seconds that a test moves on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Tall:
    """A view with more lines, and longer ones, than a terminal has."""

    def picture(self, width: int, height: int) -> RenderableType:
        return Group(*(Text(f"row {number} " + "x" * width) for number in range(height + 3)))

    def line(self) -> str:
        return "tall"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


def log_file(clock: Clock) -> tuple[Status, io.StringIO]:
    out = io.StringIO()
    return Status(PlainConsole(file=out, width=40), clock), out


sizes = pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 10)])


@contextmanager
def live(width: int, height: int, clock: Clock) -> Iterator[tuple[Status, Terminal, Screen]]:
    """A status on a terminal that is standard output and standard error.

    It is no fixture, because pytest replaces both streams after fixtures.
    """
    out = Terminal()
    console = PlainConsole(stderr=True, width=width, height=height, force_terminal=True, color_system=None)
    with mock.patch.object(sys, "stderr", out), mock.patch.object(sys, "stdout", out), Status(console, clock) as status:
        yield status, out, Screen(width, height)


def seen(out: Terminal, screen: Screen) -> list[str]:
    """Return what is on the screen now."""
    screen.feed(out.getvalue())
    out.seek(0)
    out.truncate()
    return screen.text


def test_a_log_file_has_a_line_for_each_beginning(clock: Clock) -> None:
    status, out = log_file(clock)
    with status:
        status.doing("reading images in a folder with a very long name")
        status.doing("reading images in a folder with a very long name")
        status.doing("a moment", logged=False)
        for done in range(4):
            status.report("scores", done, 3)
        status.report("answers", 0, 0)
        assert not status.is_live
    assert out.getvalue().splitlines() == ["reading images in a folder with a very long name"] * 2 + [
        "scores: 3",
        "answers",
    ]


def test_a_log_file_is_reminded_rarely(clock: Clock) -> None:
    """The first reminder comes after 30 s without a line, the others after twice as long each time up to 5 min."""
    status, out = log_file(clock)
    with status:
        status.report("scores", 0, 4)
        begin, at = clock.now, []
        for _ in range(1200):
            clock.now += 1
            before = len(out.getvalue())
            status.remind()
            if len(out.getvalue()) > before:
                at.append(clock.now - begin)
        assert at == [30, 90, 210, 450, 750, 1050]
        status.doing("waiting")
        clock.now += 29
        status.console.print("something else")
        clock.now += 29
        status.remind()
        assert out.getvalue().endswith("something else\n")
        clock.now += 1
        status.remind()
        assert out.getvalue().endswith("waiting: 59 s\n")
    clock.now += 1000
    status.remind()
    assert out.getvalue().endswith("waiting: 59 s\n")


def test_pieces_have_a_time_left(clock: Clock) -> None:
    status, out = log_file(clock)
    with status:
        status.report("scores", 0, 4)
        clock.now += 30
        status.report("scores", 1, 4)
        status.remind()
    assert out.getvalue().splitlines() == ["scores: 4", "scores: 1/4  30 s, about 1 min 30 s left"]


@sizes
def test_a_terminal_shows_one_line_that_goes_away(width: int, height: int, clock: Clock) -> None:
    with live(width, height, clock) as (status, out, screen):
        status.doing("starting Ray")
        assert [line[2:] for line in seen(out, screen)] == ["starting Ray  0 s"]
        clock.now += 7
        status.report("scores", 1, 3)
        assert status.is_live
        (line,) = seen(out, screen)
        assert line.split()[1] == "scores" and "1/3  0 s" in line
        status.end()
        assert not any(seen(out, screen)) and not status.is_live


@sizes
def test_no_line_overwrites_another(width: int, height: int, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages of all kinds, shorter and longer than the terminal, stay whole above a live area that is too big."""
    with live(width, height, clock) as (status, out, screen):
        monkeypatch.setattr(terminal, "errors", status.console)
        monkeypatch.setattr(terminal, "status", status)
        early = terminal.LineHandler()
        status.show(Tall())
        late = logging.StreamHandler()  # a library that is imported now
        wanted = []
        for number, length in enumerate((5, 39, 40, 41, 80, 81, 200)):
            words = f"{number}:" + "m" * length
            wanted += [f"WARNING  log {words}", f"said {words}"]
            early.emit(logging.makeLogRecord({"levelno": 30, "levelname": "WARNING", "msg": f"log {words}"}))
            terminal.say(f"said {words}")
            status.show(Tall())
        late.emit(logging.makeLogRecord({"levelno": 30, "levelname": "WARNING", "msg": "from a library"}))
        sys.stdout.write("printed\n")
        sys.stderr.write(warnings.formatwarning("deprecated", DeprecationWarning, "module.py", 7, ""))
        wanted += ["from a library", "printed", "module.py:7: DeprecationWarning:"]  # rich may fold the rest
        lines = seen(out, screen)
        area = [line for line in lines if line.startswith("row ")]
        assert [line[: len(known)] for line, known in zip(lines, wanted, strict=False)] == wanted
        assert [line.split()[1] for line in area] == [str(number) for number in range(len(area))]
        assert len(lines) <= len(wanted) + 1 + height - 1 and lines[-1].startswith(("row", "xxx"))
        status.end()
        left = seen(out, screen)
        assert left[: len(wanted) - 1] == wanted[:-1] and not any(line.startswith(("row", "xxx")) for line in left)
