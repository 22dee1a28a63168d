"""What a study computes once, before its first trial."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from medcore.data.load import ImageSet
from medcore.models.sam import MedSam
from medcore.quality.evaluate import low_logits
from medcore.scoring.fisher import Progress
from medcore.scoring.job import weights_table
from medcore.scoring.score_table import ScoreTable
from medcore.training.refit.dense_streams import DenseStreams, record_streams
from search.base.device import on_device
from search.study.inputs import Shared, TrialSettings, adapted_model, refit_settings
from search.study.needs import Needs, needs_of
from search.study.profile import ProfileJob, study_profile
from search.study.scoring import ScoringJob, score_table
from search.study.teacher import TeacherJob, study_teacher

#: Called with the name of a job, and the numbers of its finished and of all images; both are 0 if they are not counted.
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Jobs:
    """The jobs that a study may need.

    Attributes:
        scoring: Fisher information of both models.
        profile: The second-order profile.
        teacher: The unpruned model's answers on the recovery images.
    """

    scoring: ScoringJob
    profile: ProfileJob
    teacher: TeacherJob


def prepare(
    settings: TrialSettings,
    jobs: Jobs,
    images: ImageSet,
    report: Report | None = None,
    *,
    needs: Needs | None = None,
) -> Shared:
    """Compute statistics and teacher outputs, and return what the trials share.

    Args:
        settings: What the configuration says about trials.
        jobs: The jobs, with their images.
        images: Images on which the trials are evaluated.
        report: Called as the jobs go on.
        needs: The statistics that the trials read; None for what the settings say.
    """
    adapted, autocast = adapted_model(settings.model), settings.recovery.autocast
    table = statistics(jobs, needs or needs_of(settings), report)
    teacher = study_teacher(jobs.teacher, progress_of("teacher", report))
    if report is not None:
        report("the dense model's answers", 0, 0)
    with on_device(adapted):
        logits = low_logits(adapted, images, autocast=autocast)
        streams = _streams(adapted, settings, jobs.scoring.calibration)
    return Shared(
        settings=settings,
        arch=adapted.arch,
        table=table,
        calibration=jobs.scoring.calibration,
        search_images=images,
        search_logits=logits.astype(np.float16),
        recovery_images=jobs.teacher.images,
        teacher=teacher,
        streams=streams,
        start=None if adapted.spec.is_dense else adapted.spec,
    )


def statistics(jobs: Jobs, needs: Needs, report: Report | None = None) -> ScoreTable:
    """Return the score table with what is needed, and nothing else.

    Args:
        jobs: The jobs, with their images.
        needs: The statistics that will be read.
        report: Called as the jobs go on.
    """
    calibration = jobs.scoring.calibration
    if needs.fisher:
        table, _ = score_table(jobs.scoring, progress_of("scores", report))
    else:
        table = weights_table(adapted_model(jobs.scoring.model), tuple(dict.fromkeys(calibration.datasets)))
    if not needs.profile:
        return table
    return replace(table, profile=study_profile(jobs.profile, progress_of("profile", report)))


def progress_of(name: str, report: Report | None) -> Progress | None:
    """Return the progress callback of one job."""
    if report is None:
        return None
    return lambda done, total: report(name, done, total)


def _streams(adapted: MedSam, settings: TrialSettings, calibration: ImageSet) -> DenseStreams | None:
    refit = refit_settings(settings.recovery)
    return None if refit is None else record_streams(adapted, calibration, refit)
