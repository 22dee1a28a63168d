"""Figures of a study's models on images that were held out from it, kept so that nothing is measured there twice.

    STUDY/held_out/KEY.json       one measurement: which model, which images, its means
    STUDY/held_out/KEY.parquet    the metrics of every image

KEY is a hash of the checkpoint's content, the split of the data and its images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import pandas as pd

from medcore.errors import MedcoreError, brief
from medcore.files import refuse_links
from medcore.quality.catalogue import headlines
from results.stats.columns import HELD_OUT, prefixed
from results.stats.intervals import macro_interval
from results.stats.labels import NOT_RECOVERED, text, title
from results.store.files import is_number, read_json, write_by_rename

#: Folder of the measurements in that of a study.
FOLDER = "held_out"
#: Columns that name an image.
_IMAGE = ("dataset", "name")
_MEND = "delete it, and the next export measures again"


@dataclass(frozen=True)
class Measurement:
    """One model on one split.

    Attributes:
        trial_id: None for the unpruned model.
        fine_tuned: Whether it is the trial's model after further training.
        finished: When the trial finished, as its row says; a row of a later run has another time.
        checkpoint: SHA-256 of the file.
        split: Name of the split.
        data: Hash of its images.
        images: How many.
        metrics: As `medcore.quality.evaluate.summarise` gives them.
        measured: ISO time.
        git: Revision that measured.
        side: Pixels along the square that the model saw; None in files of earlier versions.
        truths: Hash of names and masks, which are the same at all sides; None in files of earlier versions.
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
    side: int | None = None
    truths: str | None = None

    @property
    def key(self) -> str:
        """The name of its files."""
        return hashlib.sha256(json.dumps([self.checkpoint, self.split, self.data]).encode()).hexdigest()[:16]

    @property
    def name(self) -> str:
        """The model in words."""
        if self.trial_id is None:
            return "the dense model"
        return f"trial {self.trial_id}{', fine-tuned' if self.fine_tuned else ''}"


@dataclass(frozen=True)
class HeldOut:
    """A model and the unpruned one on the same held-out images.

    Attributes:
        model: The measured model.
        images: Its metrics of every image, with `dataset` and `name`.
        dense: The unpruned model, None if it was not measured.
        dense_images: Its metrics of every image.
        candidates: How many pruned models of the study were measured on this split so far, this one included.
    """

    model: Measurement
    images: pd.DataFrame
    dense: Measurement | None
    dense_images: pd.DataFrame | None
    candidates: int

    def line(self) -> str:
        """Say it in a line.

        Such as `held-out val/report, 75 images: Boundary F1 0.71 (0.66–0.75), …; dense model, not recovered: 0.76
        (0.72–0.80), …`.
        """
        words = f"held-out {self.model.split}, {self.model.images} images: {_spoken(self.model, self.images, True)}"
        if self.dense is None or self.dense_images is None:
            return words
        return f"{words}; {NOT_RECOVERED}: {_spoken(self.dense, self.dense_images, False)}"


def write_measurement(study: Path, measurement: Measurement, images: pd.DataFrame) -> None:
    """Keep a measurement, its images first.

    Raises:
        StorageError: The study cannot be written, or its folder of measurements is a link.
    """
    buffer = io.BytesIO()
    images.to_parquet(buffer, index=False)
    file = study / FOLDER / f"{measurement.key}.json"
    refuse_links(study, FOLDER)
    write_by_rename(file.with_suffix(".parquet"), buffer.getvalue())
    write_by_rename(file, (json.dumps(dataclasses.asdict(measurement), indent=1) + "\n").encode())


def held_out_files(study: Path) -> dict[str, Path]:
    """Return the files of all measurements of a study by their places in its folder."""
    files = [path for path in (study / FOLDER).glob("*") if path.suffix in (".json", ".parquet")]
    return {f"{FOLDER}/{path.name}": path for path in sorted(files)}


def read_measurements(study: Path) -> list[Measurement]:
    """Read all measurements of a study, the oldest first.

    Raises:
        MedcoreError: A file is corrupt.
    """
    measurements = []
    for path in (study / FOLDER).glob("*.json"):
        fields = read_json(path, _MEND)
        try:
            measurement = Measurement(**fields)
            _check_types(measurement)
            if path.stem != measurement.key:
                raise ValueError("its name is of another measurement")
        except (TypeError, ValueError) as error:
            raise MedcoreError(f"{path}: corrupt ({error}); {_MEND}") from None
        measurements.append(measurement)
    return sorted(measurements, key=lambda measurement: (measurement.measured, measurement.key))


def on_same_images(one: Measurement, other: Measurement) -> bool:
    """Return whether two measurements are of the same images.

    Models of different sides see them in different sizes. Then names and masks at full size are compared.
    """
    if one.side == other.side or one.truths is None:
        return (one.split, one.data) == (other.split, other.data)
    return (one.split, one.truths) == (other.split, other.truths)


