"""How trials look in every picture of a study; every colour comes with a symbol."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medcore.errors import printable
from medcore.quality.catalogue import figures
from results.plots.pictures import BLACK, BLUE, GREEN, ORANGE, PURPLE, VERMILION
from results.stats import labels
from results.stats.objectives import Objective, names_of
from results.stats.seed_noise import runs_in, seed_interval
from results.store.files import is_finite


@dataclass(frozen=True)
class Mark:
    """How trials of one origin are drawn.

    Attributes:
        title: In the legend.
        colour: Hexadecimal.
        symbol: Plotly's name.
        marker: Matplotlib's name.
        size: Plotly's, in pixels.
        faint: Opacity of dominated trials. Samples are many; starts are few, and the front must beat them.
    """

    title: str
    colour: str
    symbol: str
    marker: str
    size: int
    faint: float

    def name(self, on_front: bool) -> str:
        """Return the legend's entry."""
        return f"{self.title}, {'on the front' if on_front else 'dominated'}"

    def opacity(self, on_front: bool) -> float:
        """Return the opacity of the marks."""
        return 1.0 if on_front else self.faint


MARKS = {
    "sampled": Mark("searched", BLUE, "circle", "o", size=9, faint=0.3),
    "knapsack": Mark("knapsack budgets", ORANGE, "hexagon", "h", size=10, faint=0.6),
    "uniform": Mark("uniform budgets", GREEN, "square", "s", size=9, faint=0.6),
    "rule": Mark("paper's rule", VERMILION, "diamond", "D", size=9, faint=0.6),
    "dense": Mark("dense model, recovered", BLACK, "star", "*", size=15, faint=0.8),
    "other": Mark("other start", PURPLE, "triangle-up", "^", size=10, faint=0.6),
}


def hover_text(row: pd.Series[Any], objectives: Sequence[Objective]) -> str:
    """Describe a trial in HTML.

    It has origin, number of runs, objectives, known figures (without those of single data sets) and budget.
    """
    runs = "" if runs_in(row) == 1 else f", mean of {runs_in(row)} runs"
    about = f"trial {row.get('trial_id', '?')} (number {row.get('number', '?')}, {row['origin']}{runs})"
    lines = [f"<b>{html.escape(printable(about))}</b>"]
    for name in dict.fromkeys([*names_of(objectives), *(figure.name for figure in figures())]):
        value = row.get(name)
        if is_finite(value):
            lines.append(f"{html.escape(name)}: {labels.text(name, float(value))}{_interval(row, name)}")
    for family, kept in row.items():
        if isinstance(kept, (list, tuple, np.ndarray)) and all(map(is_finite, kept)):  # budgets
            counts = [str(int(count)) for count in kept]
            lines.append(f"{html.escape(str(family))}:")
            lines += ["  " + " ".join(counts[i : i + 12]) for i in range(0, len(counts), 12)]
    return "<br>".join(lines)


def _interval(row: pd.Series[Any], name: str) -> str:
    low, high = (row.get(f"{name}_{end}", np.nan) for end in ("lo", "hi"))
    images = f" (95 %: {low:.4g} to {high:.4g})" if np.isfinite(low) and np.isfinite(high) else ""
    seeds = None if labels.is_cost(name) else seed_interval(row, name)
    return images if seeds is None else f"{images} (95 % over seeds: {seeds[0]:.4g} to {seeds[1]:.4g})"
