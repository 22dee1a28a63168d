"""Which member of the front a search repeats next with another seed (method §14)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from results.stats.columns import DENSE
from results.stats.objectives import Objective
from results.stats.pareto import knee, non_dominated, to_losses
from results.store.trial_row import TrialRow
from search.base.objectives import values_of
from search.trials.ledger import IssuedTrial


def next_to_repeat(
    issued: Sequence[IssuedTrial], rows: Sequence[TrialRow], objectives: Sequence[Objective]
) -> IssuedTrial | None:
    """Return the member of the front with the fewest runs so far.

    A trial's runs are itself and its repeats, and their mean decides (14.3). Runs that have not ended count as runs.
    The dense model is always a member. Of members with equally many runs the dense model comes first, then the knee,
    then the one with the most members between it and the nearest with more runs, in the order of the first objective.
    So few repeats spread over the front.

    Args:
        issued: All trials of the study.
        rows: The rows of those that ended.
        objectives: What is optimised.

    Returns:
        The first run of that member; None while no trial is done.
    """
    first = {trial.trial_id: trial for trial in issued if trial.repeats is None}
    runs = Counter(trial.repeats or trial.trial_id for trial in issued)
    groups: dict[str, list[tuple[float, ...]]] = {}
    origin_of = {trial.trial_id: trial.repeats or trial.trial_id for trial in issued}
    for row in rows:
        values = values_of(row, objectives)
        if values is not None and origin_of.get(row.trial_id) in first:
            groups.setdefault(origin_of[row.trial_id], []).append(values)
    if not groups:
        return None
    names = list(groups)
    losses = to_losses([np.mean(groups[name], axis=0) for name in names], objectives)
    front = np.flatnonzero(non_dominated(losses))
    dense = [row for row, name in enumerate(names) if first[name].origin == DENSE]
    members = sorted({*front.tolist(), *dense}, key=lambda row: (*losses[row], first[names[row]].number))
    counts = [runs[names[row]] for row in members]
    fewest = [place for place, count in enumerate(counts) if count == min(counts)]
    ahead = [place for place, count in enumerate(counts) if count > min(counts)]
    preferred = [*map(members.index, dense), members.index(int(front[knee(losses[front])]))]
    chosen = next((place for place in preferred if place in fewest), None)
    if chosen is None:
        chosen = max(fewest, key=lambda place: min(abs(place - other) for other in ahead))
    return first[names[members[chosen]]]
