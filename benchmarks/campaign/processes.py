"""Processes of this computer as /proc shows them."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """`namespace`: which machine it runs on."""

    pid: int
    parent: int
    command: str
    namespace: str

    def kill(self) -> None:
        """SIGKILL; one that has ended by itself is fine."""
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        """Send a signal; one that has ended by itself is fine."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


def all_processes() -> list[Process]:
    """Return all processes that run, without those that have ended but are not collected yet."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            # pid (name) state parent …; the name may hold spaces and brackets
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            if state not in "ZX":
                namespace = str((folder / "ns" / "pid").readlink())
                found.append(Process(int(folder.name), int(parent), command, namespace))
    return found


def children(pid: int) -> list[Process]:
    return [process for process in all_processes() if process.parent == pid]
