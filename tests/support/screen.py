"""A terminal for tests: what a person sees after some output. It knows the control codes that rich writes."""

from __future__ import annotations

import re

_CODE = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])")


class Screen:
    """A terminal with a scrollback. Long lines wrap, and the last line scrolls."""

    def __init__(self, columns: int, lines: int) -> None:
        self._columns = columns
        self._height = lines
        self._rows: list[list[str]] = [[]]
        self._wrapped: set[int] = set()
        self._row = self._column = 0
        self.seen = ""

    def feed(self, text: str) -> None:
        """Show output.

        Raises:
            ValueError: It holds a control code that is not known here.
        """
        self.seen += text
        place = 0
        while place < len(text):
            if (code := _CODE.match(text, place)) is not None:
                self._control(code[1], code[2], code[3])
                place = code.end()
                continue
            self._put(text[place])
            place += 1

    @property
    def rows(self) -> list[str]:
        """Every line since the start, as the terminal shows it."""
        return ["".join(row).rstrip() for row in self._rows]

    @property
    def text(self) -> list[str]:
        """Lines as they were written: those that the terminal wrapped are whole."""
        lines: list[str] = []
        for number, row in enumerate(self._rows):
            if number in self._wrapped:
                lines[-1] += "".join(row)
            else:
                lines.append("".join(row))
        return [line.rstrip() for line in lines]

    def _put(self, character: str) -> None:
        if character == "\r":
            self._column = 0
        elif character == "\n":
            self._down()
            self._column = 0  # a terminal driver adds the carriage return
        elif character < " " or character == "\x1b":
            raise ValueError(f"unknown control character {character!r}")
        else:
            if self._column == self._columns:
                self._down()
                self._wrapped.add(self._row)
                self._column = 0
            row = self._rows[self._row]
            row += " " * (self._column - len(row))
            row[self._column : self._column + 1] = [character]
            self._column += 1

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self._rows):
            self._rows.append([])

    def _control(self, private: str, numbers: str, letter: str) -> None:
        if letter == "m" or (private and letter in "hl"):  # colours, and the cursor's visibility
            return
        if letter == "A":
            top = max(0, len(self._rows) - self._height)  # what has scrolled away is out of reach
            self._row = max(top, self._row - int(numbers or 1))
        elif letter == "K" and numbers == "2":
            self._rows[self._row] = []
            self._wrapped.discard(self._row)
        else:
            raise ValueError(f"unknown control code {private}{numbers}{letter}")
