"""`medcore adapt`: fine-tune the general checkpoint on the training images."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from medcore.models.checkpoint import load, save
from results.store.files import make_folder
from search.base.config import Config
from search.base.provenance import git_revision
from search.study.fit import fit
from search.study.inputs import load_split


def adapt(config: Config, on_epoch: Callable[..., None] | None = None, ray_address: str | None = None) -> Path:
    """General checkpoint and training images in, medical checkpoint out (`adapt.out`). Returns its path.

    ray_address: of a running cluster, for `adapt.workers` > 1.

    Raises `MedcoreError` if the training stopped before its first epoch was done; a later stop is a logged warning.
    """
    settings = config.adapt
    model = load(config.model.base, config.model.architecture)
    make_folder(settings.out.parent)
    log = fit(
        "adapt",
        settings,
        model,
        load_split(config, settings.train_split, model.arch.img_size, None),
        load_split(config, settings.val_split, model.arch.img_size, None),
        config.seed,
        settings.out.with_suffix(".state"),
        on_epoch,
        ray_address,
    )
    info = {"origin": str(config.model.base), "log": json.dumps(dataclasses.asdict(log)), "git": git_revision()}
    save(settings.out, model.cpu(), info)
    return settings.out
