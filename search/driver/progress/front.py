"""The front so far as a compact table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.table import Table

from medcore.errors import printable
from medcore.quality.figures import FIGURES
from results.stats.labels import base_name, text, title
from results.stats.objectives import Objective, names_of
from results.stats.pareto import non_dominated, to_losses
from results.stats.repeats import mean_metrics, runs_of
from results.store.trial_row import TrialRow

#: Columns of a terminal below which values lose their units.
_NARROW = 60

#: A member of the front: its trial, and the values of the objectives in natural sign.
Member = tuple[str, tuple[float, ...]]


def front_members(rows: Sequence[TrialRow], objectives: Sequence[Objective]) -> list[Member]:
    """Return the front of the candidates' means, best first by the first objective.

    Args:
        rows: Trials that have ended, in any state.
        objectives: What is optimised.
    """
    names = names_of(objectives)
    groups = runs_of(rows)
    means = [mean_metrics([{name: run.figure(name) for name in names} for run in runs]) for runs in groups]
    values = np.array(
        [[np.nan if mean[name] is None else mean[name] for name in names] for mean in means], dtype=np.float64
    ).reshape(len(groups), len(names))
    losses = to_losses(values, objectives)
    chosen = np.flatnonzero(non_dominated(losses))
    order = chosen[np.lexsort(losses[chosen].T[::-1])]
    return [(groups[place][0].trial_id, tuple(map(float, values[place]))) for place in order]


def spread(members: Sequence[Member], count: int) -> list[Member]:
    """Return `count` members evenly over the front, with both ends; all of them if there are no more."""
    if count < 1 or len(members) <= count:
        return list(members[: max(0, count)])
    places = np.linspace(0, len(members) - 1, count).round().astype(int) if count > 1 else np.array([0])
    return [members[place] for place in places]


def front_picture(members: Sequence[Member], objectives: Sequence[Objective], size: int, width: int) -> Table:
    """Return a table with one line for each shown member.

    Args:
        members: Those to show.
        objectives: What is optimised.
        size: Members of the whole front.
        width: Columns of the terminal. If there are few, values have no unit. What does not fit ends in an ellipsis.
    """
    table = Table(
        box=None, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), collapse_padding=True, header_style="bold"
    )
    narrow = width < _NARROW
    table.add_column("front" if narrow else f"front of {size}", min_width=5, no_wrap=True, overflow="ellipsis")
    share = max(6, width // (len(objectives) + 1) - 2)
    for objective in objectives:
        table.add_column(
            title(objective.name), justify="right", no_wrap=True, overflow="ellipsis", max_width=max(share, 12)
        )
    for trial_id, values in members:
        cells = [_short(objective.name, value, narrow) for objective, value in zip(objectives, values, strict=True)]
        table.add_row(printable(trial_id), *cells)
    return table


def _short(name: str, value: float, narrow: bool) -> str:
    """Write a value without the words that the title has; if `narrow`, without its unit."""
    base = base_name(name)
    written = text(name, value)
    if base is None or not (narrow or FIGURES[base].kind == "share"):
        return written
    return written.removesuffix(FIGURES[base].unit).strip()
