"""Content of a picture of a front: pairs of objectives in axis units, groups of trials, the view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medcore.errors import MedcoreError
from results.stats import labels
from results.stats.columns import SEEDS
from results.stats.objectives import Direction, Objective, names_of
from results.stats.pareto import Bools, Floats, knee, non_dominated, objective_losses, to_losses

#: Origins of trials, in the order of drawing. Only the first word of an origin ("uniform 0.5") counts.
KINDS = ("sampled", "knapsack", "uniform", "rule", "dense", "average", "other")

#: Share of the view that a few words take across.
_ROOM = 0.3


class NothingToDraw(MedcoreError):
    """A picture would be empty."""


@dataclass(frozen=True)
class Panel:
    """Two columns of the trial table in axis units, and what the drawing needs.

    Attributes:
        x: (N,) values across.
        y: (N,) values up.
        x_error: (2, N), how far the interval reaches below and above `x`; NaN if none is known.
        y_error: The same of `y`.
        x_title: Title of the axis.
        y_title: Title of the axis.
        front: (N,), which trials are on the front of all objectives.
        step_x: (F,), the front of these two columns alone, from left to right.
        step_y: (F,), its values up.
        step_shape: Plotly's `hv` or `vh`.
        x_range: The view, which leaves out `hidden` far outliers.
        y_range: The view.
        hidden: How many trials lie outside of the view.
        dense_y: Where the dense model after the same recovery lies up; None without such a trial, and for a cost.
        knee: Place of the front's knee; None if there is a single objective, which has none.
        ideal: Which way is better, −1 or 1 across and up.
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
    step_shape: str
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    hidden: int
    dense_y: float | None = None
    knee: int | None = None
    ideal: tuple[int, int] = (-1, 1)

    @property
    def knee_label(self) -> tuple[int, int]:
        """Return where the knee's words stand from it, −1 or 1 across and up: towards the ideal, where no trial is.

        Across it is the other side if the view ends too soon.
        """
        across, up = self.ideal
        start, end = self.x_range
        place = 0.5 if self.knee is None else (float(self.x[self.knee]) - start) / (end - start)
        room = place if across < 0 else 1 - place
        return across if room > _ROOM else -across, up


def origin_kind(origin: object) -> str:
    """Return the first word of a trial's origin if it is one of `KINDS`.

    Another word is `other`; no origin is `sampled`.
    """
    kind = origin.split()[0] if isinstance(origin, str) and origin.strip() else "sampled"
    return kind if kind in KINDS else "other"


def panels(df: pd.DataFrame, objectives: Sequence[Objective]) -> tuple[pd.DataFrame, list[Panel]]:
    """Return the trials to draw, and the first objective against each other one.

    Only finished trials with finite objectives are drawn. A single objective is drawn against the trial's number.

    Raises:
        NothingToDraw: No trial can be drawn.
    """
    losses = objective_losses(df, objectives)
    finite = np.flatnonzero(np.isfinite(losses).all(axis=1))
    if not len(finite):
        raise NothingToDraw("nothing to draw: no trial of this study finished with finite objectives")
    shown = df.iloc[finite].reset_index(drop=True)
    if "origin" not in shown:
        shown["origin"] = "sampled"
    front = non_dominated(losses[finite])
    first, *others = objectives
    if not others:
        return shown, [_panel(shown, front, Objective("number", Direction.MIN), first, None)]
    middle = _knee(losses[finite], front)
    return shown, [_panel(shown, front, first, other, middle) for other in others]


def _knee(losses: Floats, front: Bools) -> int:
    """Return the row that the rule `knee` takes of losses (N, K), whose front is marked."""
    members = np.flatnonzero(front)
    # the order of `front_table`, which distinguishes equal rows
    members = members[np.lexsort(losses[members].T[::-1])]
    return int(members[knee(losses[members])])


def groups(shown: pd.DataFrame, front: Bools) -> list[tuple[str, bool, Bools]]:
    """Return (kind of origin, on the front, (N,) bool) of every non-empty group.

    Dominated groups come first.
    """
    kinds = shown["origin"].map(origin_kind).to_numpy(dtype=object)
    pairs = [(kind, on, np.asarray(kinds == kind) & (front == on)) for on in (False, True) for kind in KINDS]
    return [group for group in pairs if group[2].any()]


