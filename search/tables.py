"""Results as rich tables, for people at a terminal of 80 columns and more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.table import Table

from results.labels import METRICS, text

_QUALITY = ("dice", "iou", "boundary_f1", "hd95", "nsd", "assd")
#: Column titles short enough for a narrow terminal.
_SHORT = {"flops": "FLOPs", "flops_paper": "FLOPs (paper)", "encoder_params": "params", "boundary_f1": "BF1"}


def evaluation_table(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """Models side by side: cost first, then quality."""
    table = Table(title="macro mean over data sets")
    table.add_column("")
    for name in models:
        table.add_column(name, justify="right")
    for metric in ("encoder_params", "flops", "flops_fraction", "flops_paper", "flops_paper_fraction", *_QUALITY):
        values = [model.get(metric) for model in models.values()]
        if any(value is not None for value in values):
            cells = ["" if value is None else text(metric, value) for value in values]
            table.add_row(METRICS[metric].title, *cells)
    return table


def front_table(front: Mapping[str, Any]) -> Table:
    """The Pareto front, cheapest first, closed by the dense model. Shares are of the dense encoder."""
    names = [objective["name"] for objective in front["objectives"]]
    quality = [name for name in (*names, "dice") if name not in ("flops_fraction", "flops_paper_fraction")]
    done = front["trials"] - front["failed"]
    table = Table(
        title=f"{front['study']}: {len(front['front'])} of {done} trials on the front "
        f"({front['failed']} failed), hypervolume {front['hypervolume']:.4g}"
    )
    table.add_column("trial")
    table.add_column("origin")
    for title in ("FLOPs left", "paper's count", "heads", "channels"):
        table.add_column(title, justify="right")
    for name in dict.fromkeys(quality):
        table.add_column(_SHORT.get(name, METRICS[name].title if name in METRICS else name), justify="right")
    dense = front["dense"]
    for row in front["front"]:
        shares = [f"{np.mean(row[family]) / front['widths'][family]:.0%}" for family in ("heads", "channels")]
        table.add_row(row["trial_id"], row["origin"], *_costs(row), *shares, *_cells(row, quality))
    table.add_section()
    table.add_row("", "dense model", *_costs(dense), "100%", "100%", *_cells(dense, quality))
    return table


def _costs(row: Mapping[str, Any]) -> list[str]:
    return [f"{row[name]:.1%}" for name in ("flops_fraction", "flops_paper_fraction")]


def _cells(row: Mapping[str, Any], names: list[str]) -> list[str]:
    return [text(name, row[name]).removesuffix(" FLOPs") for name in dict.fromkeys(names)]
