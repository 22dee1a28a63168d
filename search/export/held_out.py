"""The honest figure: a chosen model, and the unpruned one, on the part that the search never saw; each only once."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medcore.data.load import ImageSet
from medcore.errors import MedcoreError
from medcore.models.checkpoint import file_hash, load, read_info
from medcore.models.spec import EncoderSpec
from medcore.quality.evaluate import evaluate, summarise
from results.store.held_out import (
    HeldOut,
    Measurement,
    candidates,
    read_measured_images,
    read_measurements,
    write_measurement,
)
from search.base.config import Config
from search.base.device import best_device
from search.base.provenance import git_revision
from search.study.inputs import load_split
from search.study.saved import config_of, require_apart

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A model of a study that is about to leave it; the first three fields are those of `Measurement`."""

    trial_id: str
    fine_tuned: bool
    finished: str | None
    checkpoint: Path


def held_out(study: Path, values: Mapping[str, Any], candidate: Candidate, say: Callable[[str], None]) -> HeldOut:
    """Measure the candidate and the unpruned model on `data.report_split`, exact boxes, float32, or find them measured.

    Args:
        values: the study's configuration as plain values. say: is told before a model is run.

    Raises `MedcoreError` where the data are not at hand or are not held out, and the candidate was never measured.
    """
    try:
        config, images = _images(study, values, candidate.checkpoint)
    except MedcoreError:
        if (kept := already(study, candidate.checkpoint)) is None:
            raise
        return kept
    split = config.data.report_split
    part = _Part(study, split, _fingerprint(images), images, say)
    whose = {"trial_id": candidate.trial_id, "fine_tuned": candidate.fine_tuned, "finished": candidate.finished}
    own, table = part.measured(candidate.checkpoint, None, **whose)
    dense, dense_table = None, None
    try:
        dense, dense_table = part.measured(
            *(config.model.adapted, config.model.architecture), trial_id=None, fine_tuned=False, finished=None
        )
    except MedcoreError as error:
        logger.warning("the dense model is not measured on the held-out images: %s", error)
    # a study that cannot be written has not kept the candidate
    return HeldOut(own, table, dense, dense_table, candidates([*read_measurements(study), own], split))


def already(study: Path, checkpoint: Path) -> HeldOut | None:
    """What was measured of a checkpoint last, read without its data; None if it never was."""
    known, digest = read_measurements(study), file_hash(checkpoint)
    own = next((found for found in reversed(known) if found.checkpoint == digest), None)
    if own is None:
        return None
    beside = ((found.split, found.data) == (own.split, own.data) and found.trial_id is None for found in known)
    dense = next((found for found, same in zip(known, beside, strict=True) if same), None)
    return HeldOut(
        own,
        read_measured_images(study, own),
        dense,
        None if dense is None else read_measured_images(study, dense),
        candidates(known, own.split),
    )


@dataclass(frozen=True)
class _Part:
    """The images to measure on, and where what they gave is kept. data: a hash of them."""

    study: Path
    split: str
    data: str
    images: ImageSet
    say: Callable[[str], None]

    def measured(self, file: Path, architecture: str | None, **whose: Any) -> tuple[Measurement, pd.DataFrame]:
        """The model's measurement and its images' metrics, from the study where it is known."""
        made = Measurement(
            **whose,
            checkpoint=file_hash(file),
            split=self.split,
            data=self.data,
            images=len(self.images),
            metrics={},
            measured=datetime.now(UTC).isoformat(),
            git=git_revision(),
        )
        for found in read_measurements(self.study):
            if found.key == made.key:
                table = read_measured_images(self.study, found)
                known = dataclasses.replace(found, **whose)
                # a trial that ran again may end in the same bytes; another trial's measurement stays its own
                if known != found and (known.trial_id, known.fine_tuned) == (found.trial_id, found.fine_tuned):
                    self._keep(known, table)
                return known, table
        self.say(f"measuring {made.name} on {len(self.images)} held-out images ({self.split})")
        rows = evaluate(load(file, architecture).to(best_device()), self.images)
        made, table = dataclasses.replace(made, metrics=summarise(rows)), pd.DataFrame(rows)
        self._keep(made, table)
        return made, table

    def _keep(self, made: Measurement, table: pd.DataFrame) -> None:
        try:
            write_measurement(self.study, made, table)
        except MedcoreError as error:
            logger.warning("the held-out figures of %s cannot be kept: %s", made.name, error)


def _images(study: Path, values: Mapping[str, Any], checkpoint: Path) -> tuple[Config, ImageSet]:
    """The held-out images as the study dealt them. Raises `MedcoreError` if they are not there, or not held out."""
    data = values.get("data")
    if isinstance(data, Mapping) and "report_split" not in data:
        raise MedcoreError(f"{study / 'config.yaml'} names no data.report_split")
    config = config_of(study, values)
    require_apart(config, config.data.report_split, config.data.search_split, config.data.calibration_split)
    size = EncoderSpec.from_json(read_info(checkpoint)["spec"]).arch.img_size
    return config, load_split(config, config.data.report_split, size, None, deal_splits=False)


def _fingerprint(images: ImageSet) -> str:
    """Hash of all that decides the metrics: what the model sees, and the masks at original size."""
    digest = hashlib.sha256(images.fingerprint().encode())
    for truth in images.truths:
        digest.update(f"{truth.shape}".encode())
        digest.update(np.packbits(truth).data)
    return digest.hexdigest()
