"""Where a trial's time and memory go, part by part."""

from __future__ import annotations

import time

from search.base.device import forget_peaks, gpu_peak, host_peak
from search.trials.phase_file import Series

_MEGABYTE = 1e6


class Meter:
    """Each `mark` ends a part: time since the last mark, and the most memory in use since then, are the part's.

    Attributes:
        seconds: by part, summed over the marks of one name.
        series: memory of every part in order, megabytes, under names that MLflow shows among a run's system metrics,
            over `time` in milliseconds.
        peaks: the trial's own, megabytes: `memory_mb` and, where there is a GPU, `gpu_memory_mb`.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.series: Series = []
        self.peaks: dict[str, float] = {}
        self._marks = 0
        self._since = time.perf_counter()
        forget_peaks()

    def mark(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._since
        self._since = now
        for name, found in (("memory", host_peak()), ("gpu_memory", gpu_peak())):
            if found:
                value = found / _MEGABYTE
                entry = {"phase": "system", "step": self._marks, "name": f"process_{name}_megabytes", "value": value}
                self.series.append(entry | {"time": int(1000 * time.time())})
                self.peaks[f"{name}_mb"] = max(value, self.peaks.get(f"{name}_mb", 0.0))
        self._marks += 1
        forget_peaks()
