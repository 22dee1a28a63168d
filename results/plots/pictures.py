"""Pictures for papers: the shared style, the budgets of a front's members, the hypervolume over trials."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from medcore.errors import printable
from results.plots.panels import NothingToDraw, origin_kind
from results.stats import labels
from results.stats.objectives import Objective
from results.stats.pareto import hypervolume, hypervolume_trace, objective_losses, reference_losses
from results.store.files import write_by_rename
from results.store.study_info import FamilyTitle, StudyInfo, earlier_families

# Okabe and Ito's colour-blind-safe palette
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, YELLOW, GREY = "#0072B2", "#D55E00", "#CC79A7", "#F0E442", "#777777"

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 10,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "savefig.dpi": 200,
}


def budget_picture(front: pd.DataFrame, path: Path, info: StudyInfo) -> None:
    """Draw which share of its groups each site keeps (PNG).

    There is a panel for each family and a line for each row of `front`.

    Args:
        front: Members; each family is a column with one count a site.
        path: The file.
        info: Families and widths of the dense model.

    Raises:
        NothingToDraw: No member records its budget.
        StorageError: The file cannot be written.
    """
    families = info.prunable()
    columns = [family.name for family in families]
    rows = front.dropna(subset=columns) if {*columns} <= {*front} else front.iloc[:0]
    if rows.empty:
        raise NothingToDraw(f"nothing to draw: no trial on the front records its budget ({', '.join(columns)})")
    counts = {name: np.array(rows[name].tolist(), dtype=np.float64) for name in columns}  # (members, sites) each
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        widths = [max(2.6, 0.26 * counts[name].shape[1]) for name in columns]
        figure = Figure(figsize=(2.8 + sum(widths), 1.5 + 0.26 * len(rows)), layout="constrained")
        axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        for ax, family in zip(axes, families, strict=True):
            image = _draw_budget(ax, family, counts[family.name], info.widths[family.name])
        names = [_member_name(row) for _, row in rows.iterrows()]
        axes[0].set_yticks(range(len(names)), names, fontsize=7, family="monospace")
        if len(names) > 1:  # a single row is lower than these words
            axes[0].set_ylabel("Trial and FLOPs left")
        figure.colorbar(image, ax=axes, label="Kept (%); × marks none", shrink=min(1.0, 0.5 + 2 / len(rows)), pad=0.02)
        save(figure, path)


def hypervolume_picture(
    df: pd.DataFrame, objectives: Sequence[Objective], reference: Mapping[str, float], path: Path
) -> None:
    """Draw the hypervolume after each trial (PNG), in per cent of the last one's.

    Its own unit would mean nothing to a reader. Starting points, which are no search yet, are marked, and their
    level is drawn on.

    Args:
        df: Trials.
        objectives: What was optimised.
        reference: The hypervolume's reference point, natural values by objective.
        path: The file.

    Raises:
        NothingToDraw: There is no volume.
        StorageError: The file cannot be written.
    """
    ordered = df.sort_values("number").reset_index(drop=True)
    corner = reference_losses(reference, objectives)
    trace = hypervolume_trace(objective_losses(ordered, objectives), corner)
    if not len(trace) or trace[-1] <= 0:
        raise NothingToDraw("nothing to draw: no trial is better than the hypervolume's reference point")
    share, ended = 100 * trace / trace[-1], np.arange(1, len(trace) + 1)
    origins = ordered["origin"] if "origin" in ordered else pd.Series("sampled", index=ordered.index)
    starts = ~origins.map(origin_kind).isin(("sampled", "average")).to_numpy(dtype=bool)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        ax = figure.subplots()
        ax.step(ended, share, where="post", color=BLUE, lw=1.8, label="all trials so far")
        if starts.any():
            alone = hypervolume(objective_losses(ordered[starts], objectives), corner)
            ax.plot(ended[starts], share[starts], "s", color=ORANGE, ms=4.5, label="starting points")
            ax.axhline(100 * alone / trace[-1], color=ORANGE, lw=1, ls=(0, (4, 3)), label="what they reach alone")
        ax.set(xlabel="Trials ended", ylabel="Hypervolume (% of the last)", xlim=(0, len(trace) + 1))
        seen = share[share > 0]
        ax.set_ylim(max(0.0, float(seen.min()) - 2), 101)
        ax.legend(loc="lower right")
        save(figure, path)


#: What a file must not name, so that equal pictures are equal files: matplotlib's version and the date.
_UNNAMED: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
}


def save(figure: Figure, *paths: Path) -> None:
    """Write a figure by rename, as PNG or SVG by the ending of each path; equal pictures are equal files."""
    show_as_is(figure)
    for path in paths:
        buffer = io.BytesIO()
        # names of an SVG's parts are drawn by chance without a salt
        with mpl.rc_context({"svg.hashsalt": "medcore"}):
            figure.savefig(buffer, format=path.suffix[1:], metadata=_UNNAMED[path.suffix])
        write_by_rename(path, buffer.getvalue())


def show_as_is(figure: Figure) -> None:
    """Let the texts of a figure, which hold names out of files, be neither formulas nor control codes.

    Labels of ticks have no text before the figure is drawn, so those of a logarithmic axis stay formulas.
    """
    for words in figure.findobj(Text):
        if isinstance(words, Text) and words.get_text():
            words.set_text(printable(words.get_text(), keep="\n"))
            words.set_parse_math(False)


def _draw_budget(ax: Axes, family: FamilyTitle, counts: npt.NDArray[np.float64], dense: int | Sequence[int]) -> Any:
    """Draw one family's counts (members, sites) as shares; return the image."""
    shares = 100 * counts / np.maximum(np.asarray(dense), 1)
    sites = counts.shape[1]
    label = "Encoder block" if family in earlier_families() else "Block"
    image = ax.imshow(shares, cmap="cividis", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    ax.set(title=family.title, xlabel=label, xticks=range(0, sites, 1 if sites <= 16 else 4))
    for member, site in np.argwhere(counts == 0):
        ax.text(site, member, "×", ha="center", va="center", color="white", fontsize=8)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return image


def _member_name(row: pd.Series[Any]) -> str:
    """Return the start of the trial's id, and the FLOPs that are left."""
    for name in ("flops_fraction", "flops_paper_fraction", "flops"):
        if pd.notna(row.get(name)):
            cost = labels.text(name, float(row[name])).partition(" of")[0]
            return f"{str(row['trial_id'])[:10]} {cost:>7}"
    return str(row["trial_id"])[:10]
