"""What the command line writes: text, tables, JSON and files."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType

from medcore.errors import StorageError

console = Console()
errors = Console(stderr=True)


def say(text: str) -> None:
    """Print plain lines unchanged.

    Paths must stay whole, but may hold brackets, which rich takes for markup.
    """
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def warn(text: str) -> None:
    """Print plain lines unchanged on standard error."""
    errors.print(text, markup=False, highlight=False, soft_wrap=True)


def print_result(result: Mapping[str, Any], as_json: bool, table: Callable[[], RenderableType]) -> None:
    """Print a result as one JSON object or as a table."""
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
