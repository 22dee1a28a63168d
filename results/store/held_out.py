"""What models of a study measured on images held out from it, kept so that nothing is measured there twice.

    STUDY/held_out/KEY.json       one measurement: which model, which images, its means
    STUDY/held_out/KEY.parquet    the metrics of every image

A measurement is named by a hash of the checkpoint's content, the part of the data and its images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medcore.errors import MedcoreError
from results.stats.intervals import macro_interval
from results.stats.labels import METRICS, PREFIX, text
from results.store.files import read_json, write_by_rename

_FOLDER = "held_out"
_MEND = "delete it, and the next export measures again"
_SPOKEN = ("boundary_f1", "hd95", "dice")


@dataclass(frozen=True)
class Measurement:
    """One model on one part.

    Attributes:
        trial_id: None for the unpruned model. fine_tuned: the trial's model after further training.
        finished: when the trial's row says that it finished, so that a row of a later run is told apart.
        checkpoint: SHA-256 of the file. split, data: the part, and a hash of its images. images: how many.
        metrics: as `medcore.quality.evaluate.summarise` gives them. measured: ISO time. git: revision that measured.
    """

    trial_id: str | None
    fine_tuned: bool
    finished: str | None
    checkpoint: str
    split: str
    data: str
    images: int
    metrics: Mapping[str, float]
    measured: str
    git: str

    @property
    def key(self) -> str:
        """Name of its files."""
        return hashlib.sha256(json.dumps([self.checkpoint, self.split, self.data]).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The model in words."""
        if self.trial_id is None:
            return "the dense model"
        return f"trial {self.trial_id}{', fine-tuned' if self.fine_tuned else ''}"


@dataclass(frozen=True)
class HeldOut:
    """A model and the unpruned one on the same held-out images; what was not measured of the latter is None.

    Attributes:
        images, dense_images: metrics of every image (`dataset`, `name`, metrics).
        candidates: how many pruned models of the study were measured on this part so far, this one included.
    """

    model: Measurement
    images: pd.DataFrame
    dense: Measurement | None
    dense_images: pd.DataFrame | None
    candidates: int

    def line(self) -> str:
        """`held-out val/report, 75 images: Boundary F1 0.71 (0.66–0.75), …; dense model 0.76 (0.72–0.80), …`."""
        words = f"held-out {self.model.split}, {self.model.images} images: {_spoken(self.model, self.images, True)}"
        if self.dense is None or self.dense_images is None:
            return words
        return f"{words}; dense model: {_spoken(self.dense, self.dense_images, False)}"


def write_measurement(study: Path, measurement: Measurement, images: pd.DataFrame) -> None:
    """Keep a measurement, its images first. Raises `MedcoreError` if the study cannot be written."""
    buffer = io.BytesIO()
    images.to_parquet(buffer, index=False)
    file = study / _FOLDER / f"{measurement.key}.json"
    write_by_rename(file.with_suffix(".parquet"), buffer.getvalue())
    write_by_rename(file, (json.dumps(dataclasses.asdict(measurement), indent=1) + "\n").encode())


def read_measurements(study: Path) -> list[Measurement]:
    """All that a study has kept, the oldest first. Raises `MedcoreError` naming a file that is corrupt."""
    found = []
    for path in (study / _FOLDER).glob("*.json"):
        fields = read_json(path, _MEND)
        try:
            measurement = Measurement(**fields)
            if path.stem != measurement.key:
                raise ValueError("its name is of another measurement")
        except (TypeError, ValueError) as error:
            raise MedcoreError(f"{path}: corrupt ({error}); {_MEND}") from None
        found.append(measurement)
    return sorted(found, key=lambda measurement: (measurement.measured, measurement.key))


def read_measured_images(study: Path, measurement: Measurement) -> pd.DataFrame:
    """Metrics of every image of a measurement. Raises `MedcoreError` if the file is missing or damaged."""
    path = study / _FOLDER / f"{measurement.key}.parquet"
    try:
        return pd.read_parquet(io.BytesIO(path.read_bytes()))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise MedcoreError(
            f"{path}: cannot be read ({reason}); delete it and {path.stem}.json, and the next export measures again"
        ) from None


def report_columns(row: Mapping[str, Any], measurements: Sequence[Measurement]) -> dict[str, float]:
    """`report/METRIC` of a trial's own model, by its latest measurement; none if it was never measured."""
    own = [
        measurement
        for measurement in measurements
        if not measurement.fine_tuned
        and measurement.trial_id == row["trial_id"]
        and measurement.finished == row.get("finished")
    ]
    return prefixed(own[-1]) if own else {}


def prefixed(measurement: Measurement) -> dict[str, float]:
    """Its means as columns of a row."""
    return {f"{PREFIX}{name}": value for name, value in measurement.metrics.items()}


def candidates(measurements: Sequence[Measurement], split: str) -> int:
    """How many different pruned models were measured on a part: with more than one, the best of them looks too good."""
    return len({each.checkpoint for each in measurements if each.trial_id is not None and each.split == split})


def candidates_sentence(count: int) -> str:
    """What a reader must know of that number."""
    if count == 1:
        return "1 candidate of this study was measured on it."
    return (
        f"{count} candidates of this study were measured on it: if this one was taken because it was good there, "
        "its held-out figure is too good as well."
    )


def interval_text(images: pd.DataFrame, name: str, dash: str = "–") -> str:
    """`0.66–0.75`: 95 % bootstrap interval of a macro mean; empty where an image lacks the metric."""
    if name not in images or images[name].isna().any():
        return ""
    low, high = macro_interval(images[name], images["dataset"])
    return f"{low:.4g}{dash}{high:.4g}"


def _spoken(measurement: Measurement, images: pd.DataFrame, titles: bool) -> str:
    return ", ".join(
        f"{METRICS[name].title + ' ' if titles else ''}{text(name, measurement.metrics[name])} "
        f"({interval_text(images, name)})"
        for name in _SPOKEN
    )
