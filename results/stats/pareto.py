"""Pareto front, hypervolume and knee: arrays in, arrays out.

Every objective becomes a loss once, in `to_losses`; all that follows knows only minimisation. Dominance and
hypervolume come from moocore (O(N log N) for up to three objectives).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import moocore  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from medcore.errors import MedcoreError
from results.stats.objectives import Objective, names_of

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def to_losses(values: npt.ArrayLike, objectives: Sequence[Objective]) -> Floats:
    """Turn natural values (N, K) into losses (N, K), float64.

    Smaller losses are better in every column.
    """
    signs = np.array([objective.sign for objective in objectives])
    losses: Floats = np.asarray(values, dtype=np.float64).reshape(-1, len(signs)) * signs
    return losses


def reference_losses(reference: Mapping[str, float], objectives: Sequence[Objective]) -> Floats:
    """Return the hypervolume's reference point as losses (K,).

    `reference` has natural values by name.
    """
    corner: Floats = to_losses([reference[objective.name] for objective in objectives], objectives)[0]
    return corner


def non_dominated(losses: npt.ArrayLike) -> Bools:
    """Return which rows of losses (N, K) no other row dominates: (N,) bool.

    Row a dominates b if a ≤ b in every column and a < b in one, so duplicates are on the front together.
    Rows with NaN or an infinity of either sign never are, and dominate nothing.
    """
    points = _matrix(losses)
    front: Bools = np.asarray(np.isfinite(points).all(axis=1))
    if front.any():
        front[front] = moocore.is_nondominated(points[front], keep_weakly=True)
    return front


def front_ranks(losses: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return the rank of each row of losses (N, K) by non-dominated sorting.

    The result is (N,) int64. 1 is the front, 2 what would be the front without it, and so on; 0 for rows with NaN
    or an infinity.
    """
    points = _matrix(losses)
    finite = np.isfinite(points).all(axis=1)
    ranks = np.zeros(len(points), dtype=np.int64)
    if finite.any():
        ranks[finite] = moocore.pareto_rank(points[finite]) + 1
    return ranks


def hypervolume(losses: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Return the volume that losses (N, K) dominate up to the losses `reference` (K,).

    Points that are not better than the reference in every column add nothing; neither do non-finite ones.
    No points: 0.
    """
    points, corner = _inside(losses, reference)
    return float(moocore.hypervolume(points, ref=corner)) if len(points) else 0.0


def hypervolume_trace(losses: npt.ArrayLike, reference: npt.ArrayLike) -> Floats:
    """Return the hypervolume after each row of losses (N, K): (N,), never falling.

    The volume is computed only when a row enters the front so far, which late in a search is rare.
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
    """Return the index of the front's loss (N, K) nearest to the ideal point.

    The first of equal rows is taken. Each column is scaled to [0, 1] over the given rows (a constant column to 0).
    The ideal point is their best value in every column, the distance is Euclidean.

    Raises:
        ValueError: The front is empty or not finite.
    """
    points = _matrix(losses)
    if not len(points) or not np.isfinite(points).all():
        raise ValueError("the knee of a front needs at least one point, and finite ones")
    best, worst = points.min(axis=0), points.max(axis=0)
    span = np.where(worst > best, worst - best, 1.0)
    return int(np.argmin((((points - best) / span) ** 2).sum(axis=1)))


def objective_losses(df: pd.DataFrame, objectives: Sequence[Objective]) -> Floats:
    """Return the losses (N, K) of a trial table; rows that are not done are NaN.

    Raises:
        MedcoreError: There is no objective, or the table lacks its column or holds no numbers there.
    """
    import pandas as pd  # here, because a configuration is read without tables

    names = names_of(objectives)
    if not names:
        raise MedcoreError("no objectives: a front needs at least one")
    if not len(df):
        return np.empty((0, len(names)))
    if "status" in df.columns and not (df["status"] == "done").any():  # such trials may have measured nothing
        return np.full((len(df), len(names)), np.nan)
    if missing := [name for name in names if name not in df.columns]:
        raise MedcoreError(f"trials have no column {', '.join(missing)}: no trial measured this objective")
    try:
        values = df[names].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    except (TypeError, ValueError):
        raise MedcoreError(
            f"trials hold something else than numbers in {', '.join(names)}: no search wrote this"
        ) from None
    if "status" in df.columns:
        values[(df["status"] != "done").to_numpy(dtype=bool)] = np.nan
    return to_losses(values, objectives)


def front_table(df: pd.DataFrame, objectives: Sequence[Objective]) -> pd.DataFrame:
    """Return the rows on the front, sorted by the first objective, best first.

    Ties go by the next objectives, then by place. All columns are kept; the index is new. Without a finished trial
    the table is empty.
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
    """Return the rows better than the reference in every column, and it as (K,)."""
    corner = np.atleast_1d(np.asarray(reference, dtype=np.float64))
    points = _matrix(losses)
    if not np.isfinite(corner).all():
        raise ValueError("the hypervolume's reference point must be finite")
    if len(points) and points.shape[1] != len(corner):
        raise ValueError(f"losses have {points.shape[1]} columns, the reference point {len(corner)}")
    if not len(points):
        return points, corner
    return points[np.isfinite(points).all(axis=1) & (points < corner).all(axis=1)], corner
