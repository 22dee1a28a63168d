"""What is made once a study, before its first trial."""

from __future__ import annotations

from medcore.fisher import Progress
from medcore.recovery import compute_teacher
from search.config import Config
from search.device import best_device
from search.scoring import score_table
from search.study import Shared, adapted_model, calibration_images, load_split


def prepare(config: Config, progress: Progress | None = None) -> Shared:
    """Load, score and run the teacher; everything after this is a trial's own work."""
    adapted = adapted_model(config)
    size = adapted.arch.img_size
    calibration = calibration_images(config, size)
    search = load_split(config, config.data.search_split, size, config.data.search_per_dataset)
    table, _ = score_table(config, calibration, progress)
    teacher = compute_teacher(adapted.to(best_device()), calibration, autocast=config.recovery.autocast)
    adapted.cpu()
    return Shared(config, adapted.arch, table, calibration, search, teacher)
