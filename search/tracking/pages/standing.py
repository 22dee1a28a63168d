"""What descriptions in MLflow know of a study: where it is, and how it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from results.stats.pareto import front_table, knee, objective_losses
from results.store.held_out import Measurement
from results.store.study_info import StudyInfo
from results.store.trial_row import TrialRow, row_of


@dataclass(frozen=True)
class Place:
    """Where people find a study, as its descriptions name it.

    Attributes:
        front: The page with the front, relative to the server.
        runs: Trial -> page of its run, relative to the server.
        folder: The study's folder on the machine of the search.
        server: Address of the server without a login; None for the file in the study's own folder.
        address: The study at that server, as commands take it.
        models: Trials whose models are among the files of their runs.
        registered: Trial -> registered version of its model, as `NAME/VERSION`.
    """

    front: str
    runs: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    server: str | None = None
    address: str = ""
    models: frozenset[str] = frozenset()
    registered: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """How a study stands.

    Attributes:
        info: The study.
        trials: Trials as `results.store.trials.read_study` gives them, or an empty table.
        statuses: How the runs ended, repeats included.
        measured: Measurements on held-out images, the oldest first.
        end: MLflow's word for the end of the study's run; `RUNNING` while the search runs.
    """

    info: StudyInfo
    trials: pd.DataFrame
    statuses: Counter[str] = field(default_factory=Counter)
    measured: Sequence[Measurement] = ()
    end: str = "RUNNING"

    @cached_property
    def front(self) -> list[dict[str, Any]]:
        """The members of the front, sorted by the first objective, best first."""
        rows = front_table(self.trials, self.info.objectives).to_dict("records") if len(self.trials) else []
        return [{str(key): value for key, value in row.items()} for row in rows]

    @cached_property
    def knee(self) -> str | None:
        """The trial that the rule `knee` takes."""
        front = pd.DataFrame(self.front)
        if front.empty:
            return None
        return str(front["trial_id"].iloc[knee(objective_losses(front, self.info.objectives))])

    @cached_property
    def chosen(self) -> TrialRow | None:
        """The row of that trial."""
        return next((row_of(row) for row in self.front if row["trial_id"] == self.knee), None)

    def state(self, wanted: str) -> str:
        """Say how many of the wanted trials have ended, and whether the search runs."""
        ended, words = sum(self.statuses.values()), {"stopped": "stopped early"}
        counts = ", ".join(f"{count} {words.get(name, name)}" for name, count in sorted(self.statuses.items()))
        end = {"FINISHED": "complete", "KILLED": "not complete"}.get(self.end, "the search runs")
        return f"{end}; {ended} of {wanted} trials ended{f' ({counts})' if counts else ''}"
