"""Claim: less than 5 % of a search's time is spent outside of scoring, pruning, recovery and evaluation.

From the rows of a finished study: what each trial's parts took, and the time that its workers spent from the end of one
trial to the start of the next.

    python -m benchmarks.where_time_goes runs/polyps
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from medcore.errors import MedcoreError
from results.store.trial_row import TrialRow
from results.store.trials import all_rows

#: What a search is for. Leverage is evaluated too, on the calibration images, before a trial prunes anything.
WANTED = ("scoring", "pruning", "recovery", "evaluation", "leverage")


def between(rows: Sequence[TrialRow]) -> dict[str, float]:
    """Seconds of all workers: between trials, and at the end during the last trials of others.

    A trial is taken to have run where the trial before it ended last. A pause of more than ten times the median trial
    is a search that stood still, and is left out.
    """
    spans = sorted(_span(row) for row in rows)
    limit = 10 * float(np.median([end - start for start, end in spans]))
    free: list[float] = []  # when each worker became free
    gaps = []
    for start, end in spans:
        waiting = [moment for moment in free if moment <= start]
        if waiting:
            gaps.append(start - max(waiting))
            free.remove(max(waiting))
        free.append(end)
    return {"between trials": sum(gap for gap in gaps if gap < limit), "at the end": sum(max(free) - t for t in free)}


def within(rows: Sequence[TrialRow]) -> dict[str, float]:
    """Seconds of all trials, by part; `rest` is what a trial did outside of them.

    Raises `MedcoreError` for rows that do not say.
    """
    names = {name for row in rows for name in row.timing.stages}
    if not names:
        raise MedcoreError("the rows of this study do not say where their time went; search again")
    parts = {name: sum(row.timing.stages.get(name, 0.0) for row in rows) for name in names}
    whole = sum(end - start for start, end in map(_span, rows))
    return parts | {"rest": whole - sum(parts.values())}


def _span(row: TrialRow) -> tuple[float, float]:
    """Return start and end of a trial in seconds."""
    start, end = (datetime.fromisoformat(str(stamp)).timestamp() for stamp in (row.timing.started, row.timing.finished))
    return start, end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of a finished study")
    study = parser.parse_args().study
    rows = [row for row in all_rows(study) if row.is_done]
    parts = within(rows) | between(rows)
    whole = sum(parts.values())
    table = Table("", "seconds", "share", title=f"{study}: {len(rows)} trials")
    for name, value in sorted(parts.items(), key=lambda item: -item[1]):
        table.add_row(name, f"{value:.2f}", f"{value / whole:.2%}")
    console = Console()
    console.print(table)
    outside = whole - parts["at the end"] - sum(parts.get(name, 0.0) for name in WANTED)
    console.print(f"outside of {', '.join(WANTED)}: {outside / (whole - parts['at the end']):.2%}")


if __name__ == "__main__":
    main()
