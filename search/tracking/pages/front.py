"""The table of a study's front in the description of its run."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medcore.quality.catalogue import headlines
from results.pages.markdown import code, plain, table
from results.pages.markdown import row as table_row
from results.stats.columns import DOUBT, HELD_OUT
from results.stats.labels import NOT_RECOVERED, RECOVERED, is_cost
from results.stats.objectives import names_of
from results.stats.seed_noise import recovered_dense, runs_in
from results.store.held_out import held_out_means
from results.store.trial_row import TrialRow, row_of
from search.tracking.pages.standing import Place, Standing
from search.tracking.pages.text import COSTS, cell, heading, short
from search.tracking.view import LATENCY

#: Ends each cell, because MLflow shows tables without space between their columns.
_SPACE = "&emsp;"


@dataclass(frozen=True)
class _Line:
    """A model in the table.

    Attributes:
        label: What it is, in Markdown.
        figures: By name.
        runs: How many runs the figures are means of; empty if it has none.
        origin: Of the trial.
        measured: Held-out means by column.
        is_knee: Whether the rule `knee` takes it.
    """

    label: str
    figures: Mapping[str, Any]
    runs: str = ""
    origin: str = ""
    measured: Mapping[str, float] | None = None
    is_knee: bool = False

    def cells(self, names: Sequence[str], held_out: str | None) -> list[str]:
        """Return the cells: label, figures of these names, runs, origin, and the held-out figure if there is one."""
        texts = [self.label, *(cell(name, self.figures.get(name)) for name in names), self.runs, plain(self.origin)]
        if held_out is not None:
            texts.append(cell(held_out, (self.measured or {}).get(HELD_OUT + held_out)))
        return [f"**{text}**{_SPACE}" if self.is_knee and text else text + _SPACE for text in texts]


def front_lines(standing: Standing, place: Place, room: int) -> list[str]:
    """Return the table of the front, in at most `room` characters as long as it has at least one member.

    It ends with the dense model, which has also a line after the recovery of all trials unless that is on the front.
    """
    if not standing.front:
        return ["The front is empty so far: no trial is done.", ""]
    members = [row_of(record) for record in standing.front]
    names = _names(standing, members)
    # the newest figures of each trial's own model, and of the dense one as None
    held = {each.trial_id: held_out_means(each) for each in standing.measured if not each.fine_tuned}
    main = headlines()[0] if held else None
    head = ["trial", *map(heading, names), "runs", "origin", *([f"held-out {short(main)}"] if main else [])]
    ends = [_Line(NOT_RECOVERED, dict.fromkeys(COSTS, 1.0) | standing.info.dense, measured=held.get(None))]
    recovered = recovered_dense(standing.trials)
    if recovered is not None and recovered["trial_id"] not in {row.trial_id for row in members}:
        row = row_of(recovered)
        ends.append(_Line(RECOVERED, _figures(row, names), str(runs_in(recovered)), row.origin or ""))
    lines = [_member(row, names, standing, place, held.get(row.trial_id)) for row in members]
    first, last = ([line.cells(names, main) for line in part] for part in (lines, ends))
    free = room - len("\n".join([_table(head, last), ""]))
    shown = _fitting(first, free)
    if shown == len(first):
        return [_table(head, [*first, *last]), ""]
    shown = _fitting(first, free - len("\n".join(["", *_further(len(first))])))
    return [_table(head, [*first[:shown], *last]), "", *_further(len(first) - shown)]


def _further(count: int) -> list[str]:
    """Return lines on members that the table leaves out."""
    return [f"{count} further members: {code('front.csv')} among the artifacts.", ""]


def _names(standing: Standing, members: Sequence[TrialRow]) -> list[str]:
    """Return the figures of the table: costs, objectives that are no costs, and the time of a call if it is known."""
    quality = [name for name in names_of(standing.info.objectives) if not is_cost(name)]
    timed = any(_figures(row, [LATENCY])[LATENCY] is not None for row in members)
    return [*COSTS, *quality, *([LATENCY] if timed else [])]


def _member(
    row: TrialRow, names: Sequence[str], standing: Standing, place: Place, measured: Mapping[str, float] | None
) -> _Line:
    is_knee, key = row.trial_id == standing.knee, plain(row.trial_id)
    label = f"[{key}]({place.runs[row.trial_id]})" if row.trial_id in place.runs else key
    label += " knee" if is_knee else ""
    return _Line(label, _figures(row, names), str(runs_in(row.to_flat())), row.origin or "", measured, is_knee)


def _fitting(rows: Sequence[Sequence[str]], room: int) -> int:
    """Return how many rows of a table have room together, at least one."""
    lengths = itertools.accumulate(len(table_row(cells)) + 1 for cells in rows)
    return max(1, sum(length <= room for length in lengths))


def _figures(row: TrialRow, names: Sequence[str]) -> dict[str, float | None]:
    """Return figures by name; a doubtful time counts as unknown."""
    unknown = {LATENCY} if row.to_flat().get(DOUBT) else set()
    return {name: None if name in unknown else row.figure(name) for name in names}


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return table([f"{title}{_SPACE}" for title in head], rows)
