"""How long the trials that are left will take: by how trials end, how long each end takes, and how many run at once."""

from __future__ import annotations

import heapq
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean, median


@dataclass(frozen=True)
class EndedTrial:
    """How a trial ended and how long it took.

    Attributes:
        status: Status of its row, or `average` for one that trained nothing.
        seconds: From its first start to its end, with the start of its worker.
        sampled: Whether the sampler chose it. Others are never stopped early, so they say nothing about how often
            that happens.
    """

    status: str
    seconds: float
    sampled: bool = True


def seconds_left(
    ended: Collection[EndedTrial], running: Collection[float], waiting: int, *, full: int = 0, places: int = 1
) -> float | None:
    """Return when the last trial will end, in seconds from now.

    A trial that waits takes the typical time of each way to end, weighted by how often sampled trials ended so. A trial
    that runs ends like the finished ones that took longer than it has run. Each trial starts where a place becomes free
    first.

    Args:
        ended: Finished trials.
        running: Seconds that each running trial has taken so far.
        waiting: Number of trials that have not started.
        full: How many of the waiting ones, the last, run to their end for certain.
        places: Trials at once.

    Returns:
        The estimate; None until a trial has ended.
    """
    if not ended:
        return None
    typical = {
        status: _typical([trial.seconds for trial in ended if trial.status == status])
        for status in {trial.status for trial in ended}
    }
    likely = [typical[trial.status] for trial in ended if trial.sampled] or [*typical.values()]
    usual = fmean(likely)
    whole = typical.get("done", max(typical.values()))
    known = [trial.seconds for trial in ended]
    free = [_rest(known, passed) for passed in running]
    free += [0.0] * (places - len(free))
    heapq.heapify(free)
    for number in range(waiting):
        length = whole if number >= waiting - full else usual
        heapq.heapreplace(free, free[0] + length)
    return max(free)


def _typical(seconds: Sequence[float]) -> float:
    """Return the mean of times, of which none counts for more than three medians.

    A trial whose worker died and started again takes unusually long.
    """
    most = 3 * median(seconds)
    return fmean(min(each, most) for each in seconds)


def _rest(known: Sequence[float], passed: float) -> float:
    """Return how long a trial that has run for `passed` seconds still takes.

    This is the mean over the finished trials that took longer. If none did, it is a tenth of the time so far.
    """
    longer = [seconds - passed for seconds in known if seconds > passed]
    return fmean(longer) if longer else 0.1 * passed


class Pace:
    """The trials of one search, as far as their times go.

    One thread counts trials. Others may ask meanwhile, without a lock: what is counted is replaced, never changed.
    """

    def __init__(self, trials: int, full: int = 0) -> None:
        """Count no trial yet.

        Args:
            trials: Trials that have not ended.
            full: How many of them, the last, run to their end for certain.
        """
        self._trials = trials
        self._full = full
        self._ended: tuple[EndedTrial, ...] = ()
        self._running: dict[str, float] = {}
        self._places = 1

    def start(self, trial_id: str, now: float) -> None:
        """Count a trial that starts at `now`. A second start of a trial changes nothing."""
        self._running = {**self._running, trial_id: self._running.get(trial_id, now)}
        self._places = len(self._running)

    def end(self, trial_id: str, status: str, now: float, *, sampled: bool = True) -> None:
        """Count a trial that ends at `now`; see `EndedTrial`."""
        self._places = max(1, len(self._running))
        begin = self._running.get(trial_id, now)  # a trial of an earlier start may have ended before it was seen
        self._running = {known: since for known, since in self._running.items() if known != trial_id}
        self._ended = (*self._ended, EndedTrial(status, now - begin, sampled))

    def left(self, now: float) -> float | None:
        """Return how long the rest takes, in seconds; None until a trial has ended."""
        ended, passed = self._ended, [now - begin for begin in self._running.values()]
        waiting = max(0, self._trials - len(ended) - len(passed))
        if not waiting and not passed:
            return 0.0
        return seconds_left(ended, passed, waiting, full=min(self._full, waiting), places=self._places)
