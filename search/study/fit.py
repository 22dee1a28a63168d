"""What `medcore adapt` and `medcore export --finetune` share: a training at full length, and how it may end."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

from medcore.data.load import ImageSet
from medcore.errors import MedcoreError
from medcore.models.sam import MedSam
from medcore.training.train import EpochRow, TrainLog, TrainSettings, train
from search.base.config import AdaptConfig, FinetuneConfig
from search.base.device import best_device

logger = logging.getLogger(__name__)


def train_settings(section: AdaptConfig | FinetuneConfig) -> TrainSettings:
    """A section's training settings; what it does not name is the reference's."""
    known = {field.name for field in dataclasses.fields(TrainSettings)}
    return TrainSettings(**{name: value for name, value in section.model_dump().items() if name in known})


def fit(
    name: str,
    section: AdaptConfig | FinetuneConfig,
    model: MedSam,
    training: ImageSet,
    validation: ImageSet,
    seed: int,
    state: Path,
    on_epoch: Callable[[EpochRow], None] | None = None,
    ray_address: str | None = None,
) -> TrainLog:
    """Train `model` in place, resumably through the file `state`; it ends with the weights of the best validation loss.

    One worker is this process, on its best device; several run on Ray (`search.study.workers`), with the same outcome
    up to rounding.

    Args:
        name: of the section, for messages.
        ray_address: a running cluster for several workers (default: `RAY_ADDRESS`, else a Ray of this process's own).

    Raises `MedcoreError` if the training stopped before its first epoch was done; a later stop is a logged warning.
    """
    settings = train_settings(section)
    if section.workers > 1:
        from search.study.workers import train_on_workers

        log = train_on_workers(
            name, section.workers, model, training, validation, settings, seed, state, on_epoch, ray_address
        )
    else:
        model.to(best_device())
        log = train(model, training, validation, settings, seed=seed, on_epoch=on_epoch, state_path=state)
    if log.stopped is not None and not log.epochs:
        raise MedcoreError(f"{name}: {log.stopped}; nothing was learnt, so nothing is written: lower {name}.lr")
    if log.stopped is not None:
        logger.warning(
            "%s ended after %d of %d epochs: %s; its best weights are written, for more lower %s.lr, delete %s",
            *(name, len(log.epochs), section.epochs, log.stopped, name, state),
        )
    return log
