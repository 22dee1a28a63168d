"""Pareto front, hypervolume and knee: arrays in, arrays out.

Every objective becomes a loss once, in `to_losses`; all that follows knows only minimisation. Dominance and
hypervolume come from moocore (O(N log N) for up to three objectives).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import moocore  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import pandas as pd

from medcore.errors import MedcoreError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SIGNS = {"min": 1.0, "minimize": 1.0, "down": 1.0, "max": -1.0, "maximize": -1.0, "up": -1.0}


class Objective(TypedDict):
    """A column of the trial table and its direction: "minimize" or "maximize" (also min/max, down/up)."""

    name: str
    direction: str


def sign(direction: str) -> float:
    """+1 for an objective that goes down, −1 for one that goes up. Raises `MedcoreError` for another word."""
    if direction not in SIGNS:
        raise MedcoreError(f"unknown direction '{direction}' of an objective: use minimize or maximize")
    return SIGNS[direction]


def to_losses(values: npt.ArrayLike, directions: Sequence[str]) -> Floats:
    """Natural values (N, K) -> losses (N, K), float64, where smaller is better in every column."""
    signs = np.array([sign(direction) for direction in directions])
    losses: Floats = np.asarray(values, dtype=np.float64).reshape(-1, len(signs)) * signs
    return losses


def non_dominated(losses: npt.ArrayLike) -> Bools:
    """Which rows of losses (N, K) no other row dominates: (N,) bool.

    Row a dominates b if a ≤ b in every column and a < b in one, so duplicates are on the front together.
    Rows with NaN or an infinity of either sign never are, and dominate nothing.
    """
    points = _matrix(losses)
    front: Bools = np.asarray(np.isfinite(points).all(axis=1))
    if front.any():
        front[front] = moocore.is_nondominated(points[front], keep_weakly=True)
    return front


def front_ranks(losses: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Rank of each row of losses (N, K) by non-dominated sorting: (N,) int64.

    1 is the front, 2 what would be the front without it, and so on; 0 for rows with NaN or an infinity.
    """
    points = _matrix(losses)
    finite = np.isfinite(points).all(axis=1)
    ranks = np.zeros(len(points), dtype=np.int64)
    if finite.any():
        ranks[finite] = moocore.pareto_rank(points[finite]) + 1
    return ranks


def hypervolume(losses: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Volume that losses (N, K) dominate up to reference (K,), a loss vector too.

    Points that are not better than the reference in every column add nothing; neither do non-finite ones.
    No points: 0.
    """
    points, corner = _inside(losses, reference)
    return float(moocore.hypervolume(points, ref=corner)) if len(points) else 0.0


def hypervolume_trace(losses: npt.ArrayLike, reference: npt.ArrayLike) -> Floats:
    """Hypervolume after each row of losses (N, K), in the order given: (N,), never falling.

    The volume is computed anew only when a row enters the front so far, which late in a search is rare.
    """
    points = _matrix(losses)
    front, volume = points[:0], 0.0
    trace = np.zeros(len(points))
    for i, point in enumerate(points):
        new, _ = _inside(point[None], reference)
        if len(new) and not (front <= new).all(axis=1).any():
            front = np.concatenate([front[~(new <= front).all(axis=1)], new])
            volume = max(volume, hypervolume(front, reference))
        trace[i] = volume
    return trace


def knee(losses: npt.ArrayLike) -> int:
    """Index of the row of a front's losses (N, K) nearest to the ideal point; ties by index.

    Each column is scaled to [0, 1] over the given rows (a constant column to 0); the ideal point is their
    best value in every column; distance is Euclidean. Raises `ValueError` for an empty or non-finite front.
    """
    points = _matrix(losses)
    if not len(points) or not np.isfinite(points).all():
        raise ValueError("the knee of a front needs at least one point, and finite ones")
    best, worst = points.min(axis=0), points.max(axis=0)
    span = np.where(worst > best, worst - best, 1.0)
    return int(np.argmin((((points - best) / span) ** 2).sum(axis=1)))


def objective_losses(df: pd.DataFrame, objectives: Sequence[Objective]) -> Floats:
    """Losses (N, K) of a trial table; rows that are not done are NaN.

    Raises `MedcoreError` for a missing column, an unknown direction, or no objective.
    """
    names = [objective["name"] for objective in objectives]
    if not names:
        raise MedcoreError("no objectives: a front needs at least one")
    if not len(df):
        return np.empty((0, len(names)))
    if missing := [name for name in names if name not in df.columns]:
        raise MedcoreError(f"trials have no column {', '.join(missing)}: no trial measured this objective")
    values = df[names].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    if "status" in df.columns:
        values[(df["status"] != "done").to_numpy(dtype=bool)] = np.nan
    return to_losses(values, [objective["direction"] for objective in objectives])


def front_table(df: pd.DataFrame, objectives: Sequence[Objective]) -> pd.DataFrame:
    """Rows of the trial table that are on the front, sorted by the first objective, best first.

    Ties go by the next objectives, then by place.

    All columns are kept; the index is new. No finished trial gives an empty table with the same columns.
    """
    losses = objective_losses(df, objectives)
    chosen = np.flatnonzero(non_dominated(losses))
    # lexsort's last key is its first criterion; it is stable, so equal rows keep their order
    order = np.lexsort(losses[chosen].T[::-1])
    return df.iloc[chosen[order]].reset_index(drop=True)


def _matrix(losses: npt.ArrayLike) -> Floats:
    points = np.asarray(losses, dtype=np.float64)
    if points.ndim == 1 and points.size == 0:
        return points.reshape(0, 1)
    if points.ndim != 2:
        raise ValueError(f"losses must be (N, K), got shape {points.shape}")
    return points


def _inside(losses: npt.ArrayLike, reference: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Rows strictly better than the reference in every column, and the reference as (K,)."""
    corner = np.atleast_1d(np.asarray(reference, dtype=np.float64))
    points = _matrix(losses)
    if not np.isfinite(corner).all():
        raise ValueError("the hypervolume's reference point must be finite")
    if len(points) and points.shape[1] != len(corner):
        raise ValueError(f"losses have {points.shape[1]} columns, the reference point {len(corner)}")
    if not len(points):
        return points, corner
    return points[np.isfinite(points).all(axis=1) & (points < corner).all(axis=1)], corner
