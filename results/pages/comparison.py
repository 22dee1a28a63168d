"""Write a comparison of fronts as CSV, Markdown, PNG and SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from results.pages.markdown import plain, row
from results.plots.pictures import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, STYLE, VERMILION, save
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


def _draw(studies: Sequence[Candidates], quality: Objective, png: Path, svg: Path) -> None:
    """Draw all fronts in one panel; stars mark the knees."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        ax = figure.subplots()
        colours = cycle((BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY, GREY))
        for study, colour in zip(studies, colours, strict=False):
            front = front_table(study.trials, study.objectives)
            best = front.sort_values([COST, quality.name], ascending=[True, not quality.lower_is_better])
            running = best[quality.name].cummin() if quality.lower_is_better else best[quality.name].cummax()
            ax.step(100 * best[COST], running, where="post", color=colour, lw=1.6, label=study.name)
            ax.plot(100 * front[COST], front[quality.name], "o", color=colour, ms=4)
            if len(front):
                middle = front.iloc[knee(objective_losses(front, study.objectives))]
                ax.plot(100 * middle[COST], middle[quality.name], "*", color=colour, ms=13, mec="black", mew=0.6)
        ax.set(xlabel="FLOPs left (% of dense)", ylabel=labels.arrow_title(quality.name), xscale="log")
        for axis in (ax.xaxis.set_major_formatter, ax.xaxis.set_minor_formatter):
            axis("{x:g}")
        ax.tick_params(axis="x", which="minor", labelsize=7)
        ax.set_title("Points below a line are on the front by other objectives", fontsize=8, color=GREY, loc="left")
        ax.legend(loc="best", title="★ knee")
        save(figure, png)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        write_by_rename(svg, buffer.getvalue())
