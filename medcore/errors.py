"""Exceptions that mean "the input or the machine is wrong", as opposed to "the program is wrong"."""

from __future__ import annotations

import re
from typing import ClassVar

#: Colours and other control sequences of terminals, which Ray puts into its messages.
_CONTROL = re.compile(r"\x1b\[[0-9;]*m")
#: Characters that a terminal or a browser obeys instead of showing: control codes, marks that change the direction of
#: text, invisible ones, separators of lines, and halves of surrogate pairs, which stand for bytes of no known text.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def printable(text: str, keep: str = "") -> str:
    """Return text in which every character can be shown and none is obeyed.

    A character that a terminal obeys or cannot show becomes an escape with its code, as in Python. So does a byte of a
    file's name that is no UTF-8.

    Args:
        text: Any text, such as a name out of a file.
        keep: Characters that stay as they are, such as a line break.
    """
    return _UNSEEN.sub(lambda found: found[0] if found[0] in keep else _escape(ord(found[0])), text)


def one_line(text: str, most: int = 1500) -> str:
    """Return text as one printable line of at most `most` characters.

    A longer text loses its middle, because a message begins with a place and ends with advice.
    """
    line = printable(" ".join(line.strip() for line in text.splitlines() if line.strip()))
    if len(line) <= most:
        return line
    end = most // 3
    return f"{line[: most - end - 3]} … {line[-end:]}"


def _escape(code: int) -> str:
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is no UTF-8
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class MedcoreError(Exception):
    """A problem that the user can fix.

    The message says what is wrong, where, and what to do about it. It is one printable line of bounded length, whatever
    it quotes. The command line prints it without a traceback and ends with exit code 2. Code that can name the kind of
    problem raises one of the subclasses below.

    Attributes:
        most: Most characters of a message.
    """

    most: ClassVar[int] = 1500

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(str(message), self.most))


class ConfigError(MedcoreError):
    """A mistake in the configuration, an option of a command or a rule."""


class DataError(MedcoreError):
    """An image, a mask, a data folder or its splits that cannot be used."""


class CheckpointError(MedcoreError):
    """A checkpoint, architecture, score table or training state that cannot be used."""


class ClusterError(MedcoreError):
    """Ray, a node or a process of the cluster failed."""


class TrackingError(MedcoreError):
    """A tracking server that is unreachable, refuses a request or lacks its object."""


class StorageError(MedcoreError):
    """A file cannot be written because the disk is full, read-only or not mounted."""


def brief(error: object, *, first: int | None = None, last: int | None = None) -> str:
    """Shorten an error to one line, without the colours of a terminal.

    Args:
        error: an exception, or the text of one; None or an empty text has an unknown reason.
        first: keep the first line that is not blank, at most so many characters of it.
        last: keep the last such line, at most so many characters of it. With neither, all lines are joined.

    Returns:
        The line; the name of the exception's type if it has no text.
    """
    text = _CONTROL.sub("", str(error)) if isinstance(error, BaseException) or error else "unknown reason"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if first is not None:
        return printable(lines[0])[:first]
    if last is not None:
        return printable(lines[-1])[:last]
    return printable(" ".join(text.split()))


def shown(text: object, most: int = 80) -> str:
    """Return a text from a file as `printable` does, and cut if it is longer than `most` letters."""
    try:
        text = str(text)
    except ValueError:  # Python writes no whole number of thousands of digits
        text = type(text).__name__
    plain = printable(text[: most + 1])
    return plain if len(plain) <= most else plain[: most - 1] + "…"
