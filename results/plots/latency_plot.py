"""FLOPs against measured time; points above the diagonal save less time than FLOPs."""

from __future__ import annotations

import html

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from results.plots.marks import HOVER
from results.plots.pictures import BLACK, BLUE, VERMILION
from results.stats import labels
from results.stats.columns import DOUBT
from results.store.latency import DEVICE

#: Columns of a part of a call: title, colour and plotly's symbol.
_PARTS = {
    "encoder_ms": ("encoder", BLUE, "circle"),
    "latency_ms": ("whole call", VERMILION, "diamond"),
}


def latency_figure(trials: pd.DataFrame) -> go.Figure | None:
    """Draw every trial that was timed with one image a call.

    The figure is interactive; None if no trial was timed. Open marks are times that are in doubt.
    """
    if DEVICE not in trials or "latency_ms_fraction" not in trials:
        return None
    known = trials[trials["latency_ms_fraction"].notna()]
    if known.empty:
        return None
    figure = go.Figure([_points(known, name) for name in _PARTS])
    end = 105.0
    line = {"color": BLACK, "width": 1, "dash": "dot"}
    figure.add_trace(
        go.Scatter(x=[0, end], y=[0, end], mode="lines", line=line, name="time as the FLOPs say", hoverinfo="skip")
    )
    figure.update_layout(
        title={"text": f"FLOPs and time<br><sub>{html.escape(str(known[DEVICE].iloc[0]))}</sub>", "x": 0.02},
        template="plotly_white",
        height=480,
        margin={"t": 90, "b": 110, "l": 80, "r": 30},
        legend={"orientation": "h", "y": -0.22, "x": 0},
        hoverlabel=HOVER,
        xaxis={"title": f"{labels.title('flops_fraction')} (% of dense)", "rangemode": "tozero"},
        yaxis={"title": "Time left (% of dense)", "rangemode": "tozero"},
    )
    return figure


def _points(known: pd.DataFrame, name: str) -> go.Scatter:
    title, colour, symbol = _PARTS[name]
    flops, times = (100 * known[f"{column}_fraction"].to_numpy(dtype=np.float64) for column in ("flops", name))
    texts = [
        f"trial {html.escape(str(row['trial_id']))}<br>{title}: {row[name]:.4g} ms, {time:.1f} %"
        + f"<br>{labels.title('flops_fraction')}: {share:.1f} %"
        + (f"<br>doubtful: {html.escape(str(row[DOUBT]))}" if pd.notna(row.get(DOUBT)) else "")
        for (_, row), time, share in zip(known.iterrows(), times, flops, strict=True)
    ]
    doubtful = [pd.notna(value) for value in known.get(DOUBT, [None] * len(known))]
    symbols = [f"{symbol}-open" if each else symbol for each in doubtful]
    style = {"color": colour, "symbol": symbols, "size": 10, "line": {"color": BLACK, "width": 1}}
    return go.Scatter(
        x=flops,
        y=times,
        mode="markers",
        marker=style,
        name=title,
        text=texts,
        hovertemplate="%{text}<extra></extra>",
    )
