"""What a person sees while the trials of a search run.

On a terminal this is a live area: how far the search is, what runs, and the front so far. Elsewhere (a log file, a
job's output) it is one plain line for each trial that ends.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from medcore.errors import one_line, printable
from results.stats.columns import SAMPLED
from results.stats.labels import text as metric_text
from results.stats.labels import title
from results.stats.objectives import Objective
from results.store.trial_row import TrialRow
from search.base.objectives import values_of
from search.base.terminal.status import Status
from search.base.terminal.times import Countdown, about, duration
from search.driver.progress.front import Member, front_members, front_picture, spread
from search.driver.progress.time_left import Pace

#: Most lines about running trials, and about the front.
_RUNNING, _FRONT = 4, 8
#: Columns of the bar, at least and at most.
_LEAST_BAR, _MOST_BAR = 8, 40


@dataclass
class _Running:
    """A trial that runs: since when, what it does, and since when it does that."""

    begin: float
    phase: str
    since: float


class SearchProgress:
    """Context manager that shows the progress of a search.

    Give `started`, `phase` and `ended` to `run_search` as hooks.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        trials: int,
        rows: Sequence[TrialRow] = (),
        status: Status | None = None,
        *,
        finalists: int = 0,
    ) -> None:
        """Count the trials of a search.

        Args:
            objectives: What is optimised.
            trials: Size of the whole search.
            rows: Trials that had ended before this start (a resumed search); their time does not count.
            status: Shows the progress; by default one of its own, on standard error.
            finalists: How many trials, the last ones, run to their end for certain.
        """
        self._objectives = objectives
        self._trials = trials
        self._status = status or Status()
        self._clock = self._status.clock
        self._lock = threading.Lock()  # a thread of its own draws the live area
        self._best: dict[str, tuple[float, str]] = {}
        self._running: dict[str, _Running] = {}
        self._ended: Counter[str] = Counter()
        self._rows: list[TrialRow] = []
        self._front: list[Member] = []
        for row in rows:
            self._count(row)
        self._front = front_members(self._rows, objectives)
        self._begin = self._clock()
        self._pace = Pace(trials - len(rows), min(finalists, trials))
        self._countdown = Countdown()

    def __enter__(self) -> SearchProgress:
        """Show the progress."""
        self._status.show(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the live area."""
        self._status.end()

    def started(self, trial_id: str) -> None:
        """Count a trial that starts."""
        now = self._clock()
        with self._lock:
            self._running[trial_id] = _Running(now, "starts", now)
            self._pace.start(trial_id, now)

    def phase(self, trial_id: str, name: str) -> None:
        """Note which phase of a trial comes next."""
        with self._lock:
            if trial_id in self._running:
                known = self._running[trial_id]
                self._running[trial_id] = _Running(known.begin, name, self._clock())

    def ended(self, row: TrialRow) -> None:
        """Count a trial that ends, and say why if it failed."""
        with self._lock:
            self._pace.end(row.trial_id, row.status, self._clock(), sampled=row.origin == SAMPLED)
            self._running.pop(row.trial_id, None)
            self._count(row)
            self._front = front_members(self._rows, self._objectives)
        console = self._status.console
        if row.status == "failed":
            console.print(one_line(f"trial {row.trial_id} failed: {row.reason}"), style="yellow", soft_wrap=True)
        if not self._status.is_live:
            console.print(self.line(), soft_wrap=True)

    def line(self) -> str:
        """Return one line with counts, best values and times.

        For example: `12/48 done, 1 failed, 2 running · best HD95 4.1 px (t0003) · 2 min 5 s, about 6 min left`.
        """
        with self._lock:
            best = [
                f"{title(name)} {metric_text(name, value)} ({trial})" for name, (value, trial) in self._best.items()
            ]
            parts = [self._counts(f"{self._ended['done']}/{self._trials} done")]
            return " · ".join([*parts, *(["best " + ", ".join(best)] if best else []), self._times()])

    def seconds_left(self) -> float | None:
        """Return the time left as it is shown.

        Return None until a trial of this start has ended.
        """
        now = self._clock()
        return self._countdown.update(now, self._pace.left(now))

    def picture(self, width: int, height: int) -> RenderableType:
        """Return the live area: a bar, counts and times, what runs, and the front so far."""
        with self._lock:
            head: list[RenderableType] = [
                self._bar(width),
                Text(f"{self._counts()} · {duration(self._clock() - self._begin)}"),
            ]
            running = self._running_lines(min(_RUNNING, max(0, height - len(head))))
            room = min(_FRONT, height - len(head) - len(running) - 2)  # its head, and a second line for the counts
            shown = spread(self._front, room)
            table = [front_picture(shown, self._objectives, len(self._front), width)] if shown else []
            return Group(*head, *running, *table)

    def _bar(self, width: int) -> RenderableType:
        left = self.seconds_left()
        after = f"{self._ended.total()}/{self._trials} trials" + (f", {about(left)}" if left else "")
        room = width - len(after) - 1
        if room < _LEAST_BAR:
            return Text(after)
        bar = ProgressBar(total=self._trials, completed=self._ended.total(), width=min(room, _MOST_BAR))
        row = Table.grid(padding=(0, 1))
        row.add_row(bar, Text(after))
        return row

    def _counts(self, done: str | None = None) -> str:
        counts = [done or f"{self._ended['done']} done", f"{self._ended['failed']} failed"]
        if self._ended["stopped"]:
            counts.append(f"{self._ended['stopped']} stopped early")
        return ", ".join([*counts, f"{len(self._running)} running"])

    def _times(self) -> str:
        left = self.seconds_left()
        return duration(self._clock() - self._begin) + (f", {about(left)}" if left else "")

    def _running_lines(self, most: int) -> list[Text]:
        """Return a line for each running trial; the last one counts those that have no room."""
        now = self._clock()
        lines = [
            Text(
                f"{printable(trial_id)}  {printable(trial.phase)}  {duration(now - trial.since)}"
                f" (trial: {duration(now - trial.begin)})",
                no_wrap=True,
                overflow="ellipsis",
            )
            for trial_id, trial in self._running.items()
        ]
        if not lines and self._ended.total() < self._trials:
            lines = [Text("a worker starts")]
        if len(lines) > most > 0:
            lines[most - 1 :] = [Text(f"and {len(lines) - most + 1} more")]
        return lines[:most]

    def _count(self, row: TrialRow) -> None:
        self._ended[row.status] += 1
        self._rows.append(row)
        values = values_of(row, self._objectives)
        for objective, value in zip(self._objectives, values or (), strict=values is not None):
            known = self._best.get(objective.name)
            if known is None or objective.better(value, known[0]):
                self._best[objective.name] = value, row.trial_id
