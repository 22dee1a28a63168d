"""A process that runs commands of the command line one after the other, in an environment of its own.

Imports take seconds, and what a command sets up in its process (a token for Ray, say) would stay in the tests'.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from tests.support.machines.command_line import Done, medcore


class CommandServer:
    """Runs commands in a process with these environment variables. Use it as a context."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.machines.command_server"],
            env=dict(variables),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> CommandServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def medcore(self, *arguments: str | Path, cwd: Path) -> Done:
        """Run one command in a folder."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps([str(cwd), *map(str, arguments)]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"the process that runs commands ended at {arguments}"
        return Done(**json.loads(line))


def serve() -> None:
    """Run the commands that come on standard input, and answer on standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print from C must not get between the answers
    for line in sys.stdin:
        cwd, *arguments = json.loads(line)
        answers.write(json.dumps(asdict(medcore(*arguments, cwd=Path(cwd)))) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()
