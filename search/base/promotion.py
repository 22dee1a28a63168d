"""Which trials go on after a cheap look at them: non-dominated ones first, then those that fill gaps (method §14).

The rule is asynchronous: it decides on each trial when its figures arrive, from those that arrived before.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from results.stats.pareto import front_ranks

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Quota:
    """How many trials continue after a fidelity.

    Attributes:
        reduction: about one trial in so many, at least 2.
        least: number of trials that continue whatever the share.
    """

    reduction: int = 3
    least: int = 4

    def is_full(self, promoted: int, total: int) -> bool:
        """Return whether enough of `total` trials went on."""
        return promoted >= max(self.least, math.ceil(total / self.reduction))


def continues(losses: Floats, promoted: Bools, exempt: Bools, quota: Quota) -> bool:
    """Decide whether the last trial to reach a fidelity continues (14.1).

    A dominated trial stops. A trial that dominates one that went on continues. Any other trial stops if the quota is
    full, or if one that went on is closer than half their typical gap.

    Args:
        losses: (N, K) figures at this fidelity of the trials that reached it; smaller is better, the last row is new.
        promoted: (N − 1,) which of the earlier trials went on.
        exempt: (N − 1,) which of them had to go on. They do not count in the quota.
        quota: how many trials continue.

    Returns:
        Whether the trial continues. A trial with a figure that is not finite stops.
    """
    if front_ranks(losses)[-1] != 1:
        return False
    finite: Bools = np.isfinite(losses).all(axis=1).reshape(-1)
    new, others, losses = losses[-1], losses[:-1][promoted & finite[:-1]], losses[finite]
    if bool(((new <= others).all(axis=1) & (new < others).any(axis=1)).any()):
        return True
    if quota.is_full(int((promoted & ~exempt).sum()), 1 + int((~exempt).sum())):
        return False
    return not is_crowded(new, others, losses)


def is_crowded(new: Floats, others: Floats, losses: Floats) -> bool:
    """Return whether a trial is closer to another one than half the typical gap between neighbours (14.2).

    Distances are Euclidean, with every figure scaled to [0, 1] over all trials. The typical gap is what even spacing of
    all of them along the path through the first figure would give.

    Args:
        new: (K,) figures of the trial.
        others: (M, K) figures of those that went on.
        losses: (N, K) figures of all trials, for the scale.
    """
    if len(others) < 2:
        return False
    low, span = losses.min(axis=0), np.ptp(losses, axis=0)
    scaled = (others - low) / np.where(span > 0, span, 1.0)
    place = (new - low) / np.where(span > 0, span, 1.0)
    path = scaled[np.argsort(scaled[:, 0], kind="stable")]
    typical = np.linalg.norm(np.diff(path, axis=0), axis=1).sum() / len(others)
    nearest = np.linalg.norm(scaled - place, axis=1).min()
    return bool(nearest < typical / 2)
