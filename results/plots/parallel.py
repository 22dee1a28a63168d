"""All objectives at once: parallel coordinates, each axis turned so that up is better.

The lines are SVG. Plotly's own kind needs WebGL, which remote desktops and locked-down browsers often lack, and it
cannot describe the line under the pointer.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.ticker import MaxNLocator

from results.plots.marks import HOVER, MARKS, Mark, hover_text
from results.plots.panels import drawn, groups, origin_kind, panels, view_range
from results.stats import labels
from results.stats.objectives import Objective
from results.stats.pareto import Bools, Floats

#: Where trials far outside the view are drawn: just beyond the end of the axis.
_BEYOND = 0.03
_TICK: dict[str, Any] = {
    "xanchor": "right",
    "xshift": -6,
    "showarrow": False,
    "font": {"size": 11, "color": "#444444"},
    "bgcolor": "rgba(255,255,255,0.8)",
    "borderpad": 1,
}


def parallel_figure(df: pd.DataFrame, objectives: Sequence[Objective]) -> go.Figure:
    """Draw a line for each finished trial and an axis for each objective.

    The front is on top, other trials are faint.

    Raises:
        NothingToDraw: No trial can be drawn.
    """
    shown, views = panels(df, objectives)
    front = views[0].front
    keep = front | (shown["origin"].map(origin_kind) == "dense").to_numpy(dtype=bool)
    figure = go.Figure()
    heights = np.stack(
        [_axis(figure, place, goal, shown, keep) for place, goal in enumerate(objectives)], axis=1
    )  # (N, K), 0 worst and 1 best in view
    for kind, on, pick in groups(shown, front):
        # texts only for the front, because those of a thousand faint lines would fill the page
        texts = [hover_text(row, objectives) for _, row in shown[pick].iterrows()] if on else None
        figure.add_trace(_lines(MARKS[kind], on, heights[pick], texts))
    figure.update_layout(
        title={"text": "All objectives at once<br><sub>up is better on every axis</sub>", "x": 0.02},
        template="plotly_white",
        height=480,
        margin={"t": 110, "b": 60, "l": 90, "r": 90},
        legend={"orientation": "h", "y": -0.08, "x": 0},
        hoverlabel=HOVER,
        hovermode="closest",
        xaxis={"visible": False, "range": [-0.15, len(objectives) - 0.85]},
        yaxis={"visible": False, "range": [-0.05, 1.05]},
    )
    return figure


def _axis(figure: go.Figure, place: int, goal: Objective, shown: pd.DataFrame, keep: Bools) -> Floats:
    """Draw an axis with its ticks; return where every trial meets it, (N,)."""
    goal = drawn(goal, shown)
    raw = shown[goal.name].to_numpy(dtype=np.float64)
    factor, title = labels.axis(goal.name, raw, goal.lower_is_better)
    low, high = view_range(raw * factor, keep)

    def height(values: Floats) -> Floats:
        share = (values - low) / (high - low)
        return 1 - share if goal.lower_is_better else share

    figure.add_shape(type="line", x0=place, x1=place, y0=0, y1=1, line={"color": "#444444", "width": 1})
    words = html.escape(title.partition(" — ")[0])
    figure.add_annotation(x=place, y=1.04, text=f"<b>{words}</b>", yanchor="bottom", showarrow=False)
    ticks = np.array([tick for tick in MaxNLocator(6).tick_values(low, high) if low <= tick <= high])
    for tick, at in zip(ticks, height(ticks), strict=True):
        figure.add_annotation(x=place, y=at, text=f"{tick:.4g}", **_TICK)
    return np.clip(height(raw * factor), -_BEYOND, 1 + _BEYOND)


def _lines(mark: Mark, on_front: bool, heights: Floats, texts: list[str] | None) -> go.Scatter:
    """Return one trace for all lines (n, K) of a group.

    A gap after each keeps them apart.
    """
    count, axes = heights.shape
    x = np.tile([*map(float, range(axes)), np.nan], count)
    y = np.column_stack([heights, np.full(count, np.nan)]).ravel()
    style: dict[str, Any] = {"symbol": mark.symbol, "color": mark.colour, "size": mark.size if on_front else 1}
    return go.Scatter(
        x=x,
        y=y,
        mode="lines+markers" if on_front else "lines",
        line={"color": mark.colour, "width": 1.6 if on_front else 1},
        marker=style,
        # a front of hundreds would be one blot
        opacity=min(1.0, max(0.3, 30 / count)) if on_front else 0.8 * mark.faint,
        text=None if texts is None else [text for text in texts for _ in range(axes + 1)],
        hovertemplate=None if texts is None else "%{text}<extra></extra>",
        hoverinfo="skip" if texts is None else None,
        name=mark.name(on_front),
        legendgroup=mark.name(on_front),
    )
