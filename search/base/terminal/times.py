"""Times for people: how long something took, and a steady estimate of what is left."""

from __future__ import annotations

import math

#: Time constant of the shown estimate, as a share of the time that is left or has passed, whichever is shorter.
_SHARE = 0.2
#: Least time constant of the estimate, seconds.
_LEAST = 1.0
#: Rounding of an estimate: up to so many seconds, to multiples of so many.
_STEPS = ((60, 5), (600, 15), (3600, 60), (math.inf, 300))


class Countdown:
    """Smooths an estimate of the time left.

    The shown time counts down with the clock and approaches the computed one exponentially. It follows fast while
    little is known and near the end, and slowly between, where a single surprise should move little.

    Several threads may update it without a lock.
    """

    def __init__(self) -> None:
        # the shown time, when the first one was shown, and when this one was: assigned at once
        self._last: tuple[float, float, float] | None = None

    def update(self, now: float, left: float | None) -> float | None:
        """Return what to show.

        Args:
            now: Seconds, monotonic.
            left: The estimate as computed now, in seconds; None if there is none yet.
        """
        last = self._last
        if left is None:
            self._last = None
            return None
        if last is None:
            self._last = left, now, now
            return left
        shown, first, at = last
        passed = max(0.0, now - at)
        counted = max(0.0, shown - passed)
        follow = -math.expm1(-passed / max(_LEAST, _SHARE * min(left, max(0.0, now - first))))
        shown = counted + (left - counted) * follow
        self._last = shown, first, now
        return shown


def duration(seconds: float) -> str:
    """Return `45 s`, `2 min 5 s` or `3 h 20 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def about(seconds: float) -> str:
    """Return an estimate without false precision, such as `about 45 s left` or `about 12 min left`."""
    step = next(step for limit, step in _STEPS if seconds < limit)
    whole = max(5, step * round(seconds / step))
    return f"about {duration(whole).removesuffix(' 0 s').removesuffix(' 0 min')} left"
