"""Write a front as tables (CSV, Markdown) and pictures (PNG, SVG, an interactive page)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medcore.quality.catalogue import cost_shares, known_costs
from medcore.quality.figures import FIGURES
from results.pages import markdown
from results.pages.markdown import plain
from results.pages.noise import noise_sentences
from results.plots.front import save_front
from results.stats.choices import schedule_summary
from results.stats.columns import SEEDS
from results.stats.labels import NOT_RECOVERED, column_title, short_title, title
from results.stats.objectives import names_of
from results.stats.seed_noise import runs_in, seed_interval
from results.store.files import write_by_rename
from results.store.front import Front
from results.store.latency import timed_on
from results.store.trial_row import TrialRow

#: Measured figures that a table has if a member was timed.
_TIMES = ("latency_ms", "latency_ms_fraction", "encoder_ms_fraction", "peak_mb")


def write_front(front: Front, trials: pd.DataFrame, out: Path) -> list[Path]:
    """Write `front.csv`, `front.md`, `front.html`, `front.png` and `front.svg`.

    Args:
        front: What is written.
        trials: All trials of the study, for the pictures.
        out: Folder.

    Returns:
        The files.
    """
    objectives, reference = front.info.objectives, front.info.reference
    table = front_cells(front)
    corner = ", ".join(f"{name} {reference[name]:.4g}" for name in names_of(objectives))
    lines = [
        markdown.table([*map(plain, table)], [[*map(plain, cells)] for cells in table.itertuples(index=False)]),
        "",
        f"{len(front.records)} of {front.done} trials are on the front, {front.not_done}. "
        f"Hypervolume {front.hypervolume:.4g} to the reference {plain(corner)}.",
        *(line for sentence in noise_sentences(front) for line in ("", plain(sentence))),
    ]
    if device := timed_on(front.members):
        lines += ["", f"Time and memory: one image and box a call, on {plain(device)}."]
    write_by_rename(out / "front.csv", front_numbers(front).to_csv(index=False, float_format="%.6g").encode())
    write_by_rename(out / "front.md", ("\n".join(lines) + "\n").encode())
    pictures = save_front(trials, objectives, out, f"Pareto front of {front.info.name}")
    return [out / "front.csv", out / "front.md", *pictures]


def front_numbers(front: Front) -> pd.DataFrame:
    """Return the front's members and the dense model as numbers.

    Costs and widths are shares, quality comes with its intervals over images. Time and memory are there if a member was
    timed, the number of runs and intervals over them if a member is repeated.
    """
    costs, times, families = known_costs(front.info.dense), _times(front), _families(front)
    figures = [*costs, *times, *front.quality]
    rows = [_row(member, front, figures) for member in front.members]
    dense: dict[str, Any] = {"trial": "", "origin": NOT_RECOVERED, "chose": ""} | dict.fromkeys(families, 1.0)
    rows.append(dense | {name: front.info.dense.get(name, np.nan) for name in figures})
    table = pd.DataFrame(rows)
    ends = [*(f"{name}_{end}" for name in front.quality for end in ("lo", "hi")), SEEDS, *_seed_ends(front.quality)]
    known = [name for name in ends if name in table]
    return table[["trial", "origin", *costs, *times, *families, *front.quality, *known, "chose"]]


def front_cells(front: Front) -> pd.DataFrame:
    """Return the same as text for people.

    The interval over images follows its figure, that over seeds has a column. Columns have the titles of a table.
    """
    table, families = front_numbers(front), _families(front)
    titles = {name: short_title(name) for name in (*cost_shares(), *_TIMES)}
    titles |= {"trial": "trial", "origin": "origin"} | {name: f"{name} kept" for name in families}
    titles |= {name: column_title(name) for name in front.quality} | {"chose": "chose"}
    if not table["chose"].any():
        del titles["chose"]
    repeated = [name for name in front.quality if f"{name}_seed_lo" in table]
    shares = {*cost_shares(), *families, *(name for name in _TIMES if FIGURES[name].kind == "share")}
    rows = [
        {titles[name]: _cell(row[name], name in shares) + _interval(row, name) for name in row if name in titles}
        | ({"runs": _count(row[SEEDS])} if repeated else {})
        | {f"{title(name)}, seeds 95 %": _interval(row, f"{name}_seed").strip(" ()") or "–" for name in repeated}
        for row in table.to_dict("records")
    ]
    return pd.DataFrame(rows)


def _families(front: Front) -> list[str]:
    return [family.name for family in front.info.prunable()]


def _times(front: Front) -> list[str]:
    return [*_TIMES] if timed_on(front.members) else []


def _row(member: TrialRow, front: Front, figures: Sequence[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"trial": member.trial_id, "origin": member.origin, "chose": schedule_summary(member)}
    row |= {family: front.info.share(family, member.budget[family]) for family in _families(front)}
    row |= {name: member.metrics.get(name) for name in figures}
    ends = [f"{name}_{end}" for name in figures for end in ("lo", "hi")]
    row |= {name: member.metrics[name] for name in ends if name in member.metrics}
    if not any(runs_in(each.metrics) > 1 for each in front.members):
        return row
    intervals = [seed_interval(member.metrics, name) or (np.nan, np.nan) for name in front.quality]
    numbers = [end for interval in intervals for end in interval]
    return row | {SEEDS: runs_in(member.metrics)} | dict(zip(_seed_ends(front.quality), numbers, strict=True))


def _seed_ends(names: Sequence[str]) -> list[str]:
    return [f"{name}_seed_{end}" for name in names for end in ("lo", "hi")]


def _count(runs: float) -> str:
    return "–" if np.isnan(runs) else f"{runs:.0f}"


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
