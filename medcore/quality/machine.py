"""How busy a machine is while something is measured, from Linux's own counters; unknown on other systems."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcore.quality.timing import Conditions

#: Seconds below which counters in hundredths of a second say too little about other programs.
_LEAST_SECONDS = 0.5


@dataclass(frozen=True)
class Moment:
    """Counters at one moment, in seconds.

    Attributes:
        wall: Time on the wall.
        own: Processor time of this process, all threads.
        waited: Time in which threads of this process were ready and no processor was free; None if unknown.
        busy: Processor time of all programs; None if unknown.
    """

    wall: float = field(default_factory=time.perf_counter)
    own: float = field(default_factory=time.process_time)
    waited: float | None = field(default_factory=lambda: _waited())
    busy: float | None = field(default_factory=lambda: _busy())


def conditions_since(start: Moment) -> Conditions:
    """Return how busy the machine has been since `start`."""
    now = Moment()
    own, wall = now.own - start.own, now.wall - start.wall
    waited: float | None = None
    if now.waited is not None and start.waited is not None:
        delay = max(0.0, now.waited - start.waited)
        waited = delay / max(delay + own, 1e-9)
    others: float | None = None
    if now.busy is not None and start.busy is not None and wall >= _LEAST_SECONDS:
        others = max(0.0, now.busy - start.busy - own) / (wall * (os.cpu_count() or 1))
    return Conditions(waited=waited, others=others, mhz=_frequency())


def _waited() -> float | None:
    """Return the seconds that threads of this process have spent waiting for a processor."""
    try:
        return 1e-9 * sum(int(file.read_text().split()[1]) for file in Path("/proc/self/task").glob("*/schedstat"))
    except (OSError, ValueError, IndexError):
        return None


def _busy() -> float | None:
    """Return the processor seconds of all programs since the machine was started."""
    try:
        ticks = [int(word) for word in Path("/proc/stat").read_text().partition("\n")[0].split()[1:]]
        # user, nice, system, idle, iowait, irq, softirq, steal: idle and iowait are not busy
        return (sum(ticks[:3]) + sum(ticks[5:8])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None


def _frequency() -> float | None:
    """Return the mean frequency of the processors in MHz."""
    try:
        lines: list[Any] = Path("/proc/cpuinfo").read_text().splitlines()
        known = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
        return sum(known) / len(known) if known else None
    except (OSError, ValueError):
        return None
