"""The tables of a report on a front's members: figures with their intervals, and measured times."""

from __future__ import annotations

from medcore.quality.catalogue import latency_names
from medcore.quality.figures import FIGURES
from results.pages.front_files import front_cells
from results.stats import labels
from results.stats.choices import schedule_summary, schedules_differ
from results.stats.columns import DOUBT
from results.store.front import Front
from results.store.latency import timed_on
from results.store.trial_row import TrialRow


def report_cells(front: Front) -> list[dict[str, list[str]]]:
    """Return the front's table; each cell is a text and its intervals, which stand below it.

    What all members chose alike is no column, and times have a table of their own.
    """
    rows: list[dict[str, list[str]]] = []
    for record in front_cells(front).drop(columns=_time_heads(), errors="ignore").to_dict("records"):
        cells = {str(head): _parted(str(cell)) for head, cell in record.items()}
        for name in front.quality:
            seeds = cells.pop(f"{labels.title(name)}, seeds 95 %", ["–"])
            cells[labels.column_title(name)] += [f"seeds: {end}" for end in seeds if end != "–"]
        if common_choice(front):
            cells.pop("chose", None)
        rows.append(cells)
    return rows


def time_cells(front: Front) -> list[dict[str, str]]:
    """Return the table of measured time and memory next to the FLOPs left; no row if no member was timed."""
    if not timed_on(front.members):
        return []
    table = front_cells(front)
    headings = ["trial", "origin", labels.title("flops_fraction"), *(head for head in _time_heads() if head in table)]
    doubts = [bool(doubt_of(member)) for member in front.members]
    # the dense model took turns with all
    marked = zip(table[headings].to_dict("records"), [*doubts, any(doubts)], strict=True)
    return [{str(head): str(cell) + _mark(str(head), doubt) for head, cell in row.items()} for row, doubt in marked]


def _mark(head: str, doubt: bool) -> str:
    """Return what follows a time in doubt; memory never is."""
    times = [labels.short_title(name) for name in latency_names() if FIGURES[name].unit != "MB"]
    return " ?" if doubt and head in times else ""


def _time_heads() -> list[str]:
    return [labels.short_title(name) for name in latency_names()]


def common_choice(front: Front) -> str:
    """Return what all members of a front chose apart from their budgets; empty if they differ."""
    return "" if schedules_differ(front.members) else schedule_summary(front.members[0])


def _parted(cell: str) -> list[str]:
    value, bracket, interval = cell.partition(" (")
    return [value, f"({interval}"] if bracket and " to " in interval else [cell]


def doubt_of(row: TrialRow) -> str:
    """Return why no one should rely on the times of a trial; empty if one may."""
    doubt = row.extra.get(DOUBT)
    return doubt if isinstance(doubt, str) else ""
