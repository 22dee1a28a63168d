"""Measure a chosen model and the unpruned one once, on a split that the search never used."""

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
from medcore.errors import CheckpointError, ConfigError, MedcoreError
from medcore.models.architectures import spec_from_json
from medcore.models.checkpoint import file_hash, load, read_info
from medcore.models.sides.resized import at_side
from medcore.models.spec import Architecture
from medcore.quality.evaluate import evaluate, summarise
from results.store.held_out import (
    HeldOut,
    Measurement,
    candidates,
    on_same_images,
    read_measured_images,
    read_measurements,
    write_measurement,
)
from results.store.study_info import read_study_info
from search.base.device import best_device
from search.base.provenance import git_revision
from search.study.identity import read_identity
from search.study.inputs import load_split, require_same_samples
from search.study.saved import SavedStudy, require_apart, saved_study

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A model to measure: a study's chosen one or the unpruned one.

    Attributes:
        checkpoint: The model's file.
        trial_id: The trial; None for the unpruned model.
        fine_tuned: Whether it is the trial's model after further training.
        finished: When the trial's row says that it finished.
        architecture: Of a checkpoint that does not describe itself.
    """

    checkpoint: Path
    trial_id: str | None = None
    fine_tuned: bool = False
    finished: str | None = None
    architecture: str | None = None


def held_out(study: Path, values: Mapping[str, Any], candidate: Candidate, say: Callable[[str], None]) -> HeldOut:
    """Measure the candidate and the unpruned model on `data.report_split`.

    The prompts are exact boxes, and the models run in float32. What was measured before is read and not measured again.

    Args:
        study: The study's folder.
        values: The study's configuration as plain values.
        candidate: The model.
        say: Takes a line before a model is run.

    Raises:
        MedcoreError: The data are missing or not held out, and the candidate was never measured.
    """
    try:
        saved, images = _images(study, values, candidate.checkpoint)
    except MedcoreError:
        if (kept := already(study, candidate.checkpoint)) is None:
            raise
        return kept
    split = saved.datasets.section.report_split
    own, table = _HeldOutImages(study, split, images, say).measured(candidate)
    dense, dense_table = None, None
    try:
        _require_same_model(study, saved.model.adapted)
        unpruned = Candidate(saved.model.adapted, architecture=saved.model.architecture)
        arch = _arch_of(candidate.checkpoint)
        unpruned_frame = read_study_info(study).unpruned(arch).frame
        if unpruned_frame != arch.frame:  # the trial sampled its side
            resized, images = images, load_split(saved.datasets, split, unpruned_frame, deal_splits=False)
            require_same_samples(images, resized)
        dense, dense_table = _HeldOutImages(study, split, images, say).measured(unpruned)
    except MedcoreError as error:
        logger.warning("the dense model is not measured on the held-out images: %s", error)
    # `own` is added because a study that cannot be written has not kept it
    return HeldOut(own, table, dense, dense_table, candidates([*read_measurements(study), own], split))


def already(study: Path, checkpoint: Path) -> HeldOut | None:
    """Return the last measurement of a checkpoint, read without the data.

    None if there is none.

    Args:
        study: The study's folder.
        checkpoint: The model's file.
    """
    known, digest = read_measurements(study), file_hash(checkpoint)
    own = next((each for each in reversed(known) if each.checkpoint == digest), None)
    if own is None:
        return None
    dense = next((each for each in reversed(known) if each.trial_id is None and on_same_images(own, each)), None)
    return HeldOut(
        own,
        read_measured_images(study, own),
        dense,
        None if dense is None else read_measured_images(study, dense),
        candidates(known, own.split),
    )


@dataclass(frozen=True)
class _HeldOutImages:
    """The images to measure on, and the study that keeps what they gave.

    Attributes:
        study: The study's folder.
        split: The split that holds the images.
        images: The images.
        say: Takes a line before a model is run.
    """

    study: Path
    split: str
    images: ImageSet
    say: Callable[[str], None]

    def measured(self, candidate: Candidate) -> tuple[Measurement, pd.DataFrame]:
        """Return a model's measurement and its images' metrics.

        Both are read from the study if it has them.
        """
        made = Measurement(
            trial_id=candidate.trial_id,
            fine_tuned=candidate.fine_tuned,
            finished=candidate.finished,
            checkpoint=file_hash(candidate.checkpoint),
            split=self.split,
            data=_fingerprint(self.images),
            truths=_truths(self.images),
            images=len(self.images),
            side=self.images.size,
            metrics={},
            measured=datetime.now(UTC).isoformat(),
            git=git_revision(),
        )
        for kept in read_measurements(self.study):
            if kept.key == made.key:
                return self._known(kept, candidate)
        self.say(f"measuring {made.name} on {len(self.images)} held-out images ({self.split})")
        model = load(candidate.checkpoint, candidate.architecture)
        if model.arch.img_size != self.images.size:  # the study's `model.side`, which the unpruned file lacks
            model = at_side(model, self.images.size)
        rows = evaluate(model.to(best_device()), self.images)
        made, table = dataclasses.replace(made, metrics=summarise(rows)), pd.DataFrame(rows)
        self._keep(made, table)
        return made, table

    def _known(self, kept: Measurement, candidate: Candidate) -> tuple[Measurement, pd.DataFrame]:
        """Return a kept measurement as the candidate's if it is of the same model.

        Save the measurement as the candidate's, too.
        """
        table = read_measured_images(self.study, kept)
        trial_id, fine_tuned = candidate.trial_id, candidate.fine_tuned
        known = dataclasses.replace(kept, trial_id=trial_id, fine_tuned=fine_tuned, finished=candidate.finished)
        # a trial that ran again may end in the same bytes; another trial's measurement stays its own
        if known != kept and (kept.trial_id, kept.fine_tuned) == (trial_id, fine_tuned):
            self._keep(known, table)
        return known, table

    def _keep(self, made: Measurement, table: pd.DataFrame) -> None:
        try:
            write_measurement(self.study, made, table)
        except MedcoreError as error:
            logger.warning("the held-out figures of %s cannot be kept: %s", made.name, error)


def _images(study: Path, values: Mapping[str, Any], checkpoint: Path) -> tuple[SavedStudy, ImageSet]:
    """Return the study's checkpoints and data, and its held-out images.

    The images are those that the study dealt out.

    Raises:
        MedcoreError: They are not there, or not held out.
    """
    data = values.get("data")
    if isinstance(data, Mapping) and "report_split" not in data:
        raise ConfigError(f"{study / 'config.yaml'} names no data.report_split")
    saved = saved_study(study, values)
    section = saved.datasets.section
    require_apart(saved.datasets, section.report_split, section.search_split, section.calibration_split)
    return saved, load_split(saved.datasets, section.report_split, _arch_of(checkpoint).frame, deal_splits=False)


def _arch_of(checkpoint: Path) -> Architecture:
    """Return the architecture of a checkpoint that describes itself."""
    return spec_from_json(read_info(checkpoint)["spec"]).arch


def _require_same_model(study: Path, adapted: Path) -> None:
    """Check that a study's unpruned model is still the file that the study began with, if the study has its hash.

    Raises:
        CheckpointError: It is not.
    """
    known = read_identity(study).files.get("model.adapted")
    if known is not None and known != file_hash(adapted):
        raise CheckpointError(f"{adapted}: holds another model than at the start of {study}; restore that file")


def _fingerprint(images: ImageSet) -> str:
    """Return a hash of all that decides the metrics.

    The hash covers the model's input and the masks at original size.
    """
    digest = hashlib.sha256(images.fingerprint().encode())
    _add_truths(digest, images)
    return digest.hexdigest()


def _truths(images: ImageSet) -> str:
    """Return a hash of names and masks at original size, which no side of a model changes."""
    digest = hashlib.sha256(repr([*zip(images.datasets, images.names, strict=True)]).encode())
    _add_truths(digest, images)
    return digest.hexdigest()


def _add_truths(digest: hashlib._Hash, images: ImageSet) -> None:
    for truth in images.truths:
        digest.update(f"{truth.shape}".encode())
        digest.update(np.packbits(truth).data)
    if images.is_spaced:
        digest.update(repr(images.spacings).encode())
    for void in images.voids:
        digest.update(b"" if void is None else np.packbits(void).data)
