"""Exceptions that mean "the input or the machine is wrong", as opposed to "the program is wrong"."""

from __future__ import annotations

import re

#: Colours and other control sequences of terminals, which Ray puts into its messages.
_CONTROL = re.compile(r"\x1b\[[0-9;]*m")


class MedcoreError(Exception):
    """A problem that the user can fix.

    The message is one line that says what is wrong, where, and what to do about it. The command line prints it without
    a traceback and ends with exit code 2. Code that can name the kind of problem raises one of the subclasses below.
    """


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
        return lines[0][:first]
    if last is not None:
        return lines[-1][:last]
    return " ".join(text.split())


def shown(text: object, most: int = 80) -> str:
    """Return a text from a file without control characters, and cut if it is longer than `most` letters."""
    try:
        text = str(text)
    except ValueError:  # Python writes no whole number of thousands of digits
        text = type(text).__name__
    plain = "".join(letter if letter.isprintable() else "?" for letter in text[: most + 1])
    return plain if len(plain) <= most else plain[: most - 1] + "…"
