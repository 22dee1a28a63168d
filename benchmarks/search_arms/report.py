"""The benchmark's report: a table for readers, one for programs, and the picture."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from benchmarks.search_arms.arms import ARMS
from benchmarks.search_arms.figures import (
    REFERENCE,
    best_within,
    front_at,
    front_volume,
    regret,
    smallest_share,
    t_interval,
    volumes_at,
)
from benchmarks.search_arms.measured import Record
from results.plots.pictures import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, STYLE, VERMILION, save
from results.store.files import write_by_rename

#: Shares of the cost at which the table shows the best model.
SHARES = (0.05, 0.08, 0.1, 0.15, 0.3)
#: Shares between which the regret is measured.
ENDS = (0.05, 0.6)
#: Share of the recovered dense model's Boundary F1 that a model keeps.
KEPT = 0.99
_MOMENTS = 200
_AT = {share: f"boundary_f1_at_{100 * share:g}" for share in SHARES}


@dataclass(frozen=True)
class Setting:
    """What was measured.

    Attributes:
        name: Name of the configuration.
        seconds: Processor seconds of each arm.
        seeds: Number of seeds.
        steps: Recovery steps.
        trials: Trials for which samplers plan.
        machine: The hardware.
        git: Revision of the code.
        parts: Processor seconds of the statistics by part.
        dense: Boundary F1 of the recovered dense model by seed, on the report images.
    """

    name: str
    seconds: float
    seeds: int
    steps: int
    trials: int
    machine: str
    git: str
    parts: Mapping[str, float]
    dense: Mapping[int, float]


def table_of(records: Sequence[Record], setting: Setting) -> pd.DataFrame:
    """Return one row per arm and seed, with all figures after the seconds of the setting."""
    return pd.DataFrame([_row(record, setting) for record in records])


def _row(record: Record, setting: Setting) -> dict[str, object]:
    front, dense = front_at(record.finished, setting.seconds), setting.dense[record.seed]
    return {
        "arm": record.arm,
        "seed": record.seed,
        "hypervolume": front_volume(front),
        "regret": regret(front, dense, *ENDS),
        "smallest_share": smallest_share(front, KEPT * dense),
        **{name: best_within(front, share) for share, name in _AT.items()},
        "front": len(front),
        "models": sum(each.seconds <= setting.seconds for each in record.finished),
        **{status: record.counts[status] for status in ("done", "stopped", "failed")},
        "statistics_seconds": record.charged,
        "seconds": record.spent,
        "dense": dense,
    }


def write_report(records: Sequence[Record], setting: Setting, out: Path) -> None:
    """Write `table.md`, `table.csv` and `hypervolume.png`.

    Raises:
        StorageError: A file cannot be written.
    """
    table = table_of(records, setting)
    write_by_rename(out / "table.csv", table.to_csv(index=False, float_format="%.6g").encode())
    write_by_rename(out / "table.md", markdown(table, setting).encode())
    hypervolume_png(records, setting.seconds, out / "hypervolume.png")


def markdown(table: pd.DataFrame, setting: Setting) -> str:
    """Return the report for readers."""
    parts = [_facts(setting), _figures(table), _qualities(table), _runs(table, setting)]
    if differences := _differences(table):
        parts.append(differences)
    return "\n\n".join(parts) + "\n"


def _facts(setting: Setting) -> str:
    seeds = "one seed" if setting.seeds == 1 else f"{setting.seeds} seeds"
    dense = [f"{value:.4f}" for value in setting.dense.values()]
    sentences = [
        f"Configuration `{setting.name}`, {setting.seconds:g} processor seconds for each arm and seed, {seeds}, one "
        f"thread, {setting.machine}, revision {setting.git}.",
        f"Each recovery has {setting.steps} steps. Samplers plan for {setting.trials} trials.",
        "The seconds include statistics, refits, recoveries, looks, the sampler, and evaluation on the search images. "
        "They do not include loading images, the evaluation on the report images, and the dense model's recovery.",
        "Seeds differ in the sampler and in the recoveries. Statistics and images are the same for all.",
        "A trial that has not ended when the seconds are used up does not count.",
        "The search images choose the front in share of `flops_paper` and Boundary F1. All figures of its models are "
        "from the report images. Repeated trials count by the mean over their runs.",
        f"The dense model after the same recovery has Boundary F1 {', '.join(dense)} (one value for each seed).",
    ]
    return "\n".join(sentences)


def _figures(table: pd.DataFrame) -> str:
    share, quality = REFERENCE
    low, high = ENDS
    lines = [
        f"Hypervolume counts from {share:g} of the cost and Boundary F1 {quality:g}; more is better.",
        f"Regret is the area between the dense model and the front over the natural logarithm of the share, from "
        f"{low:g} to {high:g}; less is better.",
        f"The last column is the smallest share with {KEPT:.0%} of the dense model's Boundary F1.",
        "Values are means over seeds, with the smallest and the largest value in brackets.",
        "",
        "| arm | hypervolume | regret | smallest share |",
        "|---|--:|--:|--:|",
    ]
    for arm, rows in _by_arm(table):
        shown = [spread_text(rows[name]) for name in ("hypervolume", "regret", "smallest_share")]
        lines.append(f"| {arm} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _qualities(table: pd.DataFrame) -> str:
    titles = " | ".join(f"≤ {share:.0%}" for share in SHARES)
    lines = [
        "Boundary F1 of the best model within a share of the cost:",
        "",
        f"| arm | {titles} |",
        f"|---|{'--:|' * len(SHARES)}",
    ]
    lines += [
        f"| {arm} | {' | '.join(spread_text(rows[name]) for name in _AT.values())} |" for arm, rows in _by_arm(table)
    ]
    return "\n".join(lines)


def _runs(table: pd.DataFrame, setting: Setting) -> str:
    parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in setting.parts.items() if seconds)
    lines = [
        f"Statistics took these processor seconds, once for all arms: {parts}. Each arm is charged for what it uses. "
        "Numbers of trials are sums over seeds.",
        "",
        "| arm | what it does | statistics, s | models in time | done | stopped | failed |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for arm, rows in _by_arm(table):
        counts = " | ".join(str(int(rows[name].sum())) for name in ("models", "done", "stopped", "failed"))
        lines.append(f"| {arm} | {ARMS[arm].text} | {rows['statistics_seconds'].mean():.0f} | {counts} |")
    return "\n".join(lines)


def _differences(table: pd.DataFrame) -> str:
    """Return the paired differences between the search and the other arms; empty without two arms or two seeds."""
    names = ["hypervolume", "regret", *_AT.values()]
    runs = {arm: rows.set_index("seed") for arm, rows in _by_arm(table)}
    own = runs.pop("search", None)
    if own is None or not runs or len(own) < 2:
        return ""
    titles = ["hypervolume", "regret", *(f"≤ {share:.0%}" for share in SHARES)]
    lines = [
        "`search` − arm, paired by seed: mean and 95 % interval by Student's t over seeds:",
        "",
        f"| arm | {' | '.join(titles)} |",
        f"|---|{'--:|' * len(titles)}",
    ]
    lines += [
        f"| {arm} | {' | '.join(_difference_text(own[name] - rows[name]) for name in names)} |"
        for arm, rows in runs.items()
    ]
    return "\n".join(lines)


def _difference_text(differences: pd.Series[float]) -> str:
    if differences.isna().any():
        return "–"
    mean, low, high = t_interval(differences.to_list())
    return f"{mean:+.4f} ({low:+.4f} … {high:+.4f})"


def spread_text(values: pd.Series[float]) -> str:
    """Return mean, smallest and largest value; say for how many seeds there is a value if one lacks it."""
    known = values.dropna()
    if known.empty:
        return "none"
    text = f"{known.mean():.4f}"
    if len(known) > 1:
        text += f" ({known.min():.4f}–{known.max():.4f})"
    return text if len(known) == len(values) else f"{text}, {len(known)} of {len(values)} seeds"


def _by_arm(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(arm), rows) for arm, rows in table.groupby("arm", sort=False)]


def hypervolume_png(records: Sequence[Record], seconds: float, path: Path) -> None:
    """Draw the hypervolume over processor seconds: the mean over seeds, and a band from the smallest to the largest."""
    moments = np.linspace(0.0, seconds, _MOMENTS)
    looks = itertools.product(("-", "--"), (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, GREY))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        ax = figure.subplots()
        for arm, (line, colour) in zip(dict.fromkeys(record.arm for record in records), looks, strict=False):
            volumes = np.array([volumes_at(each.finished, moments) for each in records if each.arm == arm])
            ax.plot(moments, volumes.mean(axis=0), color=colour, ls=line, lw=1.5, label=arm, drawstyle="steps-post")
            ax.fill_between(
                moments, volumes.min(axis=0), volumes.max(axis=0), color=colour, alpha=0.12, lw=0, step="post"
            )
        ax.set(xlabel="processor seconds", ylabel="hypervolume on the report images", xlim=(0, seconds))
        figure.legend(loc="outside lower center", ncols=4)
        save(figure, path)
