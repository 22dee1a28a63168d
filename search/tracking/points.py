"""What a study looks like in a tracker: tags, parameters and curves as plain values."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from medcore.errors import DataError, brief
from medcore.quality.catalogue import headlines, metrics
from medcore.quality.figures import FIGURES
from results.stats.columns import FIDELITY, PARAM, is_average
from results.stats.labels import is_cost
from results.stats.objectives import names_of
from results.stats.pareto import (
    front_ranks,
    hypervolume,
    hypervolume_trace,
    objective_losses,
    reference_losses,
    to_losses,
)
from results.stats.repeats import mean_metrics, runs_of
from results.store.files import is_finite
from results.store.study_info import StudyInfo
from results.store.trial_row import IDENTITY, TrialRow
from search.base.logins import hide_login

#: The study's curve that is as long as the number of trials whose points were sent.
COUNT_CURVE = "trials_done"
_TAG_LENGTH, _PARAM_LENGTH = 5000, 500


class Point(NamedTuple):
    """One value of a metric.

    Attributes:
        key: Name of the metric.
        value: Finite.
        timestamp: Milliseconds.
        step: Place in the metric's curve.
    """

    key: str
    value: float
    timestamp: int
    step: int


def run_params(row: TrialRow) -> dict[str, str]:
    """Return sampled parameters, seed and budget of a trial as text."""
    budget = {family: list(kept) for family, kept in row.budget.items()}
    params = {**row.params, "seed": row.seed, **budget}
    return {clean_key(key): _text(value)[:_PARAM_LENGTH] for key, value in params.items()}


def run_points(row: TrialRow, phases: Iterable[Mapping[str, Any]]) -> list[Point]:
    """Return final figures at step 0 and figures of the phases at their steps.

    Timestamps come from the row, or from a phase's figure that has a `time` of its own. Sending a trial twice then
    writes the same points and does not add any.

    Raises:
        DataError: A figure of a phase is malformed.
    """
    _, end = run_times(row)
    points = [Point(clean_key(key), value, end, 0) for key, value in run_metrics(row).items()]
    try:
        points += [_phase_point(phase, end) for phase in phases if is_finite(phase["value"])]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"trial {row.trial_id}: phases.json is corrupt ({brief(error)}); delete it") from None
    return points


def _phase_point(phase: Mapping[str, Any], end: int) -> Point:
    key, time = clean_key(f"{phase['phase']}/{phase['name']}"), int(phase.get("time", end))
    return Point(key, float(phase["value"]), time, int(phase["step"]))


def run_metrics(row: TrialRow) -> dict[str, float]:
    """Return the finite figures of a trial by the names of their columns, and FLOPs in billions too.

    If all images come from one data set, figures of single data sets and over them repeat those of all images. They
    are left out.
    """
    columns = row.to_flat().items()
    figures = {
        key: float(value)
        for key, value in columns
        if key not in IDENTITY and not key.startswith(PARAM) and is_finite(value)
    }
    # an unfinished model costs what the finished one does
    ended = {key: key.rpartition("/")[2] for key in figures if key.startswith(FIDELITY)}
    costs = {key for key, name in ended.items() if is_cost(name) and figures.get(name) == figures[key]}
    figures = _without_copies({key: value for key, value in figures.items() if key not in costs})
    return figures | ({"gflops": figures["flops"] / 1e9} if "flops" in figures else {})


def _without_copies(figures: Mapping[str, float]) -> dict[str, float]:
    """Leave out the figures of a data set, and over data sets, if there is only one and they say nothing new."""
    quality = {metric.name for metric in metrics()}
    sets = {name for first, _, name in (key.partition("/") for key in figures) if name and first in quality}
    if len(sets) > 1:
        return dict(figures)
    endings = ("_images", "_worst", *(f"/{name}" for name in sets))
    originals = {key: key.removesuffix(end) for key in figures for end in endings if key.endswith(end)}
    return {key: value for key, value in figures.items() if figures.get(originals.get(key, "")) != value}


def run_tags(row: TrialRow) -> dict[str, str]:
    """Return the tags of a trial's run, except whether it is on the front."""
    tags = {
        "trial_id": row.trial_id,
        "number": row.number,
        "status": row.status,
        "origin": row.origin,
        "repeats": row.repeats,
        "reason": row.reason,
        "git": row.provenance.git,
    }
    return {f"medcore.{key}": _text(value)[:_TAG_LENGTH] for key, value in tags.items() if value is not None}


def run_status(row: TrialRow) -> str:
    """Return MLflow's word for how a trial ended.

    A run that a scheduler stopped is killed.
    """
    return {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}[row.status]


