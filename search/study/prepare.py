"""What is made once a study, before its first trial."""

from __future__ import annotations

from medcore.data.load import ImageSet
from medcore.scoring.fisher import Progress
from medcore.training.recovery import compute_teacher
from search.base.config import Config
from search.base.device import best_device
from search.study.inputs import Shared, adapted_model, calibration_images
from search.study.scoring import score_table


def prepare(config: Config, search: ImageSet, progress: Progress | None = None) -> Shared:
    """Score and run the teacher; everything after this is a trial's own work. `search`: images trials are judged on."""
    adapted = adapted_model(config)
    calibration = calibration_images(config, adapted.arch.img_size)
    table, _ = score_table(config, calibration, progress)
    teacher = compute_teacher(adapted.to(best_device()), calibration, autocast=config.recovery.autocast)
    adapted.cpu()
    return Shared(config, adapted.arch, table, calibration, search, teacher)
