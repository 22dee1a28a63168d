"""Pictures of a study's front: an interactive figure and a PNG, which draw the same panels.

Plotly draws for the page, matplotlib for papers, because a PNG from plotly needs a browser. Colours are Okabe and
Ito's, and every meaning has a symbol too, so nothing depends on colour alone.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from plotly.subplots import make_subplots

from medcore.errors import printable
from results.plots.marks import HOVER, MARKS, Mark, hover_text
from results.plots.panels import Panel, groups, panels, subtitle
from results.plots.parallel import parallel_figure
from results.plots.pictures import BLACK, SKY, STYLE, save
from results.stats.labels import RECOVERED
from results.stats.objectives import Objective
from results.stats.pareto import Floats
from results.store.files import write_by_rename

STEP_NAME = "front of the two axes"
#: Intervals overlap where a front is crowded, so they stay behind the points that they belong to.
_BAR = "rgba(0,0,0,0.3)"
#: Points drawn and left out of a dashed line.
_DASHES: Any = (0, (4, 3))
#: Letters that fit above a panel of the PNG.
_LINE = 64


def front_figure(df: pd.DataFrame, objectives: Sequence[Objective], title: str = "Pareto front") -> go.Figure:
    """Draw the first objective against each other one as an interactive figure.

    Dominated trials are faint, the front of all objectives is outlined, a ring marks its knee, and a step line joins
    the front of a panel's own two axes. With three objectives or more an outlined trial can lie off the line. A dashed
    line across shows what the dense model reaches after the same recovery. Front members have error bars if
    `results.stats.uncertainty.with_intervals` added their columns.

    Raises:
        NothingToDraw: No trial can be drawn.
    """
    shown, views = panels(df, objectives)
    hover = np.array([hover_text(row, objectives) for _, row in shown.iterrows()], dtype=object)
    figure = make_subplots(rows=1, cols=len(views), horizontal_spacing=0.09)
    for col, view in enumerate(views, start=1):
        traces = [_step_trace(view)] + [
            _trace(MARKS[kind], on, view, pick, hover[pick].tolist()) for kind, on, pick in groups(shown, view.front)
        ]
        traces += [] if view.dense_y is None else [_dense_trace(view, view.dense_y)]
        traces += [] if view.knee is None else [_knee_trace(view, view.knee, _member(shown, view.knee))]
        for trace in traces:
            figure.add_trace(trace.update(showlegend=col == 1), row=1, col=col)
        figure.update_xaxes(title_text=html.escape(view.x_title), range=view.x_range, row=1, col=col)
        figure.update_yaxes(title_text=html.escape(view.y_title), range=view.y_range, row=1, col=col)
    figure.update_layout(
        title={"text": f"{html.escape(title)}<br><sub>{subtitle(shown, views)}</sub>", "x": 0.02},
        template="plotly_white",
        height=560,
        margin={"t": 90, "b": 120, "l": 80, "r": 30},
        legend={"orientation": "h", "y": -0.2, "x": 0},
        hoverlabel=HOVER,
    )
    return figure


def front_divs(df: pd.DataFrame, objectives: Sequence[Objective], title: str = "Pareto front") -> str:
    """Return the interactive figures as HTML with plotly's script.

    The panels come first, then parallel coordinates.
    """
    figures = {"front": front_figure(df, objectives, title)}
    if len(objectives) > 1:  # one axis is no coordinates
        figures["parallel"] = parallel_figure(df, objectives)
    return "\n".join(
        figure.to_html(full_html=False, include_plotlyjs=name == "front", div_id=name, config={"responsive": True})
        for name, figure in figures.items()
    )


def save_front(
    df: pd.DataFrame, objectives: Sequence[Objective], folder: Path, title: str = "Pareto front"
) -> list[Path]:
    """Write `front.html`, `front.png` and `front.svg`; return them."""
    page, *pictures = (folder / f"front.{ending}" for ending in ("html", "png", "svg"))
    save_front_html(df, objectives, page, title)
    save_front_picture(df, objectives, *pictures, title=title)
    return [page, *pictures]


def save_front_html(df: pd.DataFrame, objectives: Sequence[Objective], path: Path, title: str = "Pareto front") -> None:
    """Write one page of about 5 MB that opens without a network.

    Plotly's script is inside.
    """
    head = f'<head><meta charset="utf-8"><title>{html.escape(title)}</title></head>'
    page = f"<!DOCTYPE html>\n<html>{head}\n<body>\n{front_divs(df, objectives, title)}\n</body></html>\n"
    write_by_rename(path, page.encode())


def save_front_picture(
    df: pd.DataFrame, objectives: Sequence[Objective], *paths: Path, title: str = "Pareto front"
) -> None:
    """Write the panels of `front_figure` for a paper or a README, as PNG or SVG by the ending of each path."""
    shown, views = panels(df, objectives)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.8 + 4.6 * len(views), 4.4), layout=ConstrainedLayoutEngine(w_pad=0.12))
        axes = figure.subplots(1, len(views), squeeze=False)[0]
        for ax, view in zip(axes, views, strict=True):
            _draw(ax, view, shown)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        words = textwrap.fill(subtitle(shown, views), _LINE * len(views))
        axes[0].set_title(words, loc="left", color="#555555", fontsize=9)
        kinds = {group[0] for group in groups(shown, views[0].front)}
        knee = None if views[0].knee is None else _member(shown, views[0].knee)
        handles = _legend([kind for kind in MARKS if kind in kinds], knee)
        figure.legend(handles=handles, loc="outside lower left", ncols=1 + 2 * len(views))
        save(figure, *paths)


def _draw(ax: Axes, view: Panel, shown: pd.DataFrame) -> None:
    """Draw one panel with matplotlib."""
    where: Any = "post" if view.step_shape == "hv" else "pre"
    ax.step(view.step_x, view.step_y, where=where, color=SKY, lw=1.6, zorder=2)
    for kind, on, pick in groups(shown, view.front):
        _scatter(ax, MARKS[kind], on, view.x[pick], view.y[pick])
    _error_bars(ax, view)
    if view.dense_y is not None:
        ax.axhline(view.dense_y, color=BLACK, lw=1, ls=_DASHES, zorder=2)
    if view.knee is not None:
        at: Any = (view.x[view.knee], view.y[view.knee])
        ax.plot(*at, "o", ms=15, mfc="none", mec=BLACK, mew=1.1, zorder=5)
    ax.set(xlabel=view.x_title, ylabel=view.y_title, xlim=view.x_range, ylim=view.y_range)


def _member(shown: pd.DataFrame, place: int) -> str:
    """Return the words at the front's knee."""
    return f"knee: {shown['trial_id'].iloc[place]}" if "trial_id" in shown else "knee"


