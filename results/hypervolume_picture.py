"""How a search got better: hypervolume over its trials (PNG)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from medcore.errors import MedcoreError
from results.front import Objective, hypervolume, hypervolume_trace, objective_losses, to_losses
from results.panels import origin_kind
from results.pictures import BLUE, ORANGE, STYLE, save


def hypervolume_picture(
    df: pd.DataFrame, objectives: Sequence[Objective], reference: Mapping[str, float], path: Path
) -> None:
    """Hypervolume after each trial, in per cent of the last one's: its own unit (FLOPs × F1 × px) says nothing.

    Starting points, which are no search yet, are marked, and their level is drawn on. Raises `MedcoreError` without
    volume.
    """
    ordered = df.sort_values("number").reset_index(drop=True)
    corner = to_losses(
        [reference[goal["name"]] for goal in objectives], [goal["direction"] for goal in objectives]
    )[0]  # fmt: skip
    trace = hypervolume_trace(objective_losses(ordered, objectives), corner)
    if not len(trace) or trace[-1] <= 0:
        raise MedcoreError("nothing to draw: no trial is better than the hypervolume's reference point")
    share, ended = 100 * trace / trace[-1], np.arange(1, len(trace) + 1)
    origins = ordered["origin"] if "origin" in ordered else pd.Series("sampled", index=ordered.index)
    starts = (origins.map(origin_kind) != "sampled").to_numpy(dtype=bool)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        ax = figure.subplots()
        ax.step(ended, share, where="post", color=BLUE, lw=1.8, label="all trials so far")
        if starts.any():
            alone = hypervolume(objective_losses(ordered[starts], objectives), corner)
            ax.plot(ended[starts], share[starts], "s", color=ORANGE, ms=4.5, label="starting points")
            ax.axhline(100 * alone / trace[-1], color=ORANGE, lw=1, ls=(0, (4, 3)), label="what they reach alone")
        ax.set(xlabel="Trials ended", ylabel="Hypervolume (% of the last)", xlim=(0, len(trace) + 1))
        seen = share[share > 0]
        ax.set_ylim(max(0.0, float(seen.min()) - 2), 101)
        ax.legend(loc="lower right")
        save(figure, path)
