"""Repeated trials: which runs belong together, and what they are on average.

A repeat has the parameters of an earlier trial and another seed. The trial and its repeats are its runs, and those n
that are done stand together for one candidate:

    mean(m)    = Σ_i m_i / n
    seed_sd(m) = sqrt(Σ_i (m_i − mean(m))² / (n − 1))

A metric that one of the runs lacks has no mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from results.stats.columns import SEED_SD, SEEDS, SINGLE
from results.stats.labels import is_cost


class Run(Protocol):
    """What is needed of a trial's row; `results.store.trial_row.TrialRow` has it."""

    @property
    def trial_id(self) -> str:
        """Name of the trial."""

    @property
    def number(self) -> int:
        """Place in the study."""

    @property
    def repeats(self) -> str | None:
        """The trial that this one repeats."""

    @property
    def is_done(self) -> bool:
        """Whether the trial was completed."""


R = TypeVar("R", bound=Run)


def runs_of(rows: Sequence[R]) -> list[list[R]]:
    """Return the runs of every candidate that are done.

    The first of them stands for the candidate. It is the first run or, if that is not done, the repeat with the lowest
    number.
    """
    groups: dict[str, list[R]] = {}
    for row in sorted(rows, key=lambda row: (row.repeats is not None, row.number, row.trial_id)):
        if row.is_done:
            groups.setdefault(row.repeats or row.trial_id, []).append(row)
    return list(groups.values())


def mean_metrics(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the metrics of a candidate from those of its runs, the first run's first.

    Returns:
        Each metric's mean, and the number of runs as `SEEDS`. With two runs or more also `SEED_SD` and `SINGLE`, the
        first run's own figure, of each metric that has a mean and is no cost. Costs do not depend on the seed.
    """
    means = {name: _mean([run.get(name) for run in runs]) for name in runs[0]}
    columns: dict[str, Any] = {**means, SEEDS: len(runs)}
    if len(runs) > 1:
        known = [name for name, mean in means.items() if mean is not None and not is_cost(name)]
        columns |= {SEED_SD + name: float(np.std([run[name] for run in runs], ddof=1)) for name in known}
        columns |= {SINGLE + name: runs[0][name] for name in known}
    return columns


def mean_images(runs: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return metrics of every image, mean over runs.

    Args:
        runs: Rows of each run. What is no number in a row identifies its image, except `trial_id`.

    Returns:
        The rows of the first run with means, in its order. An image that another run lacks is left out.
    """
    others = [{_labels(image): image for image in images} for images in runs[1:]]
    rows = []
    for image in runs[0]:
        same = [image, *(images[_labels(image)] for images in others if _labels(image) in images)]
        if len(same) == len(runs):
            names = [name for name in image if _is_metric(image[name])]
            rows.append({**image, **{name: _mean([each.get(name) for each in same]) for name in names}})
    return rows


def _mean(values: Sequence[Any]) -> Any:
    """Return the mean of finite numbers; None if one is missing.

    Equal numbers are their own mean, without rounding.
    """
    if not all(_is_metric(value) and value is not None and math.isfinite(value) for value in values):
        return None
    return values[0] if len({*values}) == 1 else math.fsum(values) / len(values)


def _labels(image: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, value) for name, value in sorted(image.items()) if name != "trial_id" and not _is_metric(value))


def _is_metric(value: Any) -> bool:
    """Return whether a value is a number, or is missing."""
    return value is None or (isinstance(value, (int, float, np.number)) and not isinstance(value, bool))