def _step_trace(view: Panel) -> go.Scatter:
    line = {"shape": view.step_shape, "color": SKY, "width": 2}
    return go.Scatter(
        x=view.step_x,
        y=view.step_y,
        mode="lines",
        line=line,
        hoverinfo="skip",
        name=STEP_NAME,
        legendgroup="step",
    )


def _dense_trace(view: Panel, height: float) -> go.Scatter:
    return go.Scatter(
        x=view.x_range,
        y=(height, height),
        mode="lines",
        line={"color": BLACK, "width": 1, "dash": "dash"},
        hoverinfo="skip",
        name=RECOVERED,
        legendgroup="recovered",
    )


def _knee_trace(view: Panel, place: int, words: str) -> go.Scatter:
    across, up = view.knee_label
    ring = {"symbol": "circle-open", "size": 20, "color": BLACK, "line": {"width": 1.5}}
    return go.Scatter(
        x=[view.x[place]],
        y=[view.y[place]],
        mode="markers+text",
        marker=ring,
        text=[html.escape(printable(words))],
        textposition=f"{'top' if up > 0 else 'bottom'} {'left' if across < 0 else 'right'}",
        hoverinfo="skip",
        name="knee",
        legendgroup="knee",
    )


def _trace(mark: Mark, on_front: bool, view: Panel, pick: Any, text: list[str]) -> go.Scatter:
    style = {
        "symbol": mark.symbol,
        "color": mark.colour,
        "size": mark.size + (2 if on_front else -1),
        "opacity": mark.opacity(on_front),
        "line": {"color": BLACK, "width": 1 if on_front else 0},
    }
    return go.Scatter(
        x=view.x[pick],
        y=view.y[pick],
        text=text,
        mode="markers",
        marker=style,
        error_x=_bars(view.x_error[:, pick]),
        error_y=_bars(view.y_error[:, pick]),
        hovertemplate="%{text}<extra></extra>",
        name=mark.name(on_front),
        legendgroup=mark.name(on_front),
    )


def _bars(errors: Floats) -> dict[str, Any] | None:
    """Return plotly's error bars of (2, N) lengths below and above.

    The result is None if no length is known.
    """
    if not np.isfinite(errors).any():
        return None
    below, above = np.nan_to_num(errors)
    return {"array": above, "arrayminus": below, "symmetric": False, "thickness": 1, "width": 0, "color": _BAR}


def _error_bars(ax: Axes, view: Panel) -> None:
    for axis, errors in (("xerr", view.x_error), ("yerr", view.y_error)):
        known = np.isfinite(errors).all(axis=0)
        bars: dict[str, Any] = {axis: np.maximum(errors[:, known], 0)}
        if known.any():
            ax.errorbar(view.x[known], view.y[known], **bars, fmt="none", ecolor=BLACK, elinewidth=0.6, alpha=0.35)


def _scatter(ax: Axes, mark: Mark, on_front: bool, x: Any, y: Any) -> None:
    ax.scatter(
        x,
        y,
        s=(mark.size * 0.72) ** 2 * (1.15 if on_front else 0.75),
        marker=mark.marker,
        c=mark.colour,
        edgecolors=BLACK if on_front else "none",
        linewidths=0.7,
        alpha=mark.opacity(on_front),
        zorder=4 if on_front else 3,
    )


def _legend(kinds: Sequence[str], knee: str | None) -> list[Line2D]:
    """Explain symbols, outline and faintness.

    Symbols stand for origins; outline and faintness, in grey, for the front. A ring marks the knee, if there is one.
    """
    points: dict[str, Any] = {"ls": "", "mew": 0.7}
    handles = [
        Line2D(
            [],
            [],
            color=mark.colour,
            marker=mark.marker,
            ms=0.6 * mark.size,
            mec="none",
            label=mark.title,
            # the level of the dense model is drawn across the panel
            ls=_DASHES if kind == "dense" else "",
            lw=1,
        )
        for kind, mark in ((kind, MARKS[kind]) for kind in kinds)
    ]
    return [
        *handles,
        Line2D([], [], marker="o", ms=6.5, mfc="#BBBBBB", mec=BLACK, label="on the front", **points),
        Line2D([], [], marker="o", ms=5.5, mfc="#DDDDDD", mec="none", label="dominated", **points),
        Line2D([], [], color=SKY, lw=1.6, label=STEP_NAME),
        *([] if knee is None else [Line2D([], [], marker="o", ms=9, mfc="none", mec=BLACK, label=knee, **points)]),
    ]
