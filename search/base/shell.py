"""Commands that a user can type again."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from search.base.logins import hide_login

#: Variable with the command that resumes a search, if that differs from the command that runs.
RESUME_COMMAND = "MEDCORE_RESUME_COMMAND"


def program(name: str) -> str:
    """Return `name` as the user can type it.

    It has the folder of the running program unless the shell finds it without.
    """
    neighbour, found = Path(sys.argv[0]).with_name(name), shutil.which(name)
    if not neighbour.is_file() or (found is not None and Path(found).samefile(neighbour)):
        return name
    return str(neighbour)


def option_words(options: Mapping[str, object]) -> list[str]:
    """Return options as words of a command.

    Options without a value are left out. So is an address that holds a login, because logs would show it.
    """
    words: list[str] = []
    for name, value in options.items():
        if value is not None and hide_login(str(value)) == str(value):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return words


def resume_command(config: Path, **options: object) -> str:
    """Return the call that resumes a search: the same options, quoted for a shell.

    A job of a cluster returns the command that was typed where it was submitted.
    """
    if submitted := os.environ.get(RESUME_COMMAND):
        return submitted
    return shlex.join([program("medcore"), "search", str(config), *option_words(options), "--resume"])
