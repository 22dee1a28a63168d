"""How much figures depend on the seed: intervals over runs, pooled noise, and fronts with and without repeats.

    interval(m) = mean(m) ± t(n − 1) · seed_sd(m) / sqrt(n)              95 %, Student's t
    noise(m)²   = Σ_c (n_c − 1) · seed_sd_c(m)² / Σ_c (n_c − 1)          over the repeated candidates c

`noise` is the standard deviation of one run. Tables are those of `results.store.trials.read_study`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from results.stats.columns import DENSE, SEED_SD, SEEDS, SINGLE
from results.stats.objectives import Objective, names_of
from results.stats.pareto import non_dominated, objective_losses


@dataclass(frozen=True)
class SeedNoise:
    """Noise of one run.

    Attributes:
        sd: Standard deviation.
        freedom: Degrees of freedom behind it.
    """

    sd: float
    freedom: int


@dataclass(frozen=True)
class Candidate:
    """A trial with its figures by its first run and by all runs.

    Attributes:
        trial_id: The trial.
        runs: Number of its runs.
        single: Objectives by the first run.
        mean: Objectives by the mean over runs; None where a run lacks the figure.
    """

    trial_id: str
    runs: int
    single: Mapping[str, float | None]
    mean: Mapping[str, float | None]


def runs_in(row: Mapping[Any, Any] | pd.Series[Any]) -> int:
    """Return how many runs stand behind a row of a trial table."""
    runs = row.get(SEEDS)
    return 1 if runs is None or np.isnan(runs) else int(runs)


def seed_interval(
    row: Mapping[Any, Any] | pd.Series[Any], metric: str, level: float = 0.95
) -> tuple[float, float] | None:
    """Return the interval of a metric's mean over seeds; None for a single run.

    Args:
        row: Of a trial table.
        metric: Its column.
        level: Probability that the interval covers.
    """
    runs, mean, sd = runs_in(row), row.get(metric), row.get(SEED_SD + metric)
    if runs < 2 or mean is None or sd is None or not np.isfinite([mean, sd]).all():
        return None
    from scipy.special import stdtrit  # would slow down every `medcore front`

    reach = float(stdtrit(runs - 1, 0.5 + level / 2)) * sd / math.sqrt(runs)
    return mean - reach, mean + reach


def seed_noise(trials: pd.DataFrame, metric: str) -> SeedNoise | None:
    """Return the noise of one run, pooled over all repeated trials; None if none is repeated."""
    if SEED_SD + metric not in trials:
        return None
    known = trials[trials[SEED_SD + metric].notna()]
    freedom = known[SEEDS].to_numpy(dtype=np.int64) - 1
    squares = known[SEED_SD + metric].to_numpy(dtype=np.float64) ** 2
    return SeedNoise(math.sqrt((freedom @ squares) / freedom.sum()), int(freedom.sum())) if len(known) else None


def dethroned(trials: pd.DataFrame, objectives: Sequence[Objective]) -> list[Candidate]:
    """Return the trials on the front of first runs that are not on the front of means, by number.

    A trial without repeats is among them if the mean of another one dominates it.
    """
    names = names_of(objectives)
    if not {SINGLE + name for name in names} & {*trials}:
        return []
    first = trials.assign(
        **{name: trials[SINGLE + name].fillna(trials[name]) for name in names if SINGLE + name in trials}
    )
    was, is_now = (non_dominated(objective_losses(table, objectives)) for table in (first, trials))
    places = np.flatnonzero(was & ~is_now)
    return [candidate(trials.iloc[place].to_dict(), names) for place in places]


def recovered_dense(trials: pd.DataFrame) -> dict[Any, Any] | None:
    """Return the row of the dense model after the recovery of all trials; None if no such trial is done."""
    if "origin" not in trials:
        return None
    own = trials[(trials["status"] == "done") & (trials["origin"] == DENSE)]
    return None if own.empty else dict(own.iloc[0].to_dict())


def candidate(row: Mapping[Any, Any], names: Sequence[str]) -> Candidate:
    """Return a row's figures of these names by its first run and by the mean."""
    mean = {name: _known(row.get(name)) for name in names}
    single = {name: _known(row.get(SINGLE + name)) for name in names}
    first = {name: mean[name] if value is None else value for name, value in single.items()}
    return Candidate(str(row["trial_id"]), runs_in(row), first, mean)


def _known(value: Any) -> float | None:
    return None if value is None or np.isnan(value) else float(value)
