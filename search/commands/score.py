"""`medcore score`: score every prunable group by every criterion."""

from __future__ import annotations

from pathlib import Path

from results.plots.curves import save_curves
from search.base.config import Config
from search.commands.sections import study_jobs
from search.study.inputs import adapted_model
from search.study.needs import ALL
from search.study.prepare import Report, statistics
from search.study.scoring import save_heatmaps, table_path


def score(config: Config, report: Report | None = None) -> list[Path]:
    """Compute all statistics, unless their inputs have some, and draw every criterion and the predicted losses.

    Args:
        config: The study's configuration.
        report: Called with the name of each job, and its numbers of finished and of all images.

    Returns:
        The score table, its picture and the picture of the predicted losses.
    """
    jobs = study_jobs(config, recovers=False)
    table, path, arch = statistics(jobs, ALL, report), table_path(jobs.scoring), adapted_model(config.model).arch
    if report is not None:
        report("drawing scores", 0, 0)
    assert table.profile is not None
    pictures = [path.with_suffix(".png"), path.with_suffix(".curves.png")]
    save_heatmaps(config.scoring, arch, table, pictures[0])
    save_curves(table.profile.dense_curves(arch), arch, pictures[1])
    return [path, *pictures]
