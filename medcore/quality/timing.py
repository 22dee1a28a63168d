"""Results of a measurement of time and memory, in a file of their own so that they can be read without torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import bdtr

#: Shares of time from which a machine counts as busy: waits for a processor, and other programs on all processors.
_WAITED, _OTHERS = 0.05, 0.2
#: Width of an interval, as a share of the median, from which a figure is too uncertain.
_WIDE = 0.1


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call.

    Attributes:
        median_ms: Median over the timed calls.
        iqr_ms: Interquartile range over the timed calls; None for a single call.
        repeats: Number of timed calls.
        low_ms: Lower end of the median's 95 % interval; None if the calls are too few, or not known.
        high_ms: Upper end of the interval.
        cpu_ms: Median processor time of a call, all threads; None if not known.
    """

    median_ms: float
    iqr_ms: float | None
    repeats: int
    low_ms: float | None = None
    high_ms: float | None = None
    cpu_ms: float | None = None

    @property
    def width(self) -> float:
        """Return the width of the interval as a share of the median; infinite without an interval."""
        if self.low_ms is None or self.high_ms is None:
            return math.inf
        return (self.high_ms - self.low_ms) / self.median_ms


@dataclass(frozen=True)
class Conditions:
    """How busy the machine was during a measurement; None stands for what the system does not tell.

    Attributes:
        waited: Share of the time of its threads in which no processor was free for them.
        others: Share of all processors that other programs took.
        mhz: Mean frequency of the processors afterwards.
    """

    waited: float | None = None
    others: float | None = None
    mhz: float | None = None

    @property
    def trouble(self) -> str:
        """Return why times that were measured so are no fact; empty if nothing was in the way."""
        if self.waited is not None and self.waited > _WAITED:
            return f"the machine was busy: the model waited {self.waited:.0%} of the time for a processor"
        if self.others is not None and self.others > _OTHERS:
            return f"the machine was busy: other programs took {self.others:.0%} of its processors"
        return ""


@dataclass(frozen=True)
class Latency:
    """One batch through a model.

    Attributes:
        encoder: From images to embeddings; this module is pruned. It is a part of the timed whole calls.
        whole: Encoder, prompt encoder and mask decoder, a box for each image.
        peak_bytes: Tensors alive at the worst moment of a whole call: weights, input and what torch's allocator gives
            out during the call. Libraries and their scratch memory do not count.
    """

    encoder: Timing
    whole: Timing
    peak_bytes: int

    @property
    def trouble(self) -> str:
        """Return why the times are uncertain by themselves; empty if they are not, or if nothing is known."""
        if self.whole.cpu_ms is None:
            return ""
        width = max(self.encoder.width, self.whole.width)
        if math.isinf(width):
            return f"{self.whole.repeats} timed calls are too few for an interval"
        return f"the interval of the median is {width:.0%} of it wide" if width > _WIDE else ""


def timing_of(seconds: Sequence[float], processor_seconds: Sequence[float] | None = None) -> Timing:
    """Return the figures of timed calls.

    Args:
        seconds: Of each call, at least one.
        processor_seconds: Of each call.
    """
    values = 1e3 * np.sort(np.asarray(seconds, dtype=np.float64))
    low, median, high = np.percentile(values, [25, 50, 75])
    rank = _rank(len(values))
    return Timing(
        median_ms=float(median),
        iqr_ms=float(high - low) if len(values) > 1 else None,
        repeats=len(values),
        low_ms=float(values[rank]) if rank is not None else None,
        high_ms=float(values[-1 - rank]) if rank is not None else None,
        cpu_ms=None if processor_seconds is None else 1e3 * float(np.median(processor_seconds)),
    )


@cache
def _rank(count: int) -> int | None:
    """Return the index r for which the sorted values r and −1 − r hold the median with at least 95 %.

    The number of values below the median is binomial with p = ½, whatever the distribution. None if even the smallest
    and the largest value do not suffice.
    """
    below = bdtr(np.arange(count // 2), count, 0.5)
    held = np.flatnonzero(2 * below <= 0.05)
    return int(held[-1]) if held.size else None
