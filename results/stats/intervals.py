"""Bootstrap intervals of metrics that are means over images of several data sets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]

#: Resamples; the interval's ends then vary by some 2 % of its width.
RESAMPLES = 2000


def macro_interval(values: pd.Series, datasets: pd.Series, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Return the bootstrap interval of the macro mean.

    The macro mean is the mean over data sets of their means. Images are resampled in each data set. For a paired
    comparison give differences image by image.

    Args:
        values: (N,) metric of every image.
        datasets: (N,) data set of every image.
        seed: Of the resampling.
        level: Probability that the interval covers.
    """
    low, high = _ends(macro_resamples(values, datasets, seed), level)
    return float(low), float(high)


def macro_resamples(values: pd.Series, datasets: pd.Series, seed: int = 0) -> Floats:
    """Return (RESAMPLES,) macro means of resampled images.

    The arguments are those of `macro_interval`.
    """
    draws = _draws(values, datasets, seed)
    resampled: Floats = np.mean([numbers[drawn].mean(axis=1) for numbers, drawn in draws], axis=0)
    return resampled


def macro_intervals(values: pd.DataFrame, datasets: pd.Series, seed: int = 0, level: float = 0.95) -> pd.DataFrame:
    """Return `macro_interval` of many columns (N, K), the same to rounding.

    The table has columns `lo` and `hi`, and a row for each column of `values`. All columns share the drawn images,
    so the draws become weights, and one matrix product serves all columns.
    """
    means = []
    for numbers, drawn in _draws(values, datasets, seed):
        count = len(numbers)
        places = drawn + count * np.arange(RESAMPLES)[:, None]
        weights = np.bincount(places.ravel(), minlength=RESAMPLES * count).reshape(RESAMPLES, count) / count
        means.append(weights @ numbers)
    return pd.DataFrame(_ends(np.mean(means, axis=0), level).T, index=values.columns, columns=["lo", "hi"])


def _draws(
    values: pd.Series | pd.DataFrame, datasets: pd.Series, seed: int
) -> Iterator[tuple[Floats, npt.NDArray[np.int64]]]:
    """Yield each data set's values (n, …) and the drawn rows (RESAMPLES, n)."""
    generator = np.random.default_rng(seed)
    for _, part in values.groupby(datasets.to_numpy()):
        yield part.to_numpy(dtype=np.float64), generator.integers(0, len(part), (RESAMPLES, len(part)))


def _ends(means: Floats, level: float) -> Any:
    return np.percentile(means, [50 * (1 - level), 50 * (1 + level)], axis=0)
