"""Intervals of a front's members, from their metrics of every image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medcore.quality.catalogue import always_shown
from results.stats.intervals import macro_intervals
from results.stats.objectives import Objective, names_of
from results.stats.pareto import front_table

_LABELS = ("dataset", "name")


def with_intervals(trials: pd.DataFrame, images: pd.DataFrame, objectives: Sequence[Objective]) -> pd.DataFrame:
    """Add columns `METRIC_lo` and `METRIC_hi` to trials, for front members only.

    The columns are 95 % bootstrap intervals over images. They exist for objectives that are measured image by image,
    and for metrics that a front always shows. Other trials, and members whose images are unknown, have NaN.
    Without any images the table comes back as it is.

    Args:
        trials: One row a trial.
        images: Metrics of every image, with columns `trial_id`, `dataset` and `name`.
        objectives: They decide who is on the front.
    """
    names = dict.fromkeys((*names_of(objectives), *always_shown()))
    metrics = [name for name in names if name in images and name in trials]
    members = front_table(trials, objectives)["trial_id"]
    known = images[images["trial_id"].isin(members)] if metrics and len(members) else images.iloc[:0]
    if known.empty:
        return trials
    result = trials.copy()
    for metric in metrics:
        ends = _intervals(known, metric).reindex(trials["trial_id"])
        for end in ("lo", "hi"):
            result[f"{metric}_{end}"] = ends[end].to_numpy()
    return result


def _intervals(images: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return columns `lo` and `hi`, a row a trial.

    A trial that lacks an image or has it as NaN gets no interval.
    """
    wide = images.pivot(index=list(_LABELS), columns="trial_id", values=metric)
    wide = wide[[name for name in wide if np.isfinite(wide[name]).all()]]
    return macro_intervals(wide, wide.index.to_frame(index=False)["dataset"])
