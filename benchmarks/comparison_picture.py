"""Picture of methods side by side, with the style of the project's other pictures."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from results.plots.panels import NothingToDraw
from results.plots.pictures import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, STYLE, VERMILION, save
from results.stats import labels


def comparison_png(
    curves: Mapping[str, pd.DataFrame], metrics: Sequence[str], path: Path, share: str = "flops_paper_fraction"
) -> None:
    """Methods side by side (PNG): each metric against the share of FLOPs left, one line a method.

    A curve has `share` and the metrics as columns; `METRIC_lo` and `METRIC_hi`, where present, become a band.
    A curve of one row is drawn as a level: what an unpruned model is.
    """
    if not curves or not metrics:
        raise NothingToDraw("nothing to draw: a comparison needs at least one method and one metric")
    looks = _looks([name for name, curve in curves.items() if len(curve) != 1])
    x_title = labels.axis(share, 1.0, lower=True)[1].replace(" — ", "\n")  # two pictures leave no room for one line
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.6 + 3.9 * len(metrics), 3.9), layout=ConstrainedLayoutEngine(w_pad=0.12))
        axes = figure.subplots(1, len(metrics), squeeze=False)[0]
        for ax, metric in zip(axes, metrics, strict=True):
            for name, curve in curves.items():
                if name in looks:
                    _curve(ax, name, curve.sort_values(share), share, metric, *looks[name])
                else:
                    level = float(curve[metric].iloc[0])
                    ax.axhline(level, color=BLACK, lw=1, ls=(0, (4, 3)), label=name, zorder=1)
            values = np.concatenate([curve[metric].to_numpy(dtype=np.float64) for curve in curves.values()])
            ax.set(xlabel=x_title, ylabel=labels.axis(metric, values)[1])
            ax.xaxis.set_major_locator(MaxNLocator(7))
        handles, names = axes[0].get_legend_handles_labels()
        columns = min(len(names), 4 if len(metrics) > 1 else 2)
        figure.legend(handles, names, loc="outside lower center", ncols=columns)
        save(figure, path)


def _looks(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method; those that front pictures show too look as they do there."""
    own = {"search": (BLUE, "o"), "uniform": (GREEN, "s"), "rule": (VERMILION, "D")}
    spare = itertools.cycle([(PURPLE, "^"), (ORANGE, "v"), (SKY, "P"), (GREY, "X")])
    looks: dict[str, tuple[str, str]] = {}
    for name in names:
        word = next((word for word in own if word in name.lower()), None)
        looks[name] = own.pop(word) if word else next(spare)
    return looks


def _curve(ax: Axes, name: str, curve: pd.DataFrame, share: str, metric: str, colour: str, marker: str) -> None:
    x = 100 * curve[share].to_numpy(dtype=np.float64)
    ax.plot(
        x,
        curve[metric],
        color=colour,
        marker=marker,
        ms=4.5,
        lw=1.5,
        mec="white",
        mew=0.6,
        label=name,
        zorder=3,
    )
    if {f"{metric}_lo", f"{metric}_hi"} <= {*curve}:
        low, high = curve[f"{metric}_lo"], curve[f"{metric}_hi"]
        ax.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
