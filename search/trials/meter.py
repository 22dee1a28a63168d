"""Time and memory of a trial by stage."""

from __future__ import annotations

import time
from typing import NamedTuple

from search.base.device import forget_peaks, gpu_peak, host_peak

_MEGABYTE = 1e6


class PhasePoint(NamedTuple):
    """One figure on the way of a trial, a line of its `phases.json`.

    Attributes:
        phase: The phase, or `system` for memory.
        step: Step within the phase.
        name: What the figure is.
        value: The figure.
        time: When it was taken, in milliseconds since the epoch; None for figures that come in steps.
    """

    phase: str
    step: int
    name: str
    value: float
    time: int | None = None

    def record(self) -> dict[str, str | int | float]:
        """Return the point as `phases.json` holds it, without an absent time."""
        return {key: value for key, value in self._asdict().items() if value is not None}


class Meter:
    """Measures the stages of a trial. Each `mark` ends a stage.

    Attributes:
        seconds: Seconds by stage, summed over the marks of one name.
        points: Memory in megabytes at the end of each stage, under names that MLflow shows among a run's system
            metrics.
        peaks: The trial's own peaks in megabytes: `memory_mb` and, with a GPU, `gpu_memory_mb`.
    """

    def __init__(self) -> None:
        """Begin the first stage."""
        self.seconds: dict[str, float] = {}
        self.points: list[PhasePoint] = []
        self.peaks: dict[str, float] = {}
        self._marks = 0
        self._since = time.perf_counter()
        forget_peaks()

    def mark(self, stage: str) -> None:
        """End a stage.

        The time since the last mark and the most memory in use since then belong to it.
        """
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._since
        self._since = now
        for name, peak in (("memory", host_peak()), ("gpu_memory", gpu_peak())):
            if peak:
                value = peak / _MEGABYTE
                taken = int(1000 * time.time())
                self.points.append(PhasePoint("system", self._marks, f"process_{name}_megabytes", value, taken))
                self.peaks[f"{name}_mb"] = max(value, self.peaks.get(f"{name}_mb", 0.0))
        self._marks += 1
        forget_peaks()
