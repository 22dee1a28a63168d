"""A study's chosen model next to others on the same held-out images, as an export measured them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from results.stats import labels
from results.stats.labels import NOT_RECOVERED, RECOVERED
from results.stats.loss import ALL, quality_loss
from results.store.held_out import (
    Measurement,
    candidates,
    on_same_images,
    read_measured_images,
    read_measurements,
)
from results.store.trial_row import TrialRow, row_of


@dataclass(frozen=True)
class Compared:
    """The chosen model and another one on the same held-out images.

    Attributes:
        model: The chosen model in words.
        split: Name of the split.
        images: How many images.
        candidates: How many pruned models of the study were measured on this split.
        against: The other model in words.
        loss: What `results.stats.loss.quality_loss` gives.
    """

    model: str
    split: str
    images: int
    candidates: int
    against: str
    loss: pd.DataFrame

    @property
    def heading(self) -> str:
        """What is compared on which images."""
        model = self.model[:1].upper() + self.model[1:]
        return f"{model} on {self.images} held-out images ({self.split}), next to the {self.against}"


def compared_held_out(study: Path, chosen: TrialRow, recovered: Mapping[str, Any] | None) -> list[Compared]:
    """Return what held-out images say of the chosen model; empty if it was not measured on any.

    It stands next to the dense model as it came and, if that was measured too, after the same recovery. A model that
    was trained further after the search has comparisons of its own, after those of the trial's model.

    Args:
        study: The study's folder.
        chosen: The trial of the chosen model.
        recovered: The row of the dense model after the recovery of all trials, if the study has one.

    Raises:
        MedcoreError: A measurement is corrupt.
    """
    known = read_measurements(study)
    level = None if recovered is None else row_of(recovered)
    found = []
    for own in _latest(_of_trial(known, chosen)):
        same = [each for each in known if on_same_images(own, each)]
        others = {NOT_RECOVERED: [each for each in same if each.trial_id is None]}
        if level is not None and level.trial_id != chosen.trial_id:
            others[RECOVERED] = [each for each in _of_trial(same, level) if not each.fine_tuned]
        for against, measured in others.items():
            if measured:
                found.append(_compared(study, own, measured[-1], against, candidates(known, own.split)))
    return found


def _of_trial(known: Sequence[Measurement], row: TrialRow) -> list[Measurement]:
    """Return the measurements of a trial's models; those of an earlier run of the trial are of another model."""
    return [each for each in known if (each.trial_id, each.finished) == (row.trial_id, row.timing.finished)]


def _latest(own: Sequence[Measurement]) -> list[Measurement]:
    """Return the last measurement of each model and set of images, the trial's own model first."""
    last = {(each.fine_tuned, each.split, each.data): each for each in own}
    return [last[key] for key in sorted(last)]


def _compared(study: Path, own: Measurement, other: Measurement, against: str, count: int) -> Compared:
    tables = read_measured_images(study, other), read_measured_images(study, own)
    loss = quality_loss(other.metrics, own.metrics, *tables)
    return Compared(own.name, own.split, own.images, count, against, loss)


def change_cells(row: Mapping[Any, Any]) -> dict[str, str]:
    """Return a row of `quality_loss` as text with a verdict.

    The verdict is a word, so that it does not depend on colour.
    """
    name, difference = str(row["metric"]), float(row["difference"])
    # a difference is as fine as what it is between
    digits = 4 if max(abs(row["dense"]), abs(row["chosen"])) < 1 else 2
    lower = labels.lower_is_better(name)
    interval = "" if np.isnan(row["lo"]) else f"{_signed(row['lo'], digits)} to {_signed(row['hi'], digits)}"
    verdict = "worse" if (difference > 0) == lower else "better"
    if not difference or (interval and row["lo"] <= 0 <= row["hi"]):
        verdict = "no clear difference"
    return {
        "metric": labels.column_title(name),
        "dataset": "all (macro mean)" if row["dataset"] == ALL else str(row["dataset"]),
        "dense": f"{row['dense']:.{digits}f}",
        "chosen": f"{row['chosen']:.{digits}f}",
        "difference": _signed(difference, digits),
        "interval": interval,
        "verdict": verdict,
    }


def change_rows(loss: pd.DataFrame) -> list[dict[str, str]]:
    """Return the rows of `quality_loss` as text; those of a single data set would repeat the macro means."""
    single = loss.loc[loss["dataset"] != ALL, "dataset"].nunique() < 2
    return [change_cells(row) for row in loss.to_dict("records") if not single or row["dataset"] == ALL]


def change_sentences(loss: pd.DataFrame, metrics: Sequence[str]) -> list[str]:
    """Say what the macro means of these metrics became, one sentence a metric."""
    whole = loss[(loss["dataset"] == ALL) & loss["metric"].isin(metrics)]
    return [_sentence(change_cells(change)) for change in whole.to_dict("records")]


def _sentence(cells: Mapping[str, str]) -> str:
    sure = f" (95 %: {cells['interval']})" if cells["interval"] else ""
    return (
        f"{cells['metric']}: {cells['chosen']} instead of {cells['dense']}, {cells['difference']}{sure}: "
        f"{cells['verdict']}"
    )


def _signed(value: float, digits: int) -> str:
    """Write a number with its sign, a true minus; zero has none."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", "−")
