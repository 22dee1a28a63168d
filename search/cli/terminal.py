"""What the command line writes: text, tables, JSON and files."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from rich.console import RenderableType

from medcore.errors import StorageError, one_line
from search.base.terminal.console import PlainConsole
from search.base.terminal.status import Status

console = PlainConsole(result=True)
errors = PlainConsole(stderr=True)
#: What the command does right now.
status = Status(errors)
#: What a command does first: imports take seconds.
LOADING = "loading the program"
#: Most characters of a log line. A list of skipped images may be long.
_MOST = 4000


def say(text: str) -> None:
    """Print plain lines, unwrapped, so that paths stay whole. Control codes become escapes.

    Lines for a terminal go through the console of the live area, which prints them above it. The command continues if
    standard output has lost its reader, because these lines are no result.
    """
    with suppress(SystemExit):  # of the broken pipe
        (errors if status.is_live and sys.stdout.isatty() else console).print(text, soft_wrap=True)


def warn(text: str) -> None:
    """Print plain lines on standard error, as `say` does."""
    errors.print(text, soft_wrap=True)


class LineHandler(logging.Handler):
    """Prints each log record as one line on standard error, so that a command in it can be copied."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        style = "bold red" if record.levelno >= logging.ERROR else "yellow"
        errors.print(f"{record.levelname}  {one_line(record.getMessage(), _MOST)}", style=style, soft_wrap=True)


def show(*results: RenderableType) -> None:
    """Print results. What the command was doing is over."""
    status.end()
    for result in results:
        console.print(result)


def print_result(result: Mapping[str, Any], as_json: bool, table: Callable[[], RenderableType]) -> None:
    """Print a result as one JSON object or as a table. What the command was doing is over."""
    status.end()
    if as_json:
        sys.stdout.write(json.dumps(result) + "\n")
    else:
        console.print(table())


def write_text(path: Path, text: str) -> None:
    """Write a file that the user named.

    Raises:
        MedcoreError: The file cannot be written.
    """
    try:
        path.write_text(text)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror})") from None
