"""What a person sees while a search runs: done, failed, running, best so far, time left.

On a terminal one live line; elsewhere (a log file, a job's output) one plain line per ended trial.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from results.stats.labels import text as metric_text
from search.base.objectives import Objective, values_of

Row = Mapping[str, Any]


class SearchProgress:
    """Context manager; give `started` and `ended` to `run_search` as `on_start` and `on_row`.

    Args:
        trials: size of the whole search.
        rows: trials that had ended before this start (a resumed search); their time is not counted.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        trials: int,
        rows: Sequence[Row] = (),
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._objectives, self._trials, self._clock = objectives, trials, clock
        self._console = console or Console(stderr=True)
        self._best: dict[str, tuple[float, str]] = {}
        self._running: set[str] = set()
        self.done = self.failed = 0
        for row in rows:
            self._count(row)
        self._before, self._begin, self._first = len(rows), clock(), 0.0
        self._live = Live(get_renderable=self._picture, console=self._console, refresh_per_second=2, transient=True)

    def __enter__(self) -> SearchProgress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def started(self, trial_id: str) -> None:
        self._first = self._first or self._clock()
        self._running.add(trial_id)

    def ended(self, row: Row) -> None:
        self._running.discard(str(row["trial_id"]))
        self._count(row)
        failed = row["status"] == "failed"
        if failed:
            self._console.print(
                f"trial {row['trial_id']} failed: {row.get('reason')}", style="yellow", markup=False, highlight=False
            )
        if not self._console.is_terminal:
            self._console.print(self.line(), markup=False, highlight=False, soft_wrap=True)

    def line(self) -> str:
        """`12/48 done, 1 failed, 2 running · best flops 12.1 GFLOPs (t0003) · 2 min 5 s, about 6 min left`."""
        best = [f"{name} {metric_text(name, value)} ({trial})" for name, (value, trial) in self._best.items()]
        counts = f"{self.done}/{self._trials} done, {self.failed} failed, {len(self._running)} running"
        elapsed = duration(self._clock() - self._begin)
        left = self.seconds_left()
        ahead = f", about {duration(left)} left" if left else ""
        return " · ".join([counts, *(["best " + ", ".join(best)] if best else []), elapsed + ahead])

    def seconds_left(self) -> float | None:
        """From the pace since the first trial of this start; None before one has ended."""
        ended = self.done + self.failed - self._before
        if ended <= 0:
            return None
        pace = (self._clock() - (self._first or self._begin)) / ended
        return max(0.0, pace * (self._trials - self.done - self.failed))

    def _count(self, row: Row) -> None:
        values = values_of(row, self._objectives)
        if row["status"] == "failed":
            self.failed += 1
        else:
            self.done += 1
        for objective, value in zip(self._objectives, values or (), strict=values is not None):
            known = self._best.get(objective.name)
            if known is None or objective.better(value, known[0]):
                self._best[objective.name] = value, str(row["trial_id"])

    def _picture(self) -> Table:
        table = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=self._trials, completed=self.done + self.failed, width=30)
        table.add_row(bar, Text(self.line(), overflow="fold"))
        return table


def duration(seconds: float) -> str:
    """`45 s`, `2 min 5 s`, `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
