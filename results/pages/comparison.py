"""Write a comparison of fronts as CSV, Markdown, PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from results.pages.markdown import plain, row
from results.plots.pictures import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, STYLE, VERMILION, save
from results.stats import labels
from results.stats.compare import COST, Candidates, comparison_cells, comparison_note
from results.stats.objectives import Objective
from results.stats.pareto import front_table, knee, objective_losses
from results.store.files import write_by_rename


def write_comparison(studies: Sequence[Candidates], quality: Objective, table: pd.DataFrame, out: Path) -> list[Path]:
    """Write `comparison.csv`, `.md`, `.png` and `.svg`.

    Args:
        studies: The compared studies.
        quality: What is compared.
        table: What `compare_fronts` gives.
        out: Folder.

    Returns:
        The files.
    """
    files = [out / f"comparison.{ending}" for ending in ("csv", "md", "png", "svg")]
    write_by_rename(files[0], table.to_csv(index=False, float_format="%.6g").encode())
    head, *rows = comparison_cells(studies, quality, table)
    cells = ([plain(cell) for cell in line] for line in rows)
    lines = [row([*map(plain, head)]), "|" + "--:|" * len(head), *map(row, cells), ""]
    lines.append(plain(comparison_note(quality, table)))
    write_by_rename(files[1], ("\n".join(lines) + "\n").encode())
    _draw(studies, quality, files[2], files[3])
    return files


def _draw(studies: Sequence[Candidates], quality: Objective, *paths: Path) -> None:
    """Draw all fronts in one panel; rings mark the knees, as in the picture of a front."""
    lower = quality.lower_is_better
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        ax = figure.subplots()
        colours = cycle((BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, GREY))
        for study, colour in zip(studies, colours, strict=False):
            front = front_table(study.trials, study.objectives)
            best = front.sort_values([COST, quality.name], ascending=[True, lower])
            running = best[quality.name].cummin() if lower else best[quality.name].cummax()
            ax.step(100 * best[COST], running, where="post", color=colour, lw=1.6, label=study.name)
            ax.plot(100 * front[COST], front[quality.name], "o", color=colour, ms=4)
            if len(front):
                middle = front.iloc[knee(objective_losses(front, study.objectives))]
                ax.plot(100 * middle[COST], middle[quality.name], "o", mfc="none", mec=BLACK, ms=12, mew=1.1)
        values = [value for study in studies for value in study.trials[quality.name]]
        ax.set(xlabel=labels.axis(COST, 1, True)[1], ylabel=labels.axis(quality.name, values, lower)[1], xscale="log")
        for axis in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
            axis("{x:g}")
        ax.tick_params(axis="x", which="minor", labelsize=7)
        ax.set_title("Points off a line are on the front by other objectives", fontsize=8, color=GREY, loc="left")
        ring = Line2D([], [], marker="o", ms=9, mfc="none", mec=BLACK, ls="", label="knee")
        ax.legend(handles=[*ax.get_legend_handles_labels()[0], ring], loc="best")
        save(figure, *paths)
