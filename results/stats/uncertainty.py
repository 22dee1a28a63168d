"""How sure a front's figures are: intervals of its members from their per-image metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from results.stats.intervals import macro_intervals
from results.stats.pareto import Objective, front_table

_LABELS = ("dataset", "name")


def with_intervals(trials: pd.DataFrame, images: pd.DataFrame, objectives: Sequence[Objective]) -> pd.DataFrame:
    """The trials with columns `METRIC_lo` and `METRIC_hi`: 95 % bootstrap intervals over images, of front members only.

    Of the objectives that are measured image by image, and of Dice. Other trials, and members of whom the images are
    not known, have NaN there; without any images the table comes back as it is.
    """
    names = [objective["name"] for objective in objectives]
    metrics = [name for name in dict.fromkeys((*names, "dice")) if name in images and name in trials]
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
    """Columns `lo` and `hi`, a row a trial. A trial that lacks an image or has it as NaN gets no interval."""
    wide = images.pivot(index=list(_LABELS), columns="trial_id", values=metric)
    wide = wide[[name for name in wide if np.isfinite(wide[name]).all()]]
    return macro_intervals(wide, wide.index.to_frame(index=False)["dataset"])
