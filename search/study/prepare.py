"""What a study computes once, before its first trial."""

from __future__ import annotations

from medcore.data.load import ImageSet
from medcore.scoring.fisher import Progress
from medcore.training.recovery import compute_teacher
from search.base.device import on_device
from search.study.inputs import Shared, TrialSettings, adapted_model
from search.study.scoring import ScoringJob, score_table


def prepare(settings: TrialSettings, job: ScoringJob, images: ImageSet, progress: Progress | None = None) -> Shared:
    """Compute scores and teacher outputs, and return what the trials share.

    Args:
        settings: What the configuration says about trials.
        job: The scoring job, with the calibration images.
        images: Images on which the trials are evaluated.
        progress: Called with the numbers of scored and of all images.
    """
    adapted = adapted_model(settings.model)
    table, _ = score_table(job, progress)
    with on_device(adapted):
        teacher = compute_teacher(adapted, job.calibration, autocast=settings.recovery.autocast)
    return Shared(
        settings=settings,
        arch=adapted.arch,
        table=table,
        calibration=job.calibration,
        search_images=images,
        teacher=teacher,
    )