def _check_types(measurement: Measurement) -> None:
    """Check the fields of a measurement that comes from a file.

    Raises:
        TypeError: One is of another type, or a mean is no number.
    """
    texts = ("checkpoint", "split", "data", "measured", "git")
    wrong = [name for name in texts if not isinstance(getattr(measurement, name), str)]
    wrong += [name for name in ("trial_id", "finished") if not isinstance(getattr(measurement, name), (str, NoneType))]
    wrong += ["images"] if not isinstance(measurement.images, int) else []
    wrong += ["side"] if not isinstance(measurement.side, (int, NoneType)) else []
    wrong += ["truths"] if not isinstance(measurement.truths, (str, NoneType)) else []
    metrics = measurement.metrics
    if not isinstance(metrics, dict) or not all(is_number(value) for value in metrics.values()):
        wrong.append("metrics")
    if wrong:
        raise TypeError(f"{', '.join(wrong)} of another type")


def read_measured_images(study: Path, measurement: Measurement) -> pd.DataFrame:
    """Read the metrics of every image of a measurement.

    Raises:
        MedcoreError: The file is missing or damaged.
    """
    path = study / FOLDER / f"{measurement.key}.parquet"
    try:
        images = pd.read_parquet(io.BytesIO(path.read_bytes()))
        check_image_columns(images)
        return images
    except (OSError, ValueError, TypeError) as error:
        reason = brief(error, first=200)
        raise MedcoreError(
            f"{path}: cannot be read ({reason}); delete it and {path.stem}.json, and the next export measures again"
        ) from None


def check_image_columns(images: pd.DataFrame) -> None:
    """Check a table of metrics of images that comes from a file; an analysis measures an image in two phases.

    Raises:
        ValueError: It lacks the names of the images, names one twice, or holds something else than numbers.
    """
    if missing := [name for name in _IMAGE if name not in images]:
        raise ValueError(f"no column {', '.join(missing)}")
    labels = [*_IMAGE, *(name for name in ("trial_id", "phase") if name in images)]
    if not all(isinstance(value, str) for name in labels for value in images[name]):
        raise ValueError(f"{', '.join(labels)} must be text")
    if wrong := [str(name) for name in images if name not in labels and not _is_numeric(images[name])]:
        raise ValueError(f"{', '.join(wrong)} must be numbers")
    if images.duplicated(labels).any():
        raise ValueError("an image has two rows")


def _is_numeric(column: pd.Series[Any]) -> bool:
    if pd.api.types.is_numeric_dtype(column):
        return True
    return all(is_number(value) for value in column if value is not None)


def report_columns(trial_id: str, finished: str | None, measurements: Sequence[Measurement]) -> dict[str, float]:
    """Return the columns `report/METRIC` of a trial's own model.

    The columns come from the latest measurement. The result is empty if the model was never measured.

    Args:
        trial_id: The trial.
        finished: When it finished, as its row says.
        measurements: All of the study, the oldest first.
    """
    own = [
        measurement
        for measurement in measurements
        if not measurement.fine_tuned and measurement.trial_id == trial_id and measurement.finished == finished
    ]
    return held_out_means(own[-1]) if own else {}


def held_out_means(measurement: Measurement) -> dict[str, float]:
    """Return the means of a measurement under their column names, `report/METRIC`."""
    return prefixed(HELD_OUT, measurement.metrics)


def candidates(measurements: Sequence[Measurement], split: str) -> int:
    """Count the different pruned models that were measured on a split.

    The best of several looks too good.
    """
    return len({each.checkpoint for each in measurements if each.trial_id is not None and each.split == split})


def candidates_sentence(count: int) -> str:
    """Say what a reader must know of that number."""
    if count == 1:
        return "1 candidate of this study was measured on it."
    return (
        f"{count} candidates of this study were measured on it: if this one was taken because it was good there, "
        "its held-out figure is too good as well."
    )


def interval_text(images: pd.DataFrame, name: str, dash: str = "–") -> str:
    """Write the 95 % bootstrap interval of a macro mean, as `0.66–0.75`.

    The text is empty if an image lacks the metric.
    """
    if name not in images or images[name].isna().any():
        return ""
    low, high = macro_interval(images[name], images["dataset"])
    return f"{low:.4g}{dash}{high:.4g}"


def _spoken(measurement: Measurement, images: pd.DataFrame, titles: bool) -> str:
    return ", ".join(
        f"{title(name) + ' ' if titles else ''}{text(name, measurement.metrics[name])} ({interval_text(images, name)})"
        for name in headlines()
        if name in measurement.metrics
    )
