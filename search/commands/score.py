"""`medcore score`: score every prunable group by every criterion."""

from __future__ import annotations

from pathlib import Path

from medcore.scoring.fisher import Progress
from search.base.config import Config
from search.study.inputs import adapted_model, calibration_images
from search.study.scoring import save_heatmaps, score_table


def score(config: Config, progress: Progress | None = None) -> tuple[Path, Path]:
    """Score table (cached by its inputs) and heat maps of all criteria. Returns both files."""
    adapted = adapted_model(config)
    calibration = calibration_images(config, adapted.arch.img_size)
    table, path = score_table(config, calibration, progress)
    picture = path.with_suffix(".png")
    save_heatmaps(config, table, picture)
    return path, picture
