"""What a person sees while a search runs: done, failed, running, best so far, time left.

On a terminal this is one live line; elsewhere (a log file, a job's output) one plain line for each trial that ends.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from medcore.errors import one_line
from results.stats.labels import text as metric_text
from results.stats.objectives import Objective
from results.store.trial_row import TrialRow
from search.base.objectives import values_of
from search.base.terminal import PlainConsole


class SearchProgress:
    """Context manager that shows the progress of a search.

    Give `started` and `ended` to `run_search` as `on_start` and `on_row` of its hooks.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        trials: int,
        rows: Sequence[TrialRow] = (),
        console: PlainConsole | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Count the trials of a search.

        Args:
            objectives: What is optimised.
            trials: Size of the whole search.
            rows: Trials that had ended before this start (a resumed search); their time does not count.
            console: Where to write; standard error by default.
            clock: Seconds, monotonic.
        """
        self._objectives = objectives
        self._trials = trials
        self._clock = clock
        self._console = console or PlainConsole(stderr=True)
        self._best: dict[str, tuple[float, str]] = {}
        self._running: set[str] = set()
        self._ended: Counter[str] = Counter()
        for row in rows:
            self._count(row)
        self._before = len(rows)
        self._begin = clock()
        self._first = 0.0
        self._live = Live(get_renderable=self._picture, console=self._console, refresh_per_second=2, transient=True)

    def __enter__(self) -> SearchProgress:
        """Show the live line on a terminal."""
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the live line."""
        self._live.stop()

    def started(self, trial_id: str) -> None:
        """Count a trial that starts."""
        self._first = self._first or self._clock()
        self._running.add(trial_id)

    def ended(self, row: TrialRow) -> None:
        """Count a trial that ends, and say why if it failed."""
        self._running.discard(row.trial_id)
        self._count(row)
        if row.status == "failed":
            self._console.print(one_line(f"trial {row.trial_id} failed: {row.reason}"), style="yellow")
        if not self._console.is_terminal:
            self._console.print(self.line(), soft_wrap=True)

    def line(self) -> str:
        """Return one line with counts, best values and times.

        For example: `12/48 done, 1 failed, 2 running · best flops 12.1 GFLOPs (t0003) · 2 min 5 s, about 6 min left`.
        """
        best = [f"{name} {metric_text(name, value)} ({trial})" for name, (value, trial) in self._best.items()]
        counts = [f"{self._ended['done']}/{self._trials} done", f"{self._ended['failed']} failed"]
        if self._ended["stopped"]:
            counts.append(f"{self._ended['stopped']} stopped early")
        counts.append(f"{len(self._running)} running")
        elapsed = duration(self._clock() - self._begin)
        left = self.seconds_left()
        ahead = f", about {duration(left)} left" if left else ""
        return " · ".join([", ".join(counts), *(["best " + ", ".join(best)] if best else []), elapsed + ahead])

    def seconds_left(self) -> float | None:
        """Return the time left by the pace since this start's first trial.

        Return None until a trial has ended.
        """
        ended = self._ended.total()
        if ended <= self._before:
            return None
        pace = (self._clock() - (self._first or self._begin)) / (ended - self._before)
        return max(0.0, pace * (self._trials - ended))

    def _count(self, row: TrialRow) -> None:
        self._ended[row.status] += 1
        values = values_of(row, self._objectives)
        for objective, value in zip(self._objectives, values or (), strict=values is not None):
            known = self._best.get(objective.name)
            if known is None or objective.better(value, known[0]):
                self._best[objective.name] = value, row.trial_id

    def _picture(self) -> Table:
        table = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=self._trials, completed=self._ended.total(), width=30)
        table.add_row(bar, Text(self.line(), overflow="fold"))
        return table


def duration(seconds: float) -> str:
    """Return `45 s`, `2 min 5 s` or `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
