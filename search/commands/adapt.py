"""`medcore adapt`: fine-tune the general checkpoint, or any other, on the training images."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from medcore.models.checkpoint import load, save
from medcore.training.train import EpochRow
from results.store.files import make_folder
from search.base.config import Config
from search.base.provenance import git_revision
from search.study.fit import fit
from search.study.inputs import load_split
from search.study.training_job import TrainingJob, train_settings


def adapt(config: Config, on_epoch: Callable[[EpochRow], None] | None = None, ray_address: str | None = None) -> Path:
    """Train the general checkpoint into a medical one, or train `adapt.start` further.

    A pruned model keeps its structure. The model is written to `adapt.out`, whose path is returned. A training that
    stops after its first epoch is a logged warning.

    Args:
        config: The study's configuration.
        on_epoch: Called after each epoch.
        ray_address: A running cluster for `adapt.workers` > 1.

    Raises:
        MedcoreError: The training stopped in its first epoch.
    """
    settings = config.adapt
    start = settings.start or config.model.base
    model = load(start, config.model.architecture)
    make_folder(settings.out.parent)
    job = TrainingJob(
        "adapt",
        train_settings(settings),
        settings.workers,
        training=load_split(config.datasets, settings.train_split, model.arch.frame),
        validation=load_split(config.datasets, settings.val_split, model.arch.frame),
        seed=config.seed,
        state=settings.out.with_suffix(".state"),
        on_epoch=on_epoch,
        ray_address=ray_address,
    )
    log = fit(job, model)
    info = {"origin": str(start), "log": json.dumps(dataclasses.asdict(log)), "git": git_revision()}
    save(settings.out, model.cpu(), info)
    return settings.out
