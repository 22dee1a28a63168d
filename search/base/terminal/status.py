"""What a command does right now: a live area on a terminal, plain lines elsewhere. Always on standard error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from typing import Protocol

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderableType, RenderHook, RenderResult
from rich.live import Live
from rich.segment import Segment

from search.base.terminal.console import PlainConsole
from search.base.terminal.work import Work

#: Seconds without a line, off a terminal, before the first reminder; every further one takes twice as long.
FIRST_REMINDER = 30.0
#: Longest time between two reminders, seconds.
LAST_REMINDER = 300.0


class View(Protocol):
    """Something that takes time, as people see it."""

    def picture(self, width: int, height: int) -> RenderableType:
        """Return what a terminal shows, in at most so many columns and lines."""

    def line(self) -> str:
        """Return what a log file shows from time to time."""


class Status(RenderHook):
    """Shows what a command does right now.

    On a terminal this is a live area, redrawn several times a second, below all other lines. Elsewhere it is one plain
    line for each thing that begins, and a reminder with the time if nothing else is printed for long.

    Nothing is shown before the first call and after `end`. All text that reaches standard error or the console
    meanwhile appears above the live area. So does standard output, if it is a terminal too.
    """

    def __init__(self, console: PlainConsole | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Show nothing yet.

        Args:
            console: Where to write; standard error by default.
            clock: Seconds, monotonic.
        """
        self.console = console or PlainConsole(stderr=True)
        self.clock = clock
        self._view: View | None = None
        self._live: Live | None = None
        self._ended: threading.Event | None = None
        self._printed = 0.0
        self._pause = FIRST_REMINDER

    def __enter__(self) -> Status:
        """Do nothing yet."""
        return self

    def __exit__(self, *error: object) -> None:
        """Show nothing any more."""
        self.end()

    @property
    def is_live(self) -> bool:
        """Whether a live area is on the terminal."""
        return self._live is not None

    def doing(self, text: str, *, logged: bool = True) -> None:
        """Say what begins now.

        Args:
            text: A few words, such as `starting Ray`.
            logged: Whether it is worth a line off a terminal.
        """
        if not (isinstance(self._view, Work) and self._view.text == text):
            self.show(Work(text, self.clock))
        if logged and not self.is_live:
            self.console.print(text, soft_wrap=True)

    def report(self, job: str, done: int, total: int) -> None:
        """Count finished pieces of a job.

        Args:
            job: Name of the job. A new one begins a new bar.
            done: Finished pieces.
            total: All pieces; 0 if they are not counted.
        """
        view = self._view
        if isinstance(view, Work) and view.text == job and view.is_counted:
            view.count(done, total)
            return
        view = Work(job, self.clock, total)
        view.count(done, total)
        self.show(view)
        if not self.is_live:
            self.console.print(f"{job}: {total}" if total else job, soft_wrap=True)

    def show(self, view: View) -> None:
        """Show a view until another one follows."""
        self._view = view
        self._pause = FIRST_REMINDER
        if self._live is not None:
            self._live.refresh()
        elif self.console.is_interactive:
            self._live = Live(
                get_renderable=self._area,
                console=self.console,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),
            )
            self._live.start(refresh=True)
        elif self._ended is None:
            self._ended = threading.Event()
            self._printed = self.clock()
            self.console.push_render_hook(self)
            threading.Thread(target=self._remind, args=(self._ended,), name="medcore-status", daemon=True).start()

    def end(self) -> None:
        """Show nothing until the next call."""
        if self._live is not None:
            self._live.stop()
            self._live = None
        if self._ended is not None:
            self._ended.set()
            self._ended = None
            self.console.pop_render_hook()
        self._view = None

    def remind(self) -> None:
        """Print a line off a terminal if there has been none for long."""
        view, now = self._view, self.clock()
        if view is not None and now - self._printed >= self._pause:
            self._pause = min(2 * self._pause, LAST_REMINDER)
            self.console.print(view.line(), soft_wrap=True)

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Note that something is printed; rich calls this."""
        self._printed = self.clock()
        return renderables

    def _remind(self, ended: threading.Event) -> None:
        while not ended.wait(1.0):
            self.remind()

    def _area(self) -> RenderableType:
        return _Area(self._view)


class _Area:
    """The live area. Its lines fit the terminal, however the text above them is printed."""

    def __init__(self, view: View | None) -> None:
        self._view = view

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield lines that are folded at the terminal's width.

        A message that may be longer than a line is printed without folding, and rich prints the live area with the
        message's options.
        """
        if self._view is None:
            return
        # one line stays free: a terminal scrolls if the last one is full
        width, height = options.max_width, max(1, options.size.height - 1)
        folded = options.update(no_wrap=False, overflow="fold", height=None)
        for line in console.render_lines(self._view.picture(width, height), folded, pad=False)[:height]:
            yield from line
            yield Segment.line()
