"""What a person sees while the trials of a search run.

On a terminal this is a live area: how far the search is, what runs, and the front so far. Elsewhere (a log file, a
job's output) it is one plain line for each trial that ends.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import ParamSpec

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from medcore.errors import one_line, printable
from results.stats.columns import SAMPLED, is_average
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

logger = logging.getLogger(__name__)
_Arguments = ParamSpec("_Arguments")


@dataclass(frozen=True)
class _Running:
    """A trial that runs: since when, what it does, and since when it does that."""

    begin: float
    phase: str
    since: float


@dataclass(frozen=True)
class _Seen:
    """The trials at one moment. Nothing in it is changed; a later moment is another object.

    Attributes:
        running: Trials that run, in the order of their starts.
        ended: Number of trials by how they ended.
        best: Best value of each objective, and its trial.
        front: The front so far.
    """

    running: Mapping[str, _Running] = field(default_factory=dict)
    ended: Counter[str] = field(default_factory=Counter)
    best: Mapping[str, tuple[float, str]] = field(default_factory=dict)
    front: Sequence[Member] = ()


def harmless(show: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """Return a function that calls `show` and logs its errors, so that no display ends a search."""

    def shown(*args: _Arguments.args, **options: _Arguments.kwargs) -> None:
        try:
            show(*args, **options)
        except Exception:  # the trials matter, not how they are shown
            logger.debug("something about the search is not shown", exc_info=True)

    return shown


class SearchProgress:
    """Context manager that shows the progress of a search.

    Give `started`, `phase` and `ended`, each of them `harmless`, to `run_search` as hooks. One thread calls them.

    Other threads draw, at any time: whatever a hook writes to standard error, such as a warning of NumPy, redraws the
    live area too. A lock would therefore block for ever. Instead a hook replaces `_seen` at once, and each picture
    reads it once.
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
        self._rows = list(rows)
        seen = _Seen(front=front_members(rows, objectives))
        for row in rows:
            seen = self._count(seen, row)
        self._seen = seen
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
        self._pace.start(trial_id, now)
        self._run(trial_id, _Running(now, "starts", now))

    def phase(self, trial_id: str, name: str) -> None:
        """Note which phase of a trial comes next."""
        if (known := self._seen.running.get(trial_id)) is not None:
            self._run(trial_id, _Running(known.begin, name, self._clock()))

    def ended(self, row: TrialRow) -> None:
        """Count a trial that ends, and say why if it failed."""
        status = "average" if is_average(row.origin) else row.status  # takes much less time than others that are done
        self._pace.end(row.trial_id, status, self._clock(), sampled=row.origin == SAMPLED)
        self._rows.append(row)
        self._seen = self._count(self._seen, row)
        self._seen = replace(self._seen, front=front_members(self._rows, self._objectives))
        console = self._status.console
        if row.status == "failed":
            console.print(one_line(f"trial {row.trial_id} failed: {row.reason}"), style="yellow", soft_wrap=True)
        if not self._status.is_live:
            console.print(self.line(), soft_wrap=True)

    def line(self) -> str:
        """Return one line with counts, best values and times.

        For example: `12/48 done, 1 failed, 2 running · best HD95 4.1 px (t0003) · 2 min 5 s, about 6 min left`.
        """
        seen = self._seen
        best = [f"{title(name)} {metric_text(name, value)} ({trial})" for name, (value, trial) in seen.best.items()]
        parts = [_counts(seen, f"{seen.ended['done']}/{self._trials} done")]
        return " · ".join([*parts, *(["best " + ", ".join(best)] if best else []), self._times()])

    def seconds_left(self) -> float | None:
        """Return the time left as it is shown.

        Return None until a trial of this start has ended.
        """
        now = self._clock()
        return self._countdown.update(now, self._pace.left(now))

    def picture(self, width: int, height: int) -> RenderableType:
        """Return the live area: a bar, counts and times, what runs, and the front so far."""
        seen = self._seen
        head: list[RenderableType] = [
            self._bar(seen, width),
            Text(f"{_counts(seen)} · {duration(self._clock() - self._begin)}"),
        ]
        running = self._running_lines(seen, min(_RUNNING, max(0, height - len(head))))
        room = min(_FRONT, height - len(head) - len(running) - 2)  # its head, and a second line for the counts
        shown = spread(seen.front, room)
        table = [front_picture(shown, self._objectives, len(seen.front), width)] if shown else []
        return Group(*head, *running, *table)

    def _bar(self, seen: _Seen, width: int) -> RenderableType:
        left = self.seconds_left()
        after = f"{seen.ended.total()}/{self._trials} trials" + (f", {about(left)}" if left else "")
        room = width - len(after) - 1
        if room < _LEAST_BAR:
            return Text(after)
        bar = ProgressBar(total=self._trials, completed=seen.ended.total(), width=min(room, _MOST_BAR))
        row = Table.grid(padding=(0, 1))
        row.add_row(bar, Text(after))
        return row

    def _times(self) -> str:
        left = self.seconds_left()
        return duration(self._clock() - self._begin) + (f", {about(left)}" if left else "")

    def _running_lines(self, seen: _Seen, most: int) -> list[Text]:
        """Return a line for each running trial; the last one counts those that have no room."""
        now = self._clock()
        lines = [
            Text(
                f"{printable(trial_id)}  {printable(trial.phase)}  {duration(now - trial.since)}"
                f" (trial: {duration(now - trial.begin)})",
                no_wrap=True,
                overflow="ellipsis",
            )
            for trial_id, trial in seen.running.items()
        ]
        if not lines and seen.ended.total() < self._trials:
            lines = [Text("a worker starts")]
        if len(lines) > most > 0:
            lines[most - 1 :] = [Text(f"and {len(lines) - most + 1} more")]
        return lines[:most]

    def _run(self, trial_id: str, trial: _Running) -> None:
        self._seen = replace(self._seen, running={**self._seen.running, trial_id: trial})

    def _count(self, seen: _Seen, row: TrialRow) -> _Seen:
        """Return what is seen after a trial ends. The front stays as it was."""
        best = dict(seen.best)
        values = values_of(row, self._objectives)
        for objective, value in zip(self._objectives, values or (), strict=values is not None):
            known = best.get(objective.name)
            if known is None or objective.better(value, known[0]):
                best[objective.name] = value, row.trial_id
        running = {trial_id: trial for trial_id, trial in seen.running.items() if trial_id != row.trial_id}
        return replace(seen, running=running, ended=seen.ended + Counter([row.status]), best=best)


def _counts(seen: _Seen, done: str | None = None) -> str:
    counts = [done or f"{seen.ended['done']} done", f"{seen.ended['failed']} failed"]
    if seen.ended["stopped"]:
        counts.append(f"{seen.ended['stopped']} stopped early")
    return ", ".join([*counts, f"{len(seen.running)} running"])
