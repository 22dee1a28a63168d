"""One line about something that takes time: a spinner and the time so far, or a bar and the time left."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from medcore.errors import one_line
from search.base.terminal.times import Countdown, about, duration

_FRAMES = "|/-\\"
_FRAMES_PER_SECOND = 4
#: Columns of a bar, at least and at most.
_LEAST_BAR, _MOST_BAR = 8, 30


class Work:
    """Something that takes time, with or without pieces that can be counted."""

    def __init__(self, text: str, clock: Callable[[], float], total: int | None = None) -> None:
        """Begin now.

        Args:
            text: What is done.
            clock: Seconds, monotonic.
            total: Number of pieces; None if they are not counted.
        """
        self.text = text
        self._clock = clock
        self._total = total
        self._done = 0
        self._begin = clock()
        self._left = Countdown()

    @property
    def is_counted(self) -> bool:
        """Whether the work has pieces."""
        return self._total is not None

    def count(self, done: int, total: int) -> None:
        """Note how many pieces are finished."""
        self._done, self._total = done, total

    def picture(self, width: int, height: int) -> RenderableType:
        """Return one line."""
        name, after = one_line(self.text), self._after()
        spinner = _FRAMES[int(self._clock() * _FRAMES_PER_SECOND) % len(_FRAMES)]
        if not self._total:
            return Text(f"{spinner} {name}  {after}")
        row: list[RenderableType] = [spinner, Text(name)]
        room = width - len(name) - len(after) - 5
        if room >= _LEAST_BAR:
            row.append(ProgressBar(total=self._total, completed=self._done, width=min(room, _MOST_BAR)))
        table = Table.grid(padding=(0, 1))
        table.add_row(*row, Text(after))
        return table

    def line(self) -> str:
        """Return what is done, how far it is, and for how long."""
        return f"{self.text}: {self._after()}"

    def _after(self) -> str:
        passed = self._clock() - self._begin
        if not self._total:
            return duration(passed)
        pace = passed / self._done if self._done else None
        left = self._left.update(self._clock(), None if pace is None else pace * (self._total - self._done))
        ahead = f", {about(left)}" if left else ""
        return f"{self._done}/{self._total}  {duration(passed)}{ahead}"
