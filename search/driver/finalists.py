"""Which member of the front a search repeats next with another seed, and whose runs it averages (method §14)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from results.stats.columns import DENSE, average_of
from results.stats.objectives import Objective
from results.stats.pareto import knee, non_dominated, to_losses
from results.store.trial_row import TrialRow
from search.base.objectives import values_of
from search.trials.ledger import IssuedTrial

#: Says that the next finalist has to wait for runs that have not ended.
WAIT: Literal["wait"] = "wait"


@dataclass(frozen=True)
class Finalist:
    """One of the last trials of a search.

    Attributes:
        first: The trial that it repeats, or the first run of those that it averages.
        averages: The runs that it averages; empty for a repeat.
    """

    first: IssuedTrial
    averages: tuple[str, ...] = ()

    @property
    def repeats(self) -> str | None:
        """The trial that it repeats."""
        return None if self.averages else self.first.trial_id

    @property
    def origin(self) -> str:
        """What the trial's row says it is."""
        return average_of(self.first.trial_id) if self.averages else f"repeat of {self.first.trial_id}"


def next_finalist(
    issued: Sequence[IssuedTrial],
    rows: Sequence[TrialRow],
    objectives: Sequence[Objective],
    left: int,
    gone: Collection[str] = (),
) -> Finalist | Literal["wait"] | None:
    """Return what the next of the last trials is, if they average too.

    Repeats come first, as long as there is then a trial left for each repeated member. Each of the others takes the
    mean of the weights of one member's runs.

    Args:
        issued: All trials of the study.
        rows: The rows of those that ended.
        objectives: What is optimised.
        left: Finalists that are not issued, at least 1.
        gone: Trials whose weights were removed.

    Returns:
        `WAIT` if every member to average has a run that has not ended; None if there is no member to repeat.
    """
    due = to_average(issued, rows, gone)
    first = next_to_repeat(issued, rows, objectives)
    members = {runs.first.trial_id for runs in due} | ({first.trial_id} if first is not None else set())
    if due and left <= len(members):
        ended = [runs for runs in due if runs.ended]
        return Finalist(ended[0].first, ended[0].done) if ended else WAIT
    return None if first is None else Finalist(first)


@dataclass(frozen=True)
class Runs:
    """The runs of a repeated trial whose weights no later trial has averaged.

    Attributes:
        first: The first run.
        done: The runs that are done, in their order.
        ended: Whether all runs have ended.
    """

    first: IssuedTrial
    done: tuple[str, ...]
    ended: bool


def to_average(issued: Sequence[IssuedTrial], rows: Sequence[TrialRow], gone: Collection[str] = ()) -> list[Runs]:
    """Return the repeated trials with two runs or more, done or running, that no trial has averaged all of.

    Trials that compute scores between rounds are left out, because each of their runs keeps groups of its own.

    Args:
        issued: All trials of the study.
        rows: The rows of those that ended.
        gone: Trials whose weights were removed.

    Returns:
        One for each such trial, in the order of their first repeats.
    """
    known = {trial.trial_id: trial for trial in issued}
    done = {row.trial_id: row.is_done for row in rows}
    averaged = {run for trial in issued for run in trial.averages}
    groups: dict[str, list[str]] = {}
    for trial in issued:
        if trial.repeats in known and not _rescores(known[trial.repeats]):
            groups.setdefault(trial.repeats, [trial.repeats]).append(trial.trial_id)
    found = []
    for name, runs in groups.items():
        left = [run for run in runs if done.get(run, True) and run not in gone]
        if len(left) > 1 and not {*left} <= averaged:
            finished = tuple(run for run in left if run in done)
            found.append(Runs(known[name], finished, len(finished) == len(left)))
    return found


def next_to_repeat(
    issued: Sequence[IssuedTrial], rows: Sequence[TrialRow], objectives: Sequence[Objective]
) -> IssuedTrial | None:
    """Return the member of the front with the fewest runs so far.

    A trial's runs are itself and its repeats, and their mean decides (14.3). Runs that have not ended count as runs.
    Averages of runs take members off the front, but are not repeated. The dense model is always a member. Of members
    with equally many runs the dense model comes first, then the knee, then the one with the most members between it
    and the nearest with more runs, in the order of the first objective. So few repeats spread over the front.

    Args:
        issued: All trials of the study.
        rows: The rows of those that ended.
        objectives: What is optimised.

    Returns:
        The first run of that member; None if there is none.
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
        return None  # no trial is done
    names = list(groups)
    losses = to_losses([np.mean(groups[name], axis=0) for name in names], objectives)
    front = np.flatnonzero(non_dominated(losses))
    dense = [row for row, name in enumerate(names) if first[name].origin == DENSE]
    single = {row for row in front.tolist() if not first[names[row]].averages}
    members = sorted({*single, *dense}, key=lambda row: (*losses[row], first[names[row]].number))
    if not members:
        return None
    counts = [runs[names[row]] for row in members]
    fewest = [place for place, count in enumerate(counts) if count == min(counts)]
    ahead = [place for place, count in enumerate(counts) if count > min(counts)]
    preferred = [*map(members.index, dense), int(knee(losses[members]))]
    chosen = next((place for place in preferred if place in fewest), None)
    if chosen is None:
        chosen = max(fewest, key=lambda place: min(abs(place - other) for other in ahead))
    return first[names[members[chosen]]]


def _rescores(trial: IssuedTrial) -> bool:
    """Return whether a trial computes scores between rounds, so that its groups depend on its seed."""
    return bool(trial.params.get("rescore")) and trial.params.get("rounds", 1) > 1
