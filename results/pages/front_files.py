"""A front as files for people and programs: CSV, Markdown, PNG."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.plots.front import save_front_png
from results.stats.choices import chose
from results.stats.labels import METRICS, is_cost
from results.store.files import write_by_rename
from results.store.latency import timed_on

_COSTS = ("flops_fraction", "flops_paper_fraction", "encoder_params_fraction")
_TIMES = {
    "latency_ms": "call (ms)",
    "latency_ms_fraction": "time of a call left",
    "encoder_ms_fraction": "time of the encoder left",
    "peak_mb": "peak memory (MB)",
}


def write_front(front: Mapping[str, Any], trials: pd.DataFrame, out: Path) -> list[Path]:
    """Write `front.csv`, `front.md` and `front.png` into `out`. Returns the files.

    Args:
        front: what `search.commands.front.front` returns. trials: all trials of the study, for the picture.
    """
    names = [objective["name"] for objective in front["objectives"]]
    table = front_cells(front)
    lines = [f"| {' | '.join(map(str, table))} |", "|" + "---|" * len(table.columns)]
    lines += [f"| {' | '.join(cells)} |" for cells in table.itertuples(index=False)]
    done = front["trials"] - front["failed"]
    lines += ["", f"{len(front['front'])} of {done} trials are on the front, {front['failed']} failed. Hypervolume "
              f"{front['hypervolume']:.4g} to the reference "
              + ", ".join(f"{name} {front['reference'][name]:.4g}" for name in names) + "."]  # fmt: skip
    if device := timed_on(front):
        lines += ["", f"Time and memory: one image and box a call, on {device}."]
    write_by_rename(out / "front.csv", front_numbers(front).to_csv(index=False, float_format="%.6g").encode())
    write_by_rename(out / "front.md", ("\n".join(lines) + "\n").encode())
    save_front_png(trials, front["objectives"], out / "front.png", title=f"Pareto front of {front['study']}")
    return [out / name for name in ("front.csv", "front.md", "front.png")]


def front_numbers(front: Mapping[str, Any]) -> pd.DataFrame:
    """The front's members and the dense model as numbers: costs and widths as shares, quality with its intervals.

    Time and memory are there if a member was measured.
    """
    quality, times = _quality(front), [*_TIMES] if timed_on(front) else []
    rows = [_row(member, front["widths"], [*times, *quality]) for member in front["front"]]
    dense = {"trial": "", "origin": "dense model", "heads": 1.0, "channels": 1.0, "chose": ""}
    rows.append(dense | {name: front["dense"].get(name, np.nan) for name in (*_COSTS, *times, *quality)})
    table = pd.DataFrame(rows)
    ends = [f"{name}_{end}" for name in quality for end in ("lo", "hi") if f"{name}_{end}" in table]
    return table[["trial", "origin", *_COSTS, *times, "heads", "channels", *quality, *ends, "chose"]]


def front_cells(front: Mapping[str, Any]) -> pd.DataFrame:
    """The same as text for people: an interval stands beside its figure, titles are those of a table's head."""
    table, quality = front_numbers(front), _quality(front)
    titles = dict(zip(_COSTS, ("FLOPs left", "by the paper's count", "parameters left"), strict=True))
    titles |= {"trial": "trial", "origin": "origin", "heads": "heads kept", "channels": "channels kept"} | _TIMES
    titles |= {name: METRICS[name].title if name in METRICS else name for name in quality} | {"chose": "chose"}
    if not table["chose"].any():
        del titles["chose"]
    shares = {*_COSTS, "heads", "channels", *(name for name in _TIMES if METRICS[name].kind == "share")}
    rows = [
        {titles[name]: _cell(row[name], name in shares) + _interval(row, name) for name in row if name in titles}
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(rows)


def _quality(front: Mapping[str, Any]) -> list[str]:
    names = [objective["name"] for objective in front["objectives"]]
    return [name for name in dict.fromkeys((*names, "dice")) if not is_cost(name)]


def _row(member: Mapping[str, Any], widths: Mapping[str, int], quality: list[str]) -> dict[str, Any]:
    kept = {family: float(np.mean(member[family])) / widths[family] for family in ("heads", "channels")}
    values = {name: member.get(name) for name in (*_COSTS, *quality)}
    values |= {key: member[key] for name in quality for key in (f"{name}_lo", f"{name}_hi") if key in member}
    return {"trial": member["trial_id"], "origin": member["origin"], "chose": chose(member)} | kept | values


def _cell(value: Any, share: bool) -> str:
    if isinstance(value, str):
        return value
    if value is None or np.isnan(value):
        return "–"
    return f"{value:.1%}" if share else f"{value:.4f}" if abs(value) < 1 else f"{value:.4g}"


def _interval(row: Mapping[Any, Any], name: str) -> str:
    low, high = (row.get(f"{name}_{end}") for end in ("lo", "hi"))
    if low is None or high is None or np.isnan([low, high]).any():
        return ""
    return f" ({_cell(low, False)} to {_cell(high, False)})"
