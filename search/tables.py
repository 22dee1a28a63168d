"""Results as rich tables, for people at a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from results.labels import METRICS, text

_QUALITY = ("dice", "iou", "boundary_f1", "hd95", "nsd", "assd")


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
    """The Pareto front, cheapest first, closed by the dense model."""
    names = [objective["name"] for objective in front["objectives"]]
    shown = ["flops_fraction", "flops_paper_fraction", *names]
    shown += [name for name in _QUALITY if name not in names]
    done = front["trials"] - front["failed"]
    table = Table(
        title=f"{front['study']}: {len(front['front'])} of {done} trials on the front "
        f"({front['failed']} failed), hypervolume {front['hypervolume']:.4g}"
    )
    for name in ("trial", "origin", "heads", "channels"):
        table.add_column(name)
    for name in shown:
        table.add_column(METRICS[name].title if name in METRICS else name, justify="right")
    for row in front["front"]:
        budget = [_budget(row["heads"]), _budget(row["channels"])]
        table.add_row(row["trial_id"], row["origin"], *budget, *(text(name, row[name]) for name in shown))
    dense = front["dense"]
    table.add_section()
    table.add_row("", "dense model", "", "", *(text(name, dense[name]) for name in shown))
    return table


def _budget(counts: list[int]) -> str:
    return " ".join(str(count) for count in counts)
