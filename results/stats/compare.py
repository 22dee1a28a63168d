"""Compare the fronts of several studies: the best model of each within shares of the cost (method §14)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from results.stats import labels
from results.stats.intervals import macro_interval
from results.stats.objectives import Objective
from results.stats.pareto import front_table

#: Shares of the FLOPs of the first study's dense encoder at which fronts are compared.
SHARES = (0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7)
#: The cost that shares refer to: the FLOPs that run.
COST = "flops_fraction"
_FLOPS = "flops"
#: Budgets miss their target by up to half a group.
_SLACK = 0.001


@dataclass(frozen=True)
class Candidates:
    """What a comparison needs of a study.

    Attributes:
        name: Its name, unique among the compared ones.
        trials: Its table of trials.
        images: Metrics of every image of its trials, with `trial_id`, `dataset` and `name`.
        objectives: What it optimised.
    """

    name: str
    trials: pd.DataFrame
    images: pd.DataFrame
    objectives: tuple[Objective, ...]


def in_shares_of(first: Candidates, study: Candidates) -> Candidates:
    """Return a study whose shares of the FLOPs refer to the dense encoder of another study.

    Studies of other architectures, or of other sides of the square, have dense encoders of other costs.

    Args:
        first: The study that shares will refer to.
        study: The study whose shares change. It stays as it is if one of the costs is unknown.
    """
    ratio = _dense_flops(study.trials) / _dense_flops(first.trials)
    if not math.isfinite(ratio) or math.isclose(ratio, 1.0, rel_tol=1e-6):
        return study
    return replace(study, trials=study.trials.assign(**{COST: study.trials[COST] * ratio}))


def _dense_flops(trials: pd.DataFrame) -> float:
    """Return the FLOPs of the dense encoder of a table of trials; NaN if no trial tells them."""
    if not {_FLOPS, COST} <= set(trials):
        return math.nan
    return float((trials[_FLOPS] / trials[COST]).median())


def compared_quality(studies: Sequence[Candidates]) -> Objective | None:
    """Return the first objective of the first study that is no cost and that all studies have measured."""
    found = (each for each in studies[0].objectives if not labels.is_cost(each.name))
    return next((each for each in found if all(each.name in study.trials for study in studies)), None)


def compare_fronts(studies: Sequence[Candidates], quality: Objective) -> pd.DataFrame:
    """Compare the best members of each front within `SHARES` of the FLOPs with those of the first study.

    Args:
        studies: At least two, whose shares refer to the same dense encoder.
        quality: What is compared.

    Returns:
        One row for each share and study with a member within it: share, study, trial_id, flops (the member's own
        share), value, difference, lo, hi, images. The difference is the macro mean of the differences on the images
        that both members were measured on, and `lo` to `hi` its 95 % bootstrap interval; `images` says how many these
        are. All three are NaN without such images, and for the first study.
    """
    fronts = {study.name: front_table(study.trials, study.objectives) for study in studies}
    rows = []
    for share in SHARES:
        best = {study.name: _best(fronts[study.name], share, quality) for study in studies}
        base = best[studies[0].name]
        for study in studies:
            found = best[study.name]
            if found is None:
                continue
            difference, count = (math.nan, math.nan, math.nan), 0
            if base is not None and study is not studies[0]:
                difference, count = _paired(_images(study, found), _images(studies[0], base), quality.name)
            value = float(found[quality.name])
            rows.append((share, study.name, found["trial_id"], float(found[COST]), value, *difference, count))
    columns = ["share", "study", "trial_id", "flops", "value", "difference", "lo", "hi", "images"]
    return pd.DataFrame(rows, columns=columns)


def comparison_cells(studies: Sequence[Candidates], quality: Objective, table: pd.DataFrame) -> list[list[str]]:
    """Return `compare_fronts` as text: a head, and for each share the best values and the differences."""
    names, first = [study.name for study in studies], studies[0].name
    cells = [[labels.title(COST), *names, *(f"{name} − {first}" for name in names[1:])]]
    for share, rows in table.groupby("share", sort=True):
        by_study = {str(row["study"]): row for row in rows.to_dict("records")}
        values = [_value(quality, by_study.get(name)) for name in names]
        cells.append([f"≤ {share:.0%}", *values, *(_difference(by_study.get(name)) for name in names[1:])])
    return cells


def comparison_note(quality: Objective, table: pd.DataFrame) -> str:
    """Say what is compared, and what the differences and intervals cover."""
    counts = sorted({int(count) for count in table["images"] if count})
    paired = (
        f"Differences, with 95 % intervals in brackets, are over the {' to '.join(map(str, {counts[0], counts[-1]}))} "
        "images that a study has in common with the first. They do not cover the noise of seeds."
        if counts
        else "No study has an image in common with the first, so there are no differences."
    )
    return f"{labels.title(quality.name)} of the best member of each front, on its search images. {paired}"


def _value(quality: Objective, row: Mapping[Hashable, Any] | None) -> str:
    if row is None:
        return "–"
    return f"{row['value']:.4f}" if abs(row["value"]) < 1 else labels.text(quality.name, row["value"])


def _difference(row: Mapping[Hashable, Any] | None) -> str:
    if row is None or math.isnan(row["difference"]):
        return "–"
    return f"{row['difference']:+.4f} ({row['lo']:+.4f} … {row['hi']:+.4f})"


def _best(front: pd.DataFrame, share: float, quality: Objective) -> dict[str, Any] | None:
    within = front[(front[COST] <= share + _SLACK) & front[quality.name].notna()]
    if within.empty:
        return None
    best = within.iloc[[int(np.argmin(quality.sign * within[quality.name].to_numpy(dtype=np.float64)))]]
    return {str(key): value for key, value in best.to_dict("records")[0].items()}


def _images(study: Candidates, member: Mapping[str, Any]) -> pd.DataFrame:
    own: pd.DataFrame = study.images[study.images["trial_id"] == member["trial_id"]]
    return own


def _paired(these: pd.DataFrame, others: pd.DataFrame, metric: str) -> tuple[tuple[float, float, float], int]:
    """Return the difference with its interval, and the number of images."""
    if metric not in these or metric not in others:
        return (math.nan, math.nan, math.nan), 0
    pairs = these.merge(others, on=["dataset", "name"], suffixes=("", "_other"))
    if pairs.empty:
        return (math.nan, math.nan, math.nan), 0
    differences = pairs[metric] - pairs[f"{metric}_other"]
    mean = float(differences.groupby(pairs["dataset"]).mean().mean())
    return (mean, *macro_interval(differences, pairs["dataset"])), len(pairs)
