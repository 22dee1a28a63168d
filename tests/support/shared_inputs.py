"""What the trials of a study share, for tests that try one out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medcore.training.refit.dense_streams import RefitSettings, record_streams
from medcore.training.teacher import compute_teacher
from search.base.config import load_config
from search.commands.sections import trial_settings
from search.study.inputs import Shared, adapted_model
from tests.support.training_samples import random_images


def shared_of(config_file: Path, **search: Any) -> Shared:
    """Return inputs of four random images and no scores. `search`: values that replace the section's."""
    config = load_config(config_file).absolute()
    config = config.model_copy(update={"search": config.search.model_copy(update=search)})
    images, model = random_images(4), adapted_model(config.model)
    table: Any = None  # of no use to a dry run
    teacher = compute_teacher(model, images)
    return Shared(
        settings=trial_settings(config),
        arch=model.arch,
        table=table,
        calibration=images,
        search_images=images,
        search_logits=teacher.logits[:, 0],
        recovery_images=images,
        teacher=teacher,
        streams=record_streams(model, images, RefitSettings()),
    )
