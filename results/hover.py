"""What an interactive picture tells of the trial under the pointer."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from results import labels
from results.front import Objective


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
