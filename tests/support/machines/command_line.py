"""The command line, in this process or as a program of its own; both give exit code and output."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from search.cli.main import main
from tests.support.studies.study_files import command, environment


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and its output."""

    returncode: int
    stdout: str
    stderr: str


def medcore(*arguments: str | Path, cwd: Path | None = None) -> Done:
    """Run the command line's entry point in this process. An error that it does not handle is raised here."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", ["medcore", *map(str, arguments)]))
        stack.enter_context(mock.patch.dict(os.environ, COLUMNS="200"))
        stack.enter_context(_no_log_handlers())
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        if cwd is not None:
            stack.enter_context(chdir(cwd))
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return Done(code, out.getvalue(), err.getvalue())


def medcore_program(*arguments: str | Path, cwd: Path | None = None) -> Done:
    """Run the command line as a user does, in a process of its own."""
    done = subprocess.run(command(*arguments), cwd=cwd, env=environment(), capture_output=True, text=True, timeout=240)
    return Done(done.returncode, done.stdout, done.stderr)


@contextmanager
def _no_log_handlers() -> Iterator[None]:
    """Remove pytest's handlers, so that the program installs its own."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = []
    try:
        yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)
