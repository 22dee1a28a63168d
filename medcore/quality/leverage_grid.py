"""The grid on which boundary leverage compares head steps with MLP steps, and its summary (method §8)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, Literal

import numpy as np

#: Shares of all heads and of all MLP channels that are removed.
Point = tuple[float, float]

#: The grid of method §8.
HEAD_SPARSITIES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MLP_SPARSITIES = (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95)

#: Resamples of the bootstrap over images.
_RESAMPLES = 1000


@dataclass(frozen=True)
class GridStep:
    """One step between neighbours of the grid; `kind` says which of the two sparsities grows."""

    kind: Literal["head", "mlp"]
    head_from: float
    head_to: float
    mlp_from: float
    mlp_to: float

    @property
    def start(self) -> Point:
        return self.head_from, self.mlp_from

    @property
    def end(self) -> Point:
        return self.head_to, self.mlp_to


def grid_points(heads: Sequence[float] = HEAD_SPARSITIES, mlps: Sequence[float] = MLP_SPARSITIES) -> list[Point]:
    """(head sparsity, MLP sparsity) of every grid point, row by row: the MLP sparsity runs fastest."""
    return list(product(heads, mlps))


def grid_steps(heads: Sequence[float] = HEAD_SPARSITIES, mlps: Sequence[float] = MLP_SPARSITIES) -> list[GridStep]:
    """All steps between neighbours: heads grow at fixed MLP sparsity, then MLP at fixed head sparsity."""
    head_steps = [GridStep("head", *pair, mlp, mlp) for pair in pairwise(heads) for mlp in mlps]
    mlp_steps = [GridStep("mlp", head, head, *pair) for head in heads for pair in pairwise(mlps)]
    return head_steps + mlp_steps


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | int | None]]:
    """Head steps against MLP steps over a grid, at each τ (method §8).

    Args:
        rows: one mapping a step and τ: the fields of `GridStep`, `tau`, `lambda_bd95` and `lambda_reg` (both means
            over images). Skipped steps are absent. `lambda_bd95_images` and `lambda_reg_images`, where every row has
            them: the values of the N images, NaN for one that does not count.

    Returns: by τ as text: `blr95`, the median λ_bd95 of head steps over that of MLP steps; `rlr`, the same of λ_reg;
        `bsr` = blr95 / rlr; `win_rate`, the share of grid points (i, j) that have both a head step i → i+1 at j and
        an MLP step j → j+1 at i where the head step's λ_bd95 is the larger (a tie is no win); and the counts
        `head_steps`, `mlp_steps` and `grid_points` behind them. None stands for a ratio without a denominator. With
        values of images `blr95_lo`, `blr95_hi` and so on are 95 % intervals, images resampled.
    """
    taus = sorted({float(row["tau"]) for row in rows})
    return {f"{tau:g}": _summary([row for row in rows if row["tau"] == tau]) for tau in taus}


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float | int | None]:
    """`summary` of one τ."""
    # both steps of a grid point start there
    heads, mlps = (
        {(row["head_from"], row["mlp_from"]): row for row in rows if row["kind"] == kind} for kind in ("head", "mlp")
    )
    both = sorted(heads.keys() & mlps.keys())
    wins = sum(heads[point]["lambda_bd95"] > mlps[point]["lambda_bd95"] for point in both)
    medians = {
        (kind, name): float(np.median([row[name] for row in steps.values()])) if steps else None
        for kind, steps in (("head", heads), ("mlp", mlps))
        for name in ("lambda_bd95", "lambda_reg")
    }
    intervals = _intervals(list(heads.values()), list(mlps.values())) if heads and mlps else {}
    blr95 = _ratio(medians["head", "lambda_bd95"], medians["mlp", "lambda_bd95"])
    rlr = _ratio(medians["head", "lambda_reg"], medians["mlp", "lambda_reg"])
    return {
        "blr95": blr95,
        "rlr": rlr,
        "bsr": _ratio(blr95, rlr),
        "win_rate": _ratio(wins, len(both)),
        "head_steps": len(heads),
        "mlp_steps": len(mlps),
        "grid_points": len(both),
        **intervals,
    }


def _intervals(heads: Sequence[Mapping[str, Any]], mlps: Sequence[Mapping[str, Any]]) -> dict[str, float | int | None]:
    """95 % intervals of BLR95, RLR and BSR by a bootstrap over images; {} where rows have no values of images."""
    if not all("lambda_bd95_images" in row for row in (*heads, *mlps)):
        return {}
    images = len(heads[0]["lambda_bd95_images"])
    drawn = np.random.default_rng(0).integers(0, images, (_RESAMPLES, images))
    ratios = []
    for name in ("lambda_bd95_images", "lambda_reg_images"):
        # (steps, N) -> (steps, resamples, N) -> medians over steps of means over images, (resamples,)
        medians = [
            np.median(np.nanmean(np.array([row[name] for row in rows])[:, drawn], axis=2), axis=0)
            for rows in (heads, mlps)
        ]
        ratios.append(medians[0] / medians[1])
    found: dict[str, float | int | None] = {}
    for name, values in (("blr95", ratios[0]), ("rlr", ratios[1]), ("bsr", ratios[0] / ratios[1])):
        low, high = np.nanpercentile(values, [2.5, 97.5])
        found |= {f"{name}_lo": float(low), f"{name}_hi": float(high)}
    return found


def _ratio(numerator: float | None, denominator: float | None) -> float | None:
    return None if numerator is None or not denominator else numerator / denominator
