"""Bootstrap intervals of metrics that are means over images of several data sets."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

#: Resamples; the interval's ends then vary by some 2 % of its width.
RESAMPLES = 2000


def macro_interval(values: pd.Series, datasets: pd.Series, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of the macro mean (mean over data sets of their means): images are resampled in each data set.

    For a paired comparison give differences image by image.

    Args:
        values, datasets: (N,) metric and data set of every image.
    """
    low, high = np.percentile(macro_resamples(values, datasets, seed), [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def macro_resamples(values: pd.Series, datasets: pd.Series, seed: int = 0) -> npt.NDArray[np.float64]:
    """(RESAMPLES,) macro means of resampled images."""
    generator = np.random.default_rng(seed)
    means = []
    for _, part in values.groupby(datasets.to_numpy()):
        numbers = part.to_numpy(dtype=np.float64)
        means.append(generator.choice(numbers, (RESAMPLES, len(numbers))).mean(axis=1))
    resampled: npt.NDArray[np.float64] = np.mean(means, axis=0)
    return resampled


def macro_intervals(values: pd.DataFrame, datasets: pd.Series, seed: int = 0, level: float = 0.95) -> pd.DataFrame:
    """`macro_interval` of many columns at once, the same to rounding: all columns share the drawn images.

    The draws become weights, so that one matrix product serves all columns. Returns columns `lo` and `hi`, a row for
    each column of `values` (N, K).
    """
    generator = np.random.default_rng(seed)
    means = []
    for _, part in values.groupby(datasets.to_numpy()):
        count = len(part)
        drawn = generator.integers(0, count, (RESAMPLES, count)) + count * np.arange(RESAMPLES)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=RESAMPLES * count).reshape(RESAMPLES, count) / count
        means.append(weights @ part.to_numpy(dtype=np.float64))
    ends = np.percentile(np.mean(means, axis=0), [50 * (1 - level), 50 * (1 + level)], axis=0)
    return pd.DataFrame(ends.T, index=values.columns, columns=["lo", "hi"])
