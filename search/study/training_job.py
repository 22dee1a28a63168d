"""Full-length training, for `medcore adapt` and `medcore export --finetune`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medcore.data.load import ImageSet
from medcore.training.train import EpochRow, TrainSettings
from search.base.sections.training import AdaptConfig, FinetuneConfig


@dataclass(frozen=True)
class TrainingJob:
    """What to train on, how, and where the state is kept.

    Attributes:
        name: The section of the configuration, for messages.
        settings: Settings of the training.
        workers: Number of processes. One is this process on its best device; several run on Ray.
        training: Images to train on.
        validation: Images whose loss chooses the epoch to keep.
        seed: Draws order, jitter and flips.
        state: File that a stopped training continues from. Every node must see it.
        on_epoch: Called in this process after each epoch.
        ray_address: A running cluster for several workers; None for `RAY_ADDRESS`, else a Ray of this process's own.
    """

    name: str
    settings: TrainSettings
    workers: int
    training: ImageSet
    validation: ImageSet
    seed: int
    state: Path
    on_epoch: Callable[[EpochRow], None] | None = None
    ray_address: str | None = None


def train_settings(section: AdaptConfig | FinetuneConfig) -> TrainSettings:
    """Return a section's training settings.

    Settings that the section does not have are the reference's.
    """
    known = {field.name for field in dataclasses.fields(TrainSettings)}
    return TrainSettings(**{name: value for name, value in section.model_dump().items() if name in known})
