"""What the command line writes to, and how it names itself."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from rich.console import Console

console = Console()
errors = Console(stderr=True)


def say(text: str) -> None:
    """Print plain lines as they are: paths may hold brackets, which rich takes for markup, and must stay whole."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def program(name: str) -> str:
    """`name` as the user can type it: with the folder of the program that runs, unless the shell finds it there."""
    beside, found = Path(sys.argv[0]).with_name(name), shutil.which(name)
    if not beside.is_file() or (found is not None and Path(found).samefile(beside)):
        return name
    return str(beside)
