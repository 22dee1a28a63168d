"""How trials look in every picture of a study; every colour comes with a symbol."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from medcore.errors import printable
from results.plots.pictures import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from results.stats import labels
from results.stats.objectives import Objective, names_of
from results.stats.seed_noise import runs_in
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
    "dense": Mark(labels.RECOVERED, BLACK, "star", "*", size=15, faint=0.8),
    "average": Mark("averages of runs", SKY, "diamond-wide", "P", size=11, faint=0.6),
    "other": Mark("other start", PURPLE, "triangle-up", "^", size=10, faint=0.6),
}


#: Both counts of what is left of the FLOPs.
_BOTH = ("flops_fraction", "flops_paper_fraction")
#: Small and see-through, so that a label covers little.
HOVER: dict[str, Any] = {"bgcolor": "rgba(255,255,255,0.9)", "align": "left", "font": {"size": 11}}


def hover_text(row: pd.Series[Any], objectives: Sequence[Objective]) -> str:
    """Describe a trial in a few short lines of HTML, so that the label covers little of the picture.

    It has origin, number of runs, both counts of what is left of the FLOPs, the other objectives with their intervals
    over images, and the size of the budget.
    """
    about = [str(row.get("trial_id", "?")), str(row["origin"])]
    about += [] if runs_in(row) == 1 else [f"mean of {runs_in(row)} runs"]
    lines = [f"<b>{html.escape(printable(' · '.join(about)))}</b>", *_flops(row)]
    lines += [
        f"{html.escape(labels.title(name))}: {labels.text(name, float(row[name]))}{_interval(row, name)}"
        for name in _others(row, objectives)
    ]
    for family, kept in row.items():
        if isinstance(kept, (list, tuple, np.ndarray)) and len(kept) and all(map(is_finite, kept)):  # budgets
            few, many, whole = (int(count) for count in (min(kept), max(kept), sum(kept)))
            lines.append(f"{html.escape(str(family))}: {whole} kept, {few} to {many} a block")
    return "<br>".join(lines)


def _flops(row: pd.Series[Any]) -> list[str]:
    """Return one line with both counts of what is left of the FLOPs; none if neither is known."""
    known = [name for name in _BOTH if is_finite(row.get(name))]
    headings = [labels.title(known[0]), *map(labels.short_title, known[1:])] if known else []
    shares = [f"{head} {float(row[name]):.1%}" for head, name in zip(headings, known, strict=True)]
    return [", ".join(shares)] if shares else []


def _others(row: pd.Series[Any], objectives: Sequence[Objective]) -> list[str]:
    """Return the objectives that the line on FLOPs does not state."""
    names = names_of(objectives)
    shares = {name: labels.share_of_dense(name) for name in names}
    stated = {name for name, share in shares.items() if share in _BOTH and is_finite(row.get(share))}
    return [name for name in names if name not in stated and is_finite(row.get(name))]


def _interval(row: pd.Series[Any], name: str) -> str:
    low, high = (row.get(f"{name}_{end}", np.nan) for end in ("lo", "hi"))
    return f" (95 %: {low:.3g} to {high:.3g})" if np.isfinite(low) and np.isfinite(high) else ""
