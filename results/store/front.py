"""The Pareto front of a study with its hypervolume, as commands, tables and pages share it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from medcore.errors import MedcoreError
from medcore.quality.catalogue import always_shown, cost_shares
from results.stats.labels import is_cost
from results.stats.objectives import names_of
from results.stats.pareto import front_table, hypervolume, reference_losses, to_losses
from results.store.files import plain_record
from results.store.study_info import StudyInfo
from results.store.trial_row import TrialRow


@dataclass(frozen=True)
class Front:
    """The front of a study's finished trials.

    Attributes:
        info: The study.
        hypervolume: Up to the study's reference point.
        trials: How many trials ended.
        failed: How many of them failed.
        stopped: How many of them a scheduler stopped.
        records: The members as columns, sorted by the first objective, best first.
    """

    info: StudyInfo
    hypervolume: float
    trials: int
    failed: int
    records: tuple[dict[str, Any], ...]
    stopped: int = 0

    @cached_property
    def members(self) -> tuple[TrialRow, ...]:
        """The members' rows, in the same order."""
        return tuple(map(TrialRow.from_flat, self.records))

    @property
    def done(self) -> int:
        """How many trials were completed."""
        return self.trials - self.failed - self.stopped

    @property
    def quality(self) -> list[str]:
        """Metrics in tables: objectives that are no costs, then those always shown."""
        names = dict.fromkeys((*names_of(self.info.objectives), *always_shown()))
        return [name for name in names if not is_cost(name)]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for `--json`."""
        return {
            "study": self.info.name,
            "objectives": [asdict(objective) for objective in self.info.objectives],
            "reference": self.info.reference,
            "hypervolume": self.hypervolume,
            "trials": self.trials,
            "failed": self.failed,
            "stopped": self.stopped,
            "dense": self.info.dense,
            "widths": self.info.widths,
            "front": list(self.records),
        }


def front_of(trials: pd.DataFrame, info: StudyInfo) -> Front:
    """Return the front of a trial table.

    Columns that trials have beyond their rows are kept.

    Raises:
        MedcoreError: A member lacks its origin or budget, or a figure of it is text, so that no search wrote it.
    """
    objectives = info.objectives
    table = front_table(trials[trials["status"] == "done"], objectives)
    records = tuple(plain_record(row) for row in table.to_dict("records"))
    for record in records:
        lacking = [family.name for family in info.prunable() if family.name not in TrialRow.from_flat(record).budget]
        lacking += ["origin"] if not isinstance(record.get("origin"), str) else []
        lacking += [name for name in (*cost_shares(), *always_shown()) if isinstance(record.get(name), str)]
        if lacking:
            raise MedcoreError(f"trial {record['trial_id']} has no {', '.join(lacking)}: no search wrote this row")
    losses = to_losses(table.reindex(columns=names_of(objectives)).to_numpy(dtype=float), objectives)
    volume = hypervolume(losses, reference_losses(info.reference, objectives)) if len(table) else 0.0
    statuses = list(trials["status"]) if len(trials) else []
    failed, stopped = statuses.count("failed"), statuses.count("stopped")
    return Front(info, volume, len(trials), failed, records, stopped=stopped)
