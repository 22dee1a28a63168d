"""A console that shows text out of files as it is: nothing in it is markup, and no control code reaches a terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from medcore.errors import printable


class PlainConsole(Console):
    """Write text without reading it.

    Names, reasons and paths come from files of other people. Brackets in them are no markup, colons are no emoji, and a
    control code is written as its escape. Colours come from styles only.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

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
