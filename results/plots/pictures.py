"""Pictures for papers: the shared style, the budgets of a front's members, methods side by side."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from medcore.errors import MedcoreError
from results.plots.panels import origin_kind
from results.stats import labels
from results.stats.pareto import Objective, hypervolume, hypervolume_trace, objective_losses, to_losses
from results.store.files import write_by_rename

# Okabe and Ito's colour-blind-safe palette
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, YELLOW, GREY = "#0072B2", "#D55E00", "#CC79A7", "#F0E442", "#777777"

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "savefig.dpi": 200,
}


def budget_picture(front: pd.DataFrame, path: Path, num_heads: int | None = None, mlp_dim: int | None = None) -> None:
    """Which share of its heads and channels each block keeps (PNG), a line for each row of `front`.

    The rows carry `heads` and `channels`, a count per block. `num_heads` and `mlp_dim` are a dense block's;
    where not given, the widest block seen stands for them.
    """
    rows = front.dropna(subset=["heads", "channels"]) if {"heads", "channels"} <= {*front} else front.iloc[:0]
    if rows.empty:
        raise MedcoreError("nothing to draw: no trial on the front records its budget (heads, channels)")
    names = [_member_name(row) for _, row in rows.iterrows()]
    families = {"Attention heads": ("heads", num_heads), "MLP channels": ("channels", mlp_dim)}
    depth = len(rows["heads"].iloc[0])
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        size = (2.8 + 2 * max(2.6, 0.26 * depth), 1.5 + 0.26 * len(rows))
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.subplots(1, 2, sharey=True)
        for ax, (title, (column, widest)) in zip(axes, families.items(), strict=True):
            counts = np.array(rows[column].tolist(), dtype=np.float64)  # (members, blocks)
            shares = 100 * counts / max(widest or counts.max(), 1)
            image = ax.imshow(shares, cmap="cividis", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
            ax.set(title=title, xlabel="Encoder block", xticks=range(0, depth, 1 if depth <= 16 else 4))
            ax.set_yticks(range(len(names)), names, fontsize=7, family="monospace")
            for member, block in np.argwhere(counts == 0):
                ax.text(block, member, "×", ha="center", va="center", color="white", fontsize=8)
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)
        axes[0].set_ylabel("Trial and what is left of its FLOPs")
        figure.colorbar(image, ax=axes, label="Kept (%); × marks none", shrink=min(1.0, 0.5 + 2 / len(rows)), pad=0.02)
        save(figure, path)


def comparison_png(
    curves: Mapping[str, pd.DataFrame], metrics: Sequence[str], path: Path, share: str = "flops_paper_fraction"
) -> None:
    """Methods side by side (PNG): each metric against the share of FLOPs left, one line a method.

    A curve has `share` and the metrics as columns; `METRIC_lo` and `METRIC_hi`, where present, become a band.
    A curve of one row is drawn as a level: what an unpruned model is.
    """
    if not curves or not metrics:
        raise MedcoreError("nothing to draw: a comparison needs at least one method and one metric")
    looks = _looks([name for name, curve in curves.items() if len(curve) != 1])
    _, x_title = labels.axis(share, 1.0, lower=True)
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


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG by rename; without matplotlib's version, so equal pictures are equal files."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    write_by_rename(path, buffer.getvalue())


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


def _member_name(row: pd.Series[Any]) -> str:
    """Start of the trial's id, and what is left of the FLOPs."""
    for name in ("flops_fraction", "flops_paper_fraction", "flops"):
        if pd.notna(row.get(name)):
            cost = labels.text(name, float(row[name])).partition(" of")[0]
            return f"{str(row['trial_id'])[:10]} {cost:>7}"
    return str(row["trial_id"])[:10]


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
