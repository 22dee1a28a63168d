"""What a pruned model loses: its metrics next to the dense model's, of all data sets and of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from medcore.quality.catalogue import ranked
from results.stats.intervals import macro_interval

#: Name of the macro mean over data sets.
ALL = "all"


def quality_loss(
    dense: Mapping[str, Any],
    chosen: Mapping[str, Any],
    dense_images: pd.DataFrame | None = None,
    chosen_images: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Compare a model's metrics with the dense model's.

    Args:
        dense: `METRIC` and `METRIC/DATASET` of the dense model.
        chosen: The same of the pruned model.
        dense_images: Metrics of every image of the dense model, with columns `dataset` and `name`.
        chosen_images: The same of the pruned model.

    Returns:
        One row a metric and data set: metric, dataset, dense, chosen, difference, lo, hi. `lo` to `hi` is the 95 %
        bootstrap interval of the difference, paired image by image; NaN unless both models' images are given.
    """
    pairs = None
    if dense_images is not None and chosen_images is not None:
        pairs = chosen_images.merge(dense_images, on=["dataset", "name"], suffixes=("", "_dense"))
    rows = []
    for metric in ranked():
        keys = {ALL: metric} | {
            key.partition("/")[2]: key for key in sorted(map(str, dense)) if key.startswith(f"{metric}/")
        }
        for dataset, key in keys.items():
            values = [float(np.nan if model.get(key) is None else model[key]) for model in (dense, chosen)]
            if not np.isfinite(values).all():
                continue
            low, high = _interval(pairs, metric, dataset)
            rows.append((metric, dataset, *values, values[1] - values[0], low, high))
    return pd.DataFrame(rows, columns=["metric", "dataset", "dense", "chosen", "difference", "lo", "hi"])


def _interval(pairs: pd.DataFrame | None, metric: str, dataset: str) -> tuple[float, float]:
    if pairs is None or f"{metric}_dense" not in pairs:
        return float("nan"), float("nan")
    part = pairs if dataset == ALL else pairs[pairs["dataset"] == dataset]
    if part.empty:
        return float("nan"), float("nan")
    return macro_interval(part[metric] - part[f"{metric}_dense"], part["dataset"])
