"""A console that shows text out of files as it is: nothing in it is markup, and no control code reaches a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from medcore.errors import printable


class PlainConsole(Console):
    """Write text without reading it.

    Names, reasons and paths come from files of other people. Brackets in them are no markup, colons are no emoji, and a
    control code is written as its escape. Colours come from styles only.

    Text that cannot be written is lost, because the terminal is closed, a pipe has no reader, or a disk is full. The
    command continues. Only its result must be written.
    """

    def __init__(self, *, result: bool = False, **options: Any) -> None:
        """Write to standard output, unless `options` say otherwise.

        Args:
            result: Whether this console writes a command's result. Then an `OSError` is raised, and a broken pipe ends
                the command quietly.
            options: Those of rich's `Console`.
        """
        super().__init__(markup=False, emoji=False, highlight=False, **options)
        self._result = result

    def __exit__(self, *error: Any) -> None:
        """Write what was printed; rich calls this at the end of each print."""
        try:
            super().__exit__(*error)
        except OSError:
            if self._result:
                raise
            with suppress(OSError), self.capture():  # empties rich's buffer, which would grow
                pass

    def on_broken_pipe(self) -> None:
        """Write nothing any more.

        Raises:
            SystemExit: This console writes a command's result. Standard output then goes to the null device.
        """
        self.quiet = True
        if self._result:
            super().on_broken_pipe()

    def render_str(self, text: str, **options: Any) -> Text:
        """Return text with escapes in place of control codes, before its width is measured."""
        return super().render_str(printable(text, keep="\n"), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of anything, with escapes in place of control codes in its text."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment(printable(segment.text, keep="\n"), segment.style)