def run_name(row: TrialRow) -> str:
    """Return what tells runs apart in a list.

    Examples are `t0017 · 41 % FLOPs · BF1 0.712`, `t0020 · 41 % FLOPs · BF1 0.709 · repeats t0017`, `t0003 · failed`.
    """
    if not row.is_done:
        return f"{row.trial_id} · {row.status}"
    main = headlines()[0]
    share, quality = row.figure("flops_fraction"), row.figure(main)
    words = [row.trial_id]
    words += [] if share is None else [f"{100 * share:.0f} % FLOPs"]
    words += [] if quality is None else [f"{FIGURES[main].short} {quality:.3f}"]
    words += [] if row.repeats is None else [f"repeats {row.repeats}"]
    words += [row.origin] if row.origin is not None and is_average(row.origin) else []
    return " · ".join(words)


def run_times(row: TrialRow) -> tuple[int, int]:
    """Return start and end in milliseconds, 0 where the row does not have them."""
    start, end = _milliseconds(row.timing.started), _milliseconds(row.timing.finished)
    return start or end, end


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return a nested configuration by dotted keys, as text without logins."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_config(value, f"{prefix}{key}.")
        else:
            flat[clean_key(f"{prefix}{key}")] = hide_login(_text(value))[:_PARAM_LENGTH]
    return flat


def front_ranks_of(rows: Sequence[TrialRow], info: StudyInfo) -> dict[str, int]:
    """Return the rank of each trial among `rows`, 1 for the Pareto front.

    A repeated trial is ranked by its means. Failed trials have no rank, and neither have the repeats themselves.
    """
    groups = runs_of(rows)
    means = [mean_metrics([run.metrics for run in runs]) for runs in groups]
    trials = [dataclasses.replace(runs[0], metrics=metrics) for runs, metrics in zip(groups, means, strict=True)]
    ranks = front_ranks(_losses(trials, info))
    return {row.trial_id: int(rank) for row, rank in zip(trials, ranks, strict=True) if rank}


def study_points(rows: Sequence[TrialRow], info: StudyInfo, known: int) -> list[Point]:
    """Return the study's curves over the number of ended trials.

    The curves are counts, the best of each objective, and the hypervolume, also as a share of `best_volume`. A point
    has the time at which its last trial ended, so that curves look the same when a study is sent late. Repeats count as
    trials that are done, and change nothing else, because a lucky seed is no better model.

    Args:
        rows: All trials that have ended.
        info: The study.
        known: Number of trials whose points were sent before.
    """
    rows = sorted(rows, key=lambda row: (run_times(row)[1], row.number))
    losses = _losses(rows, info)
    losses[[row.repeats is not None for row in rows]] = np.nan
    corner = reference_losses(info.reference, info.objectives)
    is_known = np.isfinite(losses).all(axis=1, keepdims=True)
    usable = np.where(is_known, losses, np.inf)
    best = to_losses(np.minimum.accumulate(usable, axis=0), info.objectives)
    done, failed = (np.cumsum([row.status == status for row in rows]) for status in ("done", "failed"))
    curves = {f"best/{name}": best[:, column] for column, name in enumerate(names_of(info.objectives))}
    volume = hypervolume_trace(losses, corner)
    curves |= {"hypervolume": volume, "trials_failed": failed}
    if (most := best_volume(info)) > 0:
        curves["hypervolume_relative"] = volume / most
    curves[COUNT_CURVE] = done  # last, because its length tells that all curves have arrived
    return [
        Point(clean_key(key), float(values[step]), run_times(rows[step])[1], step + 1)
        for key, values in curves.items()
        for step in range(known, len(rows))
        if np.isfinite(values[step])
    ]


def best_volume(info: StudyInfo) -> float:
    """Return the hypervolume of a model that costs nothing and is as good as the dense one.

    It is 0 if the dense model is no better than the hypervolume's reference point.
    """
    goals = info.objectives
    free = {goal.name: 0.0 for goal in goals if is_cost(goal.name) and goal.lower_is_better}
    ideal = [float(value) for goal in goals if (value := free.get(goal.name, info.dense[goal.name])) is not None]
    return hypervolume(to_losses([ideal], goals), reference_losses(info.reference, goals))


def clean_key(key: str) -> str:
    """Return a name in MLflow's alphabet: letters, digits, `_ - . : /` and space.

    At most 250 characters.
    """
    return re.sub(r"[^\w\-. :/]", "_", key, flags=re.ASCII).strip("/")[:250]


def _losses(rows: Sequence[TrialRow], info: StudyInfo) -> npt.NDArray[np.float64]:
    names = names_of(info.objectives)
    columns = {name: [row.figure(name) for row in rows] for name in names}
    identity = {"trial_id": [row.trial_id for row in rows], "status": [row.status for row in rows]}
    return objective_losses(pd.DataFrame(identity | columns), info.objectives)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)


def _milliseconds(stamp: Any) -> int:
    try:
        return int(datetime.fromisoformat(stamp).timestamp() * 1000)
    except (TypeError, ValueError, OverflowError):
        return 0
