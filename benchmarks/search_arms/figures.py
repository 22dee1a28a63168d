"""Figures of one arm and seed: which models the search images choose, and what these are worth on the report images.

Every figure takes the front of the *search* images in (share of the cost, Boundary F1), and the Boundary F1 of its
members on the *report* images. So no figure chooses by the images that it reports.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from results.stats.pareto import hypervolume, non_dominated

#: Reference point of the hypervolume: share of the dense model's cost, and Boundary F1.
REFERENCE = (1.01, 0.5)


class Finished(NamedTuple):
    """A finished trial.

    Attributes:
        seconds: Processor seconds of the arm when the trial ended, with those of its statistics.
        candidate: The trial, or the one that it repeats.
        share: Share of the dense model's cost.
        searched: Boundary F1 on the search images.
        reported: Boundary F1 on the report images.
    """

    seconds: float
    candidate: str
    share: float
    searched: float
    reported: float


class Interval(NamedTuple):
    """A mean with its 95 % interval; the ends are NaN for a single value."""

    mean: float
    low: float
    high: float


def anytime(number: int) -> float:
    """Return point `number` of [0, 1] in an order that is even whenever it stops.

    The ends come first, then the bit-reversed numbers 1/2, 1/4, 3/4, 1/8, 5/8, …
    """
    if number < 2:
        return float(number)
    bits = f"{number - 1:b}"
    return int(bits[::-1], 2) / (1 << len(bits))


def anytime_share(number: int, low: float, high: float) -> float:
    """Return point `number` between two shares, in the order of `anytime`, with even logarithms."""
    return float(low * (high / low) ** anytime(number))


def front_at(finished: Sequence[Finished], seconds: float) -> pd.DataFrame:
    """Return the front of the search images after some processor seconds, sorted by the share of the cost.

    Runs of one candidate count by their mean, on both sets of images. The columns are `share`, `searched` and
    `reported`.
    """
    ended = pd.DataFrame([each for each in finished if each.seconds <= seconds], columns=Finished._fields)
    means = ended.groupby("candidate")[["share", "searched", "reported"]].mean()
    losses = np.column_stack([means["share"], -means["searched"]])
    return means[non_dominated(losses)].sort_values("share").reset_index(drop=True)


def front_volume(front: pd.DataFrame) -> float:
    """Return the hypervolume of a front on the report images, from `REFERENCE`."""
    share, quality = REFERENCE
    return hypervolume(np.column_stack([front["share"], -front["reported"]]), [share, -quality])


def best_within(front: pd.DataFrame, share: float, slack: float = 0.001) -> float:
    """Return the Boundary F1 on the report images of the best model within a share of the cost.

    The search images choose it. Budgets miss their target by up to half a group, for which `slack` allows. Without a
    model the result is NaN.
    """
    within = front[front["share"] <= share + slack]
    return math.nan if within.empty else float(within["reported"].iloc[-1])


def smallest_share(front: pd.DataFrame, least: float) -> float:
    """Return the smallest share of the cost with a Boundary F1 of at least `least` on the report images, or NaN."""
    good = front.loc[front["reported"] >= least, "share"]
    return math.nan if good.empty else float(good.min())


def regret(front: pd.DataFrame, dense: float, low: float, high: float) -> float:
    """Return the area between the dense model's Boundary F1 and the front, over the logarithm of the share.

    The front is a step function, and below its smallest model it has the Boundary F1 of `REFERENCE`. Where the front
    is above the dense model the area counts as negative.

    Args:
        front: As `front_at` gives it.
        dense: Boundary F1 of the recovered dense model on the report images.
        low: First share of the cost.
        high: Last share of the cost.
    """
    inside = front.loc[(front["share"] > low) & (front["share"] < high), "share"]
    edges = np.array([low, *inside, high])
    heights = np.array([best_within(front, edge, slack=0.0) for edge in edges[:-1]])
    gaps = dense - np.nan_to_num(heights, nan=REFERENCE[1])
    return float(gaps @ np.diff(np.log(edges)))


def volumes_at(finished: Sequence[Finished], moments: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the hypervolume at some moments, in processor seconds and rising, (T,)."""
    ends = sorted({each.seconds for each in finished})
    volumes = np.array([0.0, *(front_volume(front_at(finished, end)) for end in ends)])
    found: npt.NDArray[np.float64] = volumes[np.searchsorted(ends, np.asarray(moments), side="right")]
    return found


def t_interval(values: Sequence[float]) -> Interval:
    """Return the mean of some values and its 95 % interval by Student's t (14.3)."""
    numbers, count = np.asarray(values, dtype=np.float64), len(values)
    mean = float(numbers.mean())
    if count < 2:
        return Interval(mean, math.nan, math.nan)
    reach = float(stdtrit(count - 1, 0.975)) * float(numbers.std(ddof=1)) / math.sqrt(count)
    return Interval(mean, mean - reach, mean + reach)
