"""How much two rankings agree, and how much one varies (method §15)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from medcore.models.sites import PerSite

Floats = npt.NDArray[np.float64]


def ranks(scores: npt.ArrayLike) -> Floats:
    """Return ranks 1..n of scores along the last axis, the mean of their places for equal scores."""
    ranked: Floats = np.asarray(rankdata(np.asarray(scores, dtype=np.float64), axis=-1), dtype=np.float64)
    return ranked


def agreement(one: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Return 1 − footrule / ⌊n²/2⌋ of two rankings of n things (15.3).

    The footrule is the sum over all things of the distance between their two ranks (Diaconis and Graham, 1977). It is
    at most ⌊n²/2⌋, which reversed rankings reach, so the agreement lies in [0, 1]. That of random rankings is 1/3 on
    average for large n.

    Args:
        one: (n,), scores.
        other: (n,), scores of the same things.

    Returns:
        The agreement; 1 if there is nothing to rank.

    Raises:
        ValueError: the lengths differ.
    """
    first, second = ranks(one), ranks(other)
    if first.shape != second.shape:
        raise ValueError(f"rankings of {len(first)} and of {len(second)} things")
    largest = len(first) ** 2 // 2
    return 1.0 if largest == 0 else float(1 - np.abs(first - second).sum() / largest)


def agreement_within(one: PerSite, other: PerSite) -> float:
    """Return the mean `agreement` over the sites that have several groups, as each site is ranked for itself.

    Raises:
        ValueError: no site has several groups, or the sites differ.
    """
    found = [agreement(*pair) for pair in zip(one, other, strict=True) if len(pair[0]) > 1]
    if not found:
        raise ValueError("no site has several groups to rank")
    return float(np.mean(found))


def rank_variance(folds: Sequence[npt.ArrayLike]) -> float:
    """Return the variance of a thing's rank over folds of the images, mean over all things (15.4).

    Args:
        folds: the scores (n,) from each of F folds.

    Returns:
        The mean of the unbiased variances. Independent random rankings have (n² − 1)/12.

    Raises:
        ValueError: there are fewer than two folds.
    """
    if len(folds) < 2:
        raise ValueError(f"a variance over folds needs two of them, got {len(folds)}")
    return float(ranks(np.stack([np.asarray(fold) for fold in folds])).var(axis=0, ddof=1).mean())
