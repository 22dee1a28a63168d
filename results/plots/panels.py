"""What a picture of a front shows: pairs of objectives in axis units, groups of trials, the view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medcore.errors import MedcoreError
from results.stats import labels
from results.stats.pareto import Bools, Floats, Objective, non_dominated, objective_losses, sign, to_losses

#: Origins of trials, in the order of drawing; what follows the first word ("uniform 0.5") is not looked at.
KINDS = ("sampled", "uniform", "rule", "dense", "other")


@dataclass(frozen=True)
class Panel:
    """Two columns of the trial table in axis units, with what the drawing needs to know about them.

    x, y: (N,). x_error, y_error: (2, N), how far the interval reaches below and above, NaN where none is known.
    front: (N,), on the front of all objectives. step_x, step_y: (F,), the front of these
    two columns alone, from left to right. x_range, y_range: the view, which leaves out `hidden` far outliers.
    """

    x: Floats
    y: Floats
    x_error: Floats
    y_error: Floats
    x_title: str
    y_title: str
    front: Bools
    step_x: Floats
    step_y: Floats
    step_shape: str  # plotly's "hv" or "vh"
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    hidden: int


def origin_kind(origin: object) -> str:
    """First word of a trial's origin if it is one of `KINDS`, else "other"; without an origin "sampled"."""
    kind = origin.split()[0] if isinstance(origin, str) and origin.strip() else "sampled"
    return kind if kind in KINDS else "other"


def panels(df: pd.DataFrame, objectives: Sequence[Objective]) -> tuple[pd.DataFrame, list[Panel]]:
    """Finished trials with finite objectives, and the first objective against each other one.

    A single objective is drawn against the trial's number.
    Raises `MedcoreError` where no trial can be drawn.
    """
    losses = objective_losses(df, objectives)
    finite = np.flatnonzero(np.isfinite(losses).all(axis=1))
    if not len(finite):
        raise MedcoreError("nothing to draw: no trial of this study finished with finite objectives")
    shown = df.iloc[finite].reset_index(drop=True)
    if "origin" not in shown:
        shown["origin"] = "sampled"
    front = non_dominated(losses[finite])
    first, *others = objectives
    if not others:
        first, others = Objective(name="number", direction="minimize"), [first]
    return shown, [_panel(shown, front, first, other) for other in others]


def groups(shown: pd.DataFrame, front: Bools) -> list[tuple[str, bool, Bools]]:
    """(kind of origin, on the front, (N,) bool) of every non-empty group, dominated ones first."""
    kinds = shown["origin"].map(origin_kind).to_numpy(dtype=object)
    pairs = [(kind, on, np.asarray(kinds == kind) & (front == on)) for on in (False, True) for kind in KINDS]
    return [group for group in pairs if group[2].any()]


def subtitle(shown: pd.DataFrame, views: Sequence[Panel]) -> str:
    hidden = max(view.hidden for view in views)
    outside = f"; {hidden} far outside the view" if hidden else ""
    bars = any(np.isfinite([view.x_error, view.y_error]).any() for view in views)
    return f"{int(views[0].front.sum())} of {len(shown)} trials on the front{outside}" + (
        "; bars: 95 % intervals over images" if bars else ""
    )


def _panel(shown: pd.DataFrame, front: Bools, first: Objective, other: Objective) -> Panel:
    pair = (first, other)
    raw = shown[[objective["name"] for objective in pair]].to_numpy(dtype=np.float64)
    x_down, y_down = (sign(objective["direction"]) > 0 for objective in pair)
    x_factor, x_title = labels.axis(first["name"], raw[:, 0], x_down)
    y_factor, y_title = labels.axis(other["name"], raw[:, 1], y_down)
    x, y = raw[:, 0] * x_factor, raw[:, 1] * y_factor
    flat = np.flatnonzero(non_dominated(to_losses(raw, [objective["direction"] for objective in pair])))
    order = flat[np.argsort(x[flat], kind="stable")]
    keep = front | (shown["origin"].map(origin_kind) == "dense").to_numpy(dtype=bool)
    x_error, y_error = _errors(shown, first["name"], x_factor), _errors(shown, other["name"], y_factor)
    x_range, y_range = (_with_bars(view_range(v, keep), v, e) for v, e in ((x, x_error), (y, y_error)))
    inside = (x >= x_range[0]) & (x <= x_range[1]) & (y >= y_range[0]) & (y <= y_range[1])
    return Panel(
        x=x,
        y=y,
        x_error=x_error,
        y_error=y_error,
        x_title="Trial" if first["name"] == "number" else x_title,
        y_title=y_title,
        front=front,
        step_x=x[order],
        step_y=y[order],
        step_shape="hv" if x_down else "vh",
        x_range=x_range,
        y_range=y_range,
        hidden=int((~inside).sum()),
    )


def _errors(shown: pd.DataFrame, name: str, factor: float) -> Floats:
    """(2, N) in axis units, from the columns that `results.stats.uncertainty.with_intervals` adds."""
    if not {f"{name}_lo", f"{name}_hi"} <= {*shown}:
        return np.full((2, len(shown)), np.nan)
    value, low, high = (shown[column].to_numpy(dtype=np.float64) for column in (name, f"{name}_lo", f"{name}_hi"))
    return factor * np.stack([value - low, high - value])


def _with_bars(view: tuple[float, float], values: Floats, errors: Floats) -> tuple[float, float]:
    """The view, wide enough for the ends of error bars (2, N)."""
    return float(np.nanmin([view[0], *(values - errors[0])])), float(np.nanmax([view[1], *(values + errors[1])]))


def view_range(values: Floats, keep: Bools) -> tuple[float, float]:
    """Axis range of values (N,) with a margin of 6 %: all but those three interquartile ranges out.

    Values marked in keep (N,) are always inside.
    """
    low, high = np.percentile(values, [25, 75])
    reach = 3 * (high - low)
    near = keep | ((values >= low - reach) & (values <= high + reach))
    start, end = float(values[near].min()), float(values[near].max())
    margin = 0.06 * (end - start) or 0.05 * abs(end) or 1.0
    return start - margin, end + margin
