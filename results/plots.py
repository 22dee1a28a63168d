"""Pictures of a study's front: an interactive page and a PNG, which draw the same panels.

Colours are Okabe and Ito's and every meaning has a symbol too, so nothing hangs on colour alone.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
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

from results import labels
from results.files import write_by_rename
from results.front import Objective
from results.panels import Panel, groups, panels, subtitle
from results.pictures import BLACK, BLUE, GREEN, PURPLE, SKY, STYLE, VERMILION, save

STEP_NAME = "front of the two axes"


@dataclass(frozen=True)
class Mark:
    """How trials of one origin are drawn; `size` is plotly's, in pixels."""

    title: str
    colour: str
    symbol: str  # plotly's name
    marker: str  # matplotlib's name
    size: int
    faint: float  # opacity where dominated: samples are many, starts are few and are what the front must beat

    def name(self, on_front: bool) -> str:
        return f"{self.title}, {'on the front' if on_front else 'dominated'}"

    def opacity(self, on_front: bool) -> float:
        return 1.0 if on_front else self.faint


MARKS = {
    "sampled": Mark("searched", BLUE, "circle", "o", 9, 0.3),
    "uniform": Mark("uniform budgets", GREEN, "square", "s", 9, 0.6),
    "rule": Mark("paper's rule", VERMILION, "diamond", "D", 9, 0.6),
    "dense": Mark("dense model", BLACK, "star", "*", 15, 0.8),
    "other": Mark("other start", PURPLE, "triangle-up", "^", 10, 0.6),
}


def front_figure(df: pd.DataFrame, objectives: Sequence[Objective], title: str = "Pareto front") -> go.Figure:
    """Interactive figure: the first objective against each other one.

    Dominated trials are faint, the front of all objectives is outlined, and a step line joins the front of a
    panel's own two axes; with three objectives or more an outlined trial can lie off the line.
    Raises `MedcoreError` where no trial can be drawn.
    """
    shown, views = panels(df, objectives)
    hover = np.array([_hover(row, objectives) for _, row in shown.iterrows()], dtype=object)
    figure = make_subplots(rows=1, cols=len(views), horizontal_spacing=0.09)
    for col, view in enumerate(views, start=1):
        traces = [_step_trace(view)] + [
            _trace(MARKS[kind], on, view, pick, hover[pick].tolist()) for kind, on, pick in groups(shown, view.front)
        ]
        for trace in traces:
            figure.add_trace(trace.update(showlegend=col == 1), row=1, col=col)
        figure.update_xaxes(title_text=view.x_title, range=view.x_range, row=1, col=col)
        figure.update_yaxes(title_text=view.y_title, range=view.y_range, row=1, col=col)
    figure.update_layout(
        title={"text": f"{html.escape(title)}<br><sub>{subtitle(shown, views)}</sub>", "x": 0.02},
        template="plotly_white",
        height=560,
        margin={"t": 90, "b": 120, "l": 80, "r": 30},
        legend={"orientation": "h", "y": -0.2, "x": 0},
        hoverlabel={"bgcolor": "white", "align": "left"},
    )
    return figure


def save_front_html(df: pd.DataFrame, objectives: Sequence[Objective], path: Path, title: str = "Pareto front") -> None:
    """One self-contained page of about 5 MB: plotly's script is inside, so it opens without a network."""
    page = front_figure(df, objectives, title).to_html(include_plotlyjs=True, config={"responsive": True})
    write_by_rename(path, page.encode())


def save_front_png(df: pd.DataFrame, objectives: Sequence[Objective], path: Path, title: str = "Pareto front") -> None:
    """The panels of `front_figure` for a paper or a README."""
    shown, views = panels(df, objectives)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.8 + 4.6 * len(views), 4.4), layout=ConstrainedLayoutEngine(w_pad=0.12))
        axes = figure.subplots(1, len(views), squeeze=False)[0]
        for ax, view in zip(axes, views, strict=True):
            where: Any = "post" if view.step_shape == "hv" else "pre"
            ax.step(view.step_x, view.step_y, where=where, color=SKY, lw=1.6, zorder=2)
            for kind, on, pick in groups(shown, view.front):
                _scatter(ax, MARKS[kind], on, view.x[pick], view.y[pick])
            ax.set(xlabel=view.x_title, ylabel=view.y_title, xlim=view.x_range, ylim=view.y_range)
        figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
        axes[0].set_title(subtitle(shown, views), loc="left", color="#555555", fontsize=9)
        handles = _legend([kind for kind in MARKS if any(kind == group[0] for group in groups(shown, views[0].front))])
        figure.legend(handles=handles, loc="outside lower left", ncols=len(handles) if len(views) > 1 else 3)
        save(figure, path)


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
        hovertemplate="%{text}<extra></extra>",
        name=mark.name(on_front),
        legendgroup=mark.name(on_front),
    )


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


def _legend(kinds: Sequence[str]) -> list[Line2D]:
    """What symbols say about origin, and, in grey, what outline and faintness say about the front."""
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
            ls="",
        )
        for mark in (MARKS[kind] for kind in kinds)
    ]
    return [
        *handles,
        Line2D([], [], marker="o", ms=6.5, mfc="#BBBBBB", mec=BLACK, label="on the front", **points),
        Line2D([], [], marker="o", ms=5.5, mfc="#DDDDDD", mec="none", label="dominated", **points),
        Line2D([], [], color=SKY, lw=1.6, label=STEP_NAME),
    ]


def _hover(row: pd.Series[Any], objectives: Sequence[Objective]) -> str:
    """Trial, origin, objectives, the known metrics (without those of single data sets), budgets; HTML."""
    about = f"trial {row.get('trial_id', '?')} (number {row.get('number', '?')}, {row['origin']})"
    lines = [f"<b>{html.escape(about)}</b>"]
    for name in dict.fromkeys([*(objective["name"] for objective in objectives), *labels.METRICS]):
        value = row.get(name)
        if isinstance(value, (int, float, np.number)) and np.isfinite(value):
            lines.append(f"{html.escape(name)}: {labels.text(name, float(value))}")
    for family in ("heads", "channels"):
        if isinstance(row.get(family), (list, tuple, np.ndarray)):
            counts = [str(int(count)) for count in row[family]]
            lines += [f"{family}:", *("  " + " ".join(counts[i : i + 12]) for i in range(0, len(counts), 12))]
    return "<br>".join(lines)
