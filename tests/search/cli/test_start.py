"""The command line on a real terminal, from its first line to its last."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path

from tests.support.screen import Screen

ROOT = Path(__file__).resolve().parents[3]


def on_terminal(arguments: list[str], folder: Path) -> str:
    """Return all that a program writes to a terminal of 40 columns and 10 lines."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 40, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"TERM": "xterm", "PYTHONPATH": str(ROOT)}
    program = subprocess.Popen(arguments, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder, env=environment)
    os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 4096):
            written += part
    except OSError:  # Linux: the program has closed the terminal
        pass
    finally:
        os.close(ours)
    assert program.wait() == 2
    return written.decode()


def test_a_command_speaks_at_once_and_leaves_only_its_message(tmp_path: Path) -> None:
    name = "a study that does not exist and whose name is longer than the terminal"
    written = on_terminal([sys.executable, "-m", "search", "front", name], tmp_path)
    screen = Screen(40, 10)
    screen.feed(written)
    message = f"medcore: {name}: no study (study.json is missing); give the folder that a search wrote"
    assert "loading the program" in written.partition(message)[0]
    assert [line for line in screen.text if line] == [message]
