"""How trials look in every interactive picture of a study; every colour has a symbol beside it."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from results.plots.pictures import BLACK, BLUE, GREEN, PURPLE, VERMILION
from results.stats import labels
from results.stats.pareto import Objective


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


def hover_text(row: pd.Series[Any], objectives: Sequence[Objective]) -> str:
    """Trial, origin, objectives, the known metrics (without those of single data sets), budgets; HTML."""
    about = f"trial {row.get('trial_id', '?')} (number {row.get('number', '?')}, {row['origin']})"
    lines = [f"<b>{html.escape(about)}</b>"]
    for name in dict.fromkeys([*(objective["name"] for objective in objectives), *labels.METRICS]):
        value = row.get(name)
        if isinstance(value, (int, float, np.number)) and np.isfinite(value):
            lines.append(f"{html.escape(name)}: {labels.text(name, float(value))}{_interval(row, name)}")
    for family in ("heads", "channels"):
        if isinstance(row.get(family), (list, tuple, np.ndarray)):
            counts = [str(int(count)) for count in row[family]]
            lines += [f"{family}:", *("  " + " ".join(counts[i : i + 12]) for i in range(0, len(counts), 12))]
    return "<br>".join(lines)


def _interval(row: pd.Series[Any], name: str) -> str:
    low, high = (row.get(f"{name}_{end}", np.nan) for end in ("lo", "hi"))
    return f" (95 %: {low:.4g} to {high:.4g})" if np.isfinite(low) and np.isfinite(high) else ""
