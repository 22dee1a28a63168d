"""Scores at a glance: blocks × heads, and blocks × quantiles of the channels."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from medcore.models.groups import PerGroup
from results.plots.pictures import STYLE, save

_QUANTILES = np.linspace(0, 1, 21)


def save_score_heatmaps(criteria: Mapping[str, PerGroup], path: Path) -> None:
    """Write a PNG with a row of two maps for each criterion: log10 of every head's score and of channel quantiles.

    Colours span each map on its own, since criteria have different units. Blocks may differ in width; what a block
    lacks stays blank. Raises `MedcoreError` if `path` cannot be written.
    """
    depth = max(scores.depth for scores in criteria.values())
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(10, len(criteria) * (0.22 * depth + 0.9)), layout="constrained")
        axes = figure.subplots(len(criteria), 2, squeeze=False)
        for (name, scores), (left, right) in zip(criteria.items(), axes, strict=True):
            heads, channels = _cells(scores)
            for axis, values, title, label in (
                (left, heads, f"{name}: attention heads", "head"),
                (right, channels, f"{name}: MLP channels", "quantile of the block's channels (%)"),
            ):
                image = axis.imshow(np.log10(np.maximum(values, 1e-30)), aspect="auto", cmap="cividis")
                axis.set(title=title, ylabel="block", yticks=range(0, scores.depth, 2))
                axis.set_xlabel(label if axis in axes[-1] else "")
                figure.colorbar(image, ax=axis, label="log₁₀ score")
            right.set_xticks(range(0, len(_QUANTILES), 5), [f"{100 * q:.0f}" for q in _QUANTILES[::5]])
        save(figure, path)


def _cells(scores: PerGroup) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """(L, widest) scores of heads and (L, quantiles) of channels; NaN where there is none."""
    heads = np.full((scores.depth, max(len(block) for block in scores.heads)), np.nan)
    channels = np.full((scores.depth, len(_QUANTILES)), np.nan)
    for block, (head, channel) in enumerate(zip(scores.heads, scores.channels, strict=True)):
        heads[block, : len(head)] = head
        if len(channel):
            channels[block] = np.quantile(channel, _QUANTILES)
    return heads, channels
