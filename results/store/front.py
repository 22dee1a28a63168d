"""The Pareto front of a study with its hypervolume, as commands, tables and pages share it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from medcore.errors import MedcoreError
from medcore.quality.catalogue import always_shown, cost_shares
from results.stats.columns import SEEDS
from results.stats.labels import is_cost
from results.stats.objectives import names_of
from results.stats.pareto import front_table, hypervolume, reference_losses, to_losses
from results.stats.seed_noise import (
    Candidate,
    SeedNoise,
    dethroned,
    recovered_dense,
    runs_in,
    seed_interval,
    seed_noise,
)
from results.store.files import plain_record
from results.store.study_info import StudyInfo
from results.store.trial_row import TrialRow


@dataclass(frozen=True)
class Uncertainty:
    """A member's figure with both of its intervals (95 %); None where one is unknown.

    Attributes:
        trial_id: The member.
        metric: Name of the figure.
        runs: How many runs it is the mean of.
        mean: Over these runs.
        seeds: Interval over runs; unknown for one run.
        images: Interval over images, which are averaged over runs first.
    """

    trial_id: str
    metric: str
    runs: int
    mean: float
    seeds: tuple[float, float] | None
    images: tuple[float, float] | None


#: Most families that a narrow table has columns for.
_MOST_FAMILIES = 4


@dataclass(frozen=True)
class Front:
    """The front of a study's finished trials. A repeated trial counts once, with the means over its runs.

    Attributes:
        info: The study.
        hypervolume: Up to the study's reference point.
        trials: How many trials ended.
        failed: How many of them failed.
        stopped: How many of them a scheduler stopped.
        records: The members as columns, sorted by the first objective, best first.
        further_runs: How many runs repeat a trial.
        seed_noise: Noise of one run by metric, from all repeated trials.
        dethroned: Trials that the front of first runs has and this one does not.
        recovered: The row of the dense model after the same recovery.
    """

    info: StudyInfo
    hypervolume: float
    trials: int
    failed: int
    records: tuple[dict[str, Any], ...]
    stopped: int = 0
    further_runs: int = 0
    seed_noise: Mapping[str, SeedNoise] = field(default_factory=dict)
    dethroned: tuple[Candidate, ...] = ()
    recovered: Mapping[str, Any] | None = None

    def shown_families(self) -> list[str]:
        """Return the families that a narrow table has columns for: all, unless they are too many for any."""
        names = [family.name for family in self.info.prunable()]
        return names if len(names) <= _MOST_FAMILIES else []

    @cached_property
    def members(self) -> tuple[TrialRow, ...]:
        """The members' rows, in the same order."""
        return tuple(map(TrialRow.from_flat, self.records))

    @property
    def done(self) -> int:
        """How many trials were completed."""
        return self.trials - self.failed - self.stopped

    @property
    def not_done(self) -> str:
        """How many trials failed and, if there are any, were stopped, in words."""
        return f"{self.failed} failed" + (f", {self.stopped} stopped early" if self.stopped else "")

    @property
    def quality(self) -> list[str]:
        """Metrics in tables: objectives that are no costs, then those always shown."""
        names = dict.fromkeys((*names_of(self.info.objectives), *always_shown()))
        return [name for name in names if not is_cost(name)]

    @property
    def objectives_of_quality(self) -> list[str]:
        """Objectives that are no costs."""
        return [name for name in names_of(self.info.objectives) if not is_cost(name)]

    def uncertainties(self) -> list[Uncertainty]:
        """Return each member's objectives that are no costs, with their intervals."""
        return [_uncertainty(record, name) for record in self.records for name in self.objectives_of_quality]

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
            "further_runs": self.further_runs,
            "uncertainties": [asdict(each) for each in self.uncertainties()],
            "seed_noise": {name: asdict(noise) for name, noise in self.seed_noise.items()},
            "dethroned": [asdict(each) for each in self.dethroned],
            "recovered_dense": self.recovered,
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
    sites = {name: len(widths) for name, widths in info.widths.items() if isinstance(widths, list)}
    for record in records:
        budget = TrialRow.from_flat(record).budget
        lacking = [family.name for family in info.prunable() if family.name not in budget]
        lacking += ["origin"] if not isinstance(record.get("origin"), str) else []
        lacking += [name for name in (*cost_shares(), *always_shown()) if isinstance(record.get(name), str)]
        # one width for all sites does not say how many there are, but the members agree
        wrong = [name for name in budget if len(budget[name]) != sites.setdefault(name, len(budget[name]))]
        lacking += [f"{name} of every site" for name in wrong]
        if lacking:
            raise MedcoreError(f"trial {record['trial_id']} has no {', '.join(lacking)}: no search wrote this row")
    losses = to_losses(table.reindex(columns=names_of(objectives)).to_numpy(dtype=float), objectives)
    volume = hypervolume(losses, reference_losses(info.reference, objectives)) if len(table) else 0.0
    statuses = list(trials["status"]) if len(trials) else []
    failed, stopped = statuses.count("failed"), statuses.count("stopped")
    dense = recovered_dense(trials)
    front = Front(info, volume, len(trials), failed, records, stopped=stopped)
    noises = {name: seed_noise(trials, name) for name in front.quality}
    return replace(
        front,
        further_runs=sum(runs_in(row) - 1 for row in trials.to_dict("records")) if SEEDS in trials else 0,
        seed_noise={name: noise for name, noise in noises.items() if noise is not None},
        dethroned=tuple(dethroned(trials, objectives)),
        recovered=None if dense is None else plain_record(dense),
    )


def _uncertainty(record: Mapping[str, Any], metric: str) -> Uncertainty:
    low, high = (record.get(f"{metric}_{end}") for end in ("lo", "hi"))
    return Uncertainty(
        trial_id=str(record["trial_id"]),
        metric=metric,
        runs=runs_in(record),
        mean=float(record[metric]),
        seeds=seed_interval(record, metric),
        images=None if low is None or high is None else (float(low), float(high)),
    )
