"""Scores at a glance: blocks × heads, and blocks × quantiles of the channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from medcore.groups import PerGroup
from results.pictures import save

_QUANTILES = np.linspace(0, 1, 21)


def save_score_heatmap(scores: PerGroup, path: Path) -> None:
    """Write a PNG with log10 of every head's score, and of each block's channel-score quantiles.

    Blocks may differ in width; what a block lacks stays blank. Raises `MedcoreError` if `path` cannot be written.
    """
    widest = max(len(block) for block in scores.heads)
    heads = np.full((scores.depth, widest), np.nan)
    channels = np.full((scores.depth, len(_QUANTILES)), np.nan)
    for block, (head, channel) in enumerate(zip(scores.heads, scores.channels, strict=True)):
        heads[block, : len(head)] = head
        if len(channel):
            channels[block] = np.quantile(channel, _QUANTILES)
    figure = Figure(figsize=(10, 0.32 * scores.depth + 1.6), dpi=120, layout="constrained")
    axes = figure.subplots(1, 2)
    for axis, values, title, label in (
        (axes[0], heads, "Attention heads", "head"),
        (axes[1], channels, "MLP channels", "quantile of the block's channels (%)"),
    ):
        image = axis.imshow(np.log10(np.maximum(values, 1e-30)), aspect="auto", cmap="cividis")
        axis.set(title=title, xlabel=label, ylabel="block", yticks=range(scores.depth))
        figure.colorbar(image, ax=axis, label="log₁₀ Q")
    axes[1].set_xticks(range(0, len(_QUANTILES), 5), [f"{100 * q:.0f}" for q in _QUANTILES[::5]])
    save(figure, path)