def subtitle(shown: pd.DataFrame, views: Sequence[Panel]) -> str:
    """Count the trials on the front and outside of the view, and explain points and bars."""
    hidden = max(view.hidden for view in views)
    outside = f"; {hidden} far outside the view" if hidden else ""
    bars = any(np.isfinite([view.x_error, view.y_error]).any() for view in views)
    repeated = SEEDS in shown and bool((shown[SEEDS] > 1).any())
    return (
        f"{int(views[0].front.sum())} of {len(shown)} trials on the front{outside}"
        + ("; repeated trials at their means" if repeated else "")
        + ("; bars: 95 % intervals over images" if bars else "")
    )


def drawn(objective: Objective, shown: pd.DataFrame) -> Objective:
    """Return what a picture draws for an objective.

    For a cost it is its share of the dense model's if all trials have it; both order trials alike.
    """
    name = labels.share_of_dense(objective.name)
    known = name in shown and bool(np.isfinite(pd.to_numeric(shown[name], errors="coerce")).all())
    return Objective(name, objective.direction) if known else objective


def _panel(shown: pd.DataFrame, front: Bools, first: Objective, other: Objective, middle: int | None) -> Panel:
    pair = (drawn(first, shown), drawn(other, shown))
    first, other = pair
    raw = shown[names_of(pair)].to_numpy(dtype=np.float64)
    x_factor, x_title = labels.axis(first.name, raw[:, 0], first.lower_is_better)
    y_factor, y_title = labels.axis(other.name, raw[:, 1], other.lower_is_better)
    x, y = raw[:, 0] * x_factor, raw[:, 1] * y_factor
    flat = np.flatnonzero(non_dominated(to_losses(raw, pair)))
    order = flat[np.argsort(x[flat], kind="stable")]
    dense = (shown["origin"].map(origin_kind) == "dense").to_numpy(dtype=bool)
    keep = front | dense
    x_error, y_error = _errors(shown, first.name, x_factor), _errors(shown, other.name, y_factor)
    x_range, y_range = (_with_bars(view_range(v, keep), v, e) for v, e in ((x, x_error), (y, y_error)))
    inside = (x >= x_range[0]) & (x <= x_range[1]) & (y >= y_range[0]) & (y <= y_range[1])
    return Panel(
        x=x,
        y=y,
        x_error=x_error,
        y_error=y_error,
        x_title="Trial" if first.name == "number" else x_title,
        y_title=y_title,
        front=front,
        step_x=x[order],
        step_y=y[order],
        step_shape="hv" if first.lower_is_better else "vh",
        x_range=x_range,
        y_range=y_range,
        hidden=int((~inside).sum()),
        dense_y=None if labels.is_cost(other.name) or not dense.any() else float(y[dense][0]),
        knee=middle,
        ideal=(-1 if first.lower_is_better else 1, -1 if other.lower_is_better else 1),
    )


def _errors(shown: pd.DataFrame, name: str, factor: float) -> Floats:
    """Return lengths of error bars (2, N) in axis units.

    The lengths come from the columns that `results.stats.uncertainty.with_intervals` adds.
    """
    if not {f"{name}_lo", f"{name}_hi"} <= {*shown}:
        return np.full((2, len(shown)), np.nan)
    value, low, high = (shown[column].to_numpy(dtype=np.float64) for column in (name, f"{name}_lo", f"{name}_hi"))
    return factor * np.stack([value - low, high - value])


def _with_bars(view: tuple[float, float], values: Floats, errors: Floats) -> tuple[float, float]:
    """Return the view, wide enough for the ends of error bars (2, N)."""
    return float(np.nanmin([view[0], *(values - errors[0])])), float(np.nanmax([view[1], *(values + errors[1])]))


def view_range(values: Floats, keep: Bools) -> tuple[float, float]:
    """Return the axis range of values (N,) with a margin of 6 %.

    Values more than three interquartile ranges out are left outside, unless `keep` (N,) marks them.
    """
    low, high = np.percentile(values, [25, 75])
    reach = 3 * (high - low)
    near = keep | ((values >= low - reach) & (values <= high + reach))
    start, end = float(values[near].min()), float(values[near].max())
    margin = 0.06 * (end - start) or 0.05 * abs(end) or 1.0
    return start - margin, end + margin
