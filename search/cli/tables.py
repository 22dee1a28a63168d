"""Results as rich tables, for people at a terminal of 80 columns and more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from results.stats.choices import chose, differ
from results.stats.labels import LATENCY, METRICS, is_cost, text
from results.store.latency import Record, dense_columns, figures, suffix, timed_on

_ABSENT = "–"
_QUALITY = ("dice", "iou", "boundary_f1", "hd95", "nsd", "assd")


def evaluation_table(models: Mapping[str, Mapping[str, Any]]) -> Table:
    """Models side by side: cost first, then quality."""
    table = Table(title="macro mean over data sets")
    table.add_column("")
    for name in models:
        table.add_column(escape(name), justify="right")
    for metric in ("encoder_params", "flops", "flops_fraction", "flops_paper", "flops_paper_fraction", *_QUALITY):
        values = [model.get(metric) for model in models.values()]
        if any(value is not None for value in values):
            cells = ["" if value is None else text(metric, value) for value in values]
            table.add_row(METRICS[metric].title, *cells)
    return table


def front_view(front: Mapping[str, Any]) -> Group:
    """The front, and below it what its members chose and how long they take."""
    return Group(*filter(None, (front_table(front), choices_table(front), times_table(front))))


def front_table(front: Mapping[str, Any]) -> Table:
    """The Pareto front, cheapest first, closed by the dense model. Shares are of the dense encoder."""
    names = [objective["name"] for objective in front["objectives"]]
    # the two FLOPs shares stand for every cost figure, which would be too wide here
    quality = [name for name in dict.fromkeys((*names, "dice")) if not is_cost(name)]
    done = front["trials"] - front["failed"]
    table = Table(
        title=f"{escape(front['study'])}: {len(front['front'])} of {done} trials on the front "
        f"({front['failed']} failed), hypervolume {front['hypervolume']:.4g}",
        caption="FLOPs: left of the dense encoder's, as they run and by the paper's count; heads, channels: kept",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("trial", no_wrap=True)
    table.add_column("origin", no_wrap=True)
    for title in ("FLOPs", "paper", "heads", "channels", *(_title(name) for name in quality)):
        table.add_column(title, justify="right")
    dense = front["dense"]
    for row in front["front"]:
        shares = [f"{np.mean(row[family]) / front['widths'][family]:.0%}" for family in ("heads", "channels")]
        table.add_row(row["trial_id"], row["origin"], *_costs(row), *shares, *_cells(row, quality))
    table.add_section()
    table.add_row("", "dense model", *_costs(dense), "100%", "100%", *_cells(dense, quality))
    return table


def choices_table(front: Mapping[str, Any]) -> Table | None:
    """What each member of the front chose besides its budget; None where all chose the same."""
    if not differ(front["front"]):
        return None
    table = Table(title="criterion and schedule", box=SIMPLE_HEAD, pad_edge=False)
    for title in ("trial", "chose"):
        table.add_column(title)
    for row in front["front"]:
        table.add_row(row["trial_id"], chose(row))
    return table


def times_table(front: Mapping[str, Any]) -> Table | None:
    """Measured time and memory beside the FLOPs, one image a call; None where no member was measured."""
    names = ("flops_fraction", *LATENCY)
    device = timed_on(front)
    if device is None:
        return None
    table = Table(
        title="time and memory, one image and box a call", caption=escape(device), box=SIMPLE_HEAD, pad_edge=False
    )
    for title in ("trial", "FLOPs", "call (ms)", "left", "encoder (ms)", "left", "peak (MB)"):
        table.add_column(title, justify="left" if title == "trial" else "right")
    for row in front["front"]:
        table.add_row(row["trial_id"], *_figures(row, names))
    table.add_section()
    table.add_row("dense model", *_figures(front["dense"], names))
    return table


def latency_table(records: Sequence[Record]) -> Table:
    """Records of one set-up, closed by the dense model, as the median over its turns with the others."""
    table = Table(
        title="time and memory: median (interquartile range), and what is left of the dense model's",
        caption=escape(str(records[0].setup)),
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("model", overflow="fold")
    for title in ("batch", "FLOPs", "call (ms)", "left", "encoder (ms)", "left", "MB"):
        table.add_column(title, justify="right", no_wrap=True)
    for record in records:
        row = figures(record.batch, record.model, record.dense)
        table.add_row(escape(record.trial_id), *_times(record.batch, record.flops_fraction, row))
    table.add_section()
    dense = dense_columns(records)
    for batch in sorted({record.batch for record in records}):
        table.add_row("dense", *_times(batch, 1.0, dense))
    return table


def leverage_table(result: Mapping[str, Any]) -> Table:
    """Head steps against MLP steps at each τ (method §8)."""
    table = Table(
        title=f"{result['architecture']}, {result['allocator']} budgets, {result['images']} images: "
        f"{result['steps']} steps, {result['skipped_steps']} skipped",
        caption="ratios: median of head steps over median of MLP steps; win rate: grid points where heads lead",
    )
    for title in ("τ (px)", "BLR95", "RLR", "BSR", "win rate"):
        table.add_column(title, justify="right")
    for tau, found in result["tau"].items():
        ratios = ["–" if found[key] is None else f"{found[key]:.3f}" for key in ("blr95", "rlr", "bsr")]
        wins = "–" if found["win_rate"] is None else f"{found['win_rate']:.0%} of {found['grid_points']}"
        table.add_row(tau, *ratios, wins)
    return table


def _times(batch: int, flops_fraction: float, row: Mapping[str, float]) -> list[str]:
    end = suffix(batch)
    cells = [str(batch), f"{flops_fraction:.1%}"]
    for name in ("latency_ms", "encoder_ms"):
        cells += [f"{row[name + end]:.4g} ({row[f'{name}_iqr{end}']:.3g})", f"{row[f'{name}_fraction{end}']:.1%}"]
    return [*cells, f"{row[f'peak_mb{end}']:.1f}"]


def _figures(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    values = [row.get(name) for name in names]
    shares = [METRICS[name].kind == "share" for name in names]
    return [
        _ABSENT if value is None else f"{value:.1%}" if share else f"{value:.4g}"
        for value, share in zip(values, shares, strict=True)
    ]


def _costs(row: Mapping[str, Any]) -> list[str]:
    shares = (row.get(name) for name in ("flops_fraction", "flops_paper_fraction"))
    return [_ABSENT if share is None else f"{share:.1%}" for share in shares]


def _title(name: str) -> str:
    metric = METRICS.get(name)
    return name if metric is None else f"{metric.title} ({metric.unit})" if metric.unit else metric.title


def _cells(row: Mapping[str, Any], names: list[str]) -> list[str]:
    values = (row.get(name) for name in names)
    return [_ABSENT if value is None else f"{value:.4f}" if abs(value) < 1 else f"{value:.4g}" for value in values]
