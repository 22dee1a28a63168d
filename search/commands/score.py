"""`medcore score`: score every prunable group by every criterion."""

from __future__ import annotations

from pathlib import Path

from medcore.scoring.fisher import Progress
from search.base.config import Config
from search.commands.sections import scoring_job
from search.study.inputs import adapted_model
from search.study.scoring import save_heatmaps, score_table


def score(config: Config, progress: Progress | None = None) -> tuple[Path, Path]:
    """Compute the score table, unless its inputs have one, and draw every criterion.

    Return both files.

    Args:
        config: The study's configuration.
        progress: Called with the numbers of scored and of all images.
    """
    table, path = score_table(scoring_job(config), progress)
    picture = path.with_suffix(".png")
    save_heatmaps(config.scoring, adapted_model(config.model).arch, table, picture)
    return path, picture
