"""The grid on which boundary leverage compares head steps with MLP steps, and its summary (method §8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, Literal

import numpy as np

#: Head sparsity and MLP sparsity: shares of the groups of all blocks that are removed.
Point = tuple[float, float]

#: The grid of method §8.
HEAD_SPARSITIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MLP_SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95)

#: Resamples of the bootstrap over images.
_RESAMPLES = 1000


@dataclass(frozen=True)
class GridStep:
    """One step between neighbours of the grid.

    Attributes:
        kind: Which sparsity grows.
        head_from: Head sparsity before the step, 0..1.
        head_to: Head sparsity after the step.
        mlp_from: MLP sparsity before the step, 0..1.
        mlp_to: MLP sparsity after the step.
    """

    kind: Literal["head", "mlp"]
    head_from: float
    head_to: float
    mlp_from: float
    mlp_to: float

    @property
    def start(self) -> Point:
        """Return the point before the step."""
        return self.head_from, self.mlp_from

    @property
    def end(self) -> Point:
        """Return the point after the step."""
        return self.head_to, self.mlp_to


def grid_points(head: Sequence[float] = HEAD_SPARSITIES, mlp: Sequence[float] = MLP_SPARSITIES) -> list[Point]:
    """Return (head sparsity, MLP sparsity) of every grid point.

    The MLP sparsity varies fastest.
    """
    return list(product(head, mlp))


def grid_steps(head: Sequence[float] = HEAD_SPARSITIES, mlp: Sequence[float] = MLP_SPARSITIES) -> list[GridStep]:
    """Return all steps between neighbours of the grid.

    The head steps, at fixed MLP sparsity, come before the MLP steps, at fixed head sparsity.
    """
    head_steps = [GridStep("head", *pair, fixed, fixed) for pair in pairwise(head) for fixed in mlp]
    mlp_steps = [GridStep("mlp", fixed, fixed, *pair) for fixed in head for pair in pairwise(mlp)]
    return head_steps + mlp_steps


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    """Compare head steps with MLP steps over a grid, at each τ (8.3–8.5).

    Args:
        rows: One mapping a step and τ: the fields of `GridStep`, `tau`, `lambda_bd95` and `lambda_reg` (both means
            over images). Skipped steps are absent. Every row may have `lambda_bd95_images` and `lambda_reg_images`:
            the values of the N images, NaN for one that does not count.

    Returns:
        By τ as text: `blr95`, the median λ_bd95 of head steps over that of MLP steps; `rlr`, the same of λ_reg;
        `bsr` = blr95 / rlr; `win_rate`, the share of grid points (i, j) that have both a head step i → i+1 at j and
        an MLP step j → j+1 at i where the head step's λ_bd95 is the larger (a tie is no win); and the counts
        `head_steps`, `mlp_steps` and `grid_points` behind them. None stands for a ratio without a denominator. With
        values of images `blr95_lo`, `blr95_hi` and so on are 95 % intervals by a bootstrap over images.
    """
    taus = sorted({float(row["tau"]) for row in rows})
    return {f"{tau:g}": _summary([row for row in rows if row["tau"] == tau]) for tau in taus}


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | int | None]:
    """Return the `summary` of one τ."""
    # both steps of a grid point start there
    head_rows, mlp_rows = (
        {(row["head_from"], row["mlp_from"]): row for row in rows if row["kind"] == kind} for kind in ("head", "mlp")
    )
    both = sorted(head_rows.keys() & mlp_rows.keys())
    wins = sum(head_rows[point]["lambda_bd95"] > mlp_rows[point]["lambda_bd95"] for point in both)
    medians = {
        (kind, name): float(np.median([row[name] for row in steps.values()])) if steps else None
        for kind, steps in (("head", head_rows), ("mlp", mlp_rows))
        for name in ("lambda_bd95", "lambda_reg")
    }
    intervals = _intervals(list(head_rows.values()), list(mlp_rows.values())) if head_rows and mlp_rows else {}
    blr95 = _ratio(medians["head", "lambda_bd95"], medians["mlp", "lambda_bd95"])
    rlr = _ratio(medians["head", "lambda_reg"], medians["mlp", "lambda_reg"])
    return {
        "blr95": blr95,
        "rlr": rlr,
        "bsr": _ratio(blr95, rlr),
        "win_rate": _ratio(wins, len(both)),
        "head_steps": len(head_rows),
        "mlp_steps": len(mlp_rows),
        "grid_points": len(both),
        **intervals,
    }


def _intervals(
    head_rows: Sequence[Mapping[str, Any]], mlp_rows: Sequence[Mapping[str, Any]]
) -> dict[str, float | int | None]:
    """Return 95 % intervals of BLR95, RLR and BSR by a bootstrap over images.

    The result is empty if rows have no values of images.
    """
    if not all("lambda_bd95_images" in row for row in (*head_rows, *mlp_rows)):
        return {}
    images = len(head_rows[0]["lambda_bd95_images"])
    drawn = np.random.default_rng(0).integers(0, images, (_RESAMPLES, images))
    ratios = []
    for name in ("lambda_bd95_images", "lambda_reg_images"):
        # (steps, N) -> (steps, resamples, N) -> medians over steps of means over images, (resamples,)
        medians = [
            np.median(np.nanmean(np.array([row[name] for row in rows])[:, drawn], axis=2), axis=0)
            for rows in (head_rows, mlp_rows)
        ]
        ratios.append(medians[0] / medians[1])
    intervals: dict[str, float | int | None] = {}
    for name, values in (("blr95", ratios[0]), ("rlr", ratios[1]), ("bsr", ratios[0] / ratios[1])):
        low, high = np.nanpercentile(values, [2.5, 97.5])
        intervals |= {f"{name}_lo": float(low), f"{name}_hi": float(high)}
    return intervals


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return None if numerator is None or not denominator else numerator / denominator
