"""Boundary leverage of head steps next to that of MLP steps, over the grid of method §8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from medcore.quality.leverage import HEAD_SPARSITIES, MLP_SPARSITIES, TAUS, summary
from results.plots.panels import NothingToDraw
from results.plots.pictures import STYLE, save

_UNIT = "λ_bd95 (pixels per percentage point of parameters)"


def save_leverage_plot(rows: Sequence[Mapping[str, Any]], path: Path, tau: float = TAUS[0]) -> None:
    """Draw two heat maps of λ_bd95 (PNG) on one logarithmic scale.

    One shows every head step, the other every MLP step.

    Args:
        rows: As for `medcore.quality.leverage.summary`, on the grid of method §8; a step without a row is marked ×.
        path: The file.
        tau: Which rows to draw.

    Raises:
        NothingToDraw: No step of this τ has a positive λ_bd95.
    """
    shown = [row for row in rows if row["tau"] == tau]
    positive = [row["lambda_bd95"] for row in shown if row["lambda_bd95"] > 0]
    if not positive:
        raise NothingToDraw(f"nothing to draw: no step moves the boundary at a τ of {tau:g} pixels")
    norm = LogNorm(min(positive), max(max(positive), 1.01 * min(positive)))
    head_ticks, mlp_ticks = (_ticks(values) for values in (HEAD_SPARSITIES, MLP_SPARSITIES))
    head_steps, mlp_steps = (_step_ticks(values) for values in (HEAD_SPARSITIES, MLP_SPARSITIES))
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(10.5, 4.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw(left, _cells(shown, "head"), norm)
        left.set(title="Head steps", xlabel="MLP sparsity (%)", ylabel="Head sparsity, from → to (%)")
        left.set_xticks(range(len(mlp_ticks)), mlp_ticks)
        left.set_yticks(range(len(head_steps)), head_steps)
        image = _draw(right, _cells(shown, "mlp"), norm)
        right.set(title="MLP steps", xlabel="MLP sparsity, from → to (%)", ylabel="Head sparsity (%)")
        right.set_xticks(range(len(mlp_steps)), mlp_steps)
        right.set_yticks(range(len(head_ticks)), head_ticks)
        figure.colorbar(image, ax=[left, right], label=_UNIT)
        figure.suptitle(_title(shown, tau), x=0.01, ha="left", fontsize=11, fontweight="bold")
        save(figure, path)


def _cells(rows: Sequence[Mapping[str, Any]], kind: str) -> npt.NDArray[np.float64]:
    """Return λ_bd95 by start of the step, NaN without a row.

    Head sparsities go down, MLP sparsities across.
    """
    last_head, last_mlp = (1, 0) if kind == "head" else (0, 1)
    cells = np.full((len(HEAD_SPARSITIES) - last_head, len(MLP_SPARSITIES) - last_mlp), np.nan)
    for row in rows:
        if row["kind"] == kind:
            cells[HEAD_SPARSITIES.index(row["head_from"]), MLP_SPARSITIES.index(row["mlp_from"])] = row["lambda_bd95"]
    return cells


def _draw(ax: Axes, cells: npt.NDArray[np.float64], norm: LogNorm) -> Any:
    image = ax.imshow(np.maximum(cells, norm.vmin or 0), cmap="cividis", norm=norm, aspect="auto")
    for (row, column), value in np.ndenumerate(cells):
        known = bool(np.isfinite(value))
        light = known and float(norm(max(value, norm.vmin or 0))) > 0.55
        colour = "black" if light or not known else "white"
        ax.text(column, row, f"{value:.2g}" if known else "×", ha="center", va="center", color=colour, fontsize=8)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return image


def _ticks(values: Sequence[float]) -> list[str]:
    return [f"{100 * value:g}" for value in values]


def _step_ticks(values: Sequence[float]) -> list[str]:
    return [f"{start} → {end}" for start, end in pairwise(_ticks(values))]


def _title(rows: Sequence[Mapping[str, Any]], tau: float) -> str:
    """Compare head and MLP steps in one line; ratios without a value are left out."""
    (totals,) = summary(rows).values()
    words = [
        f"{name} {totals[key]:.2f}" for key, name in (("blr95", "BLR95"), ("rlr", "RLR"), ("bsr", "BSR")) if totals[key]
    ]
    if totals["win_rate"] is not None:
        words.append(f"head steps ahead at {totals['win_rate']:.0%} of {totals['grid_points']} grid points")
    return f"Boundary leverage within {tau:g} px: " + ", ".join(words)
