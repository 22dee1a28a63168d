"""Turn a configuration into the records that the other rooms take."""

from __future__ import annotations

from medcore.data.load import ImageSet
from search.base.config import Config
from search.nodes.session import Resources
from search.study.inputs import TrialSettings, adapted_model, calibration_images, recovery_images
from search.study.prepare import Jobs
from search.study.profile import ProfileJob
from search.study.scoring import ScoringJob
from search.study.teacher import TeacherJob


def trial_settings(config: Config) -> TrialSettings:
    """Return what the configuration says about trials.

    Raises:
        MedcoreError: The table of measured times cannot be read, or belongs to another architecture.
    """
    search = config.search
    return TrialSettings(
        study=config.study,
        seed=config.seed,
        model=config.model,
        scoring=config.scoring,
        recovery=config.recovery,
        budget=config.budget,
        schedule=config.schedule,
        search=search,
        prices=None if search.times is None else search.prices(adapted_model(config.model).arch),
    )


def config_at(config: Config, side: int) -> Config:
    """Return the same configuration for trials on a square of another side."""
    return config.model_copy(update={"model": config.model.at_side(side)})


def scoring_job(config: Config, calibration: ImageSet | None = None, *, fixed_weights: bool = False) -> ScoringJob:
    """Return the scoring job of a study.

    Args:
        config: The study's configuration.
        calibration: Calibration images; None to load those of the study.
        fixed_weights: Whether the table is mixed with the configured scoring weights only. One backward pass an image
            is then enough, unless the criterion reads other boundary weights.
    """
    one = fixed_weights and "fisher" not in config.scoring.weights().needs
    return ScoringJob(
        model=config.model,
        calibration=_calibration(config, calibration),
        nodes=config.scoring.nodes,
        shard_size=config.scoring.part_size,
        cache=config.output / "cache",
        resources=job_resources(config),
        only=config.scoring.boundary_weight if one else None,
        dense_base=config.scoring.base == "dense" and not adapted_model(config.model).spec.is_dense,
    )


def profile_job(config: Config, calibration: ImageSet | None = None) -> ProfileJob:
    """Return the job of a study's second-order profile; the arguments are those of `scoring_job`."""
    return ProfileJob(
        model=config.model,
        calibration=_calibration(config, calibration),
        seed=config.seed,
        shard_size=config.scoring.part_size,
        cache=config.output / "cache",
        resources=job_resources(config),
    )


def teacher_job(config: Config, images: ImageSet | None = None) -> TeacherJob:
    """Return the job of the teacher's answers on the recovery images.

    Args:
        config: The study's configuration.
        images: The images; None to load those of the study.
    """
    size = adapted_model(config.model).arch.frame
    return TeacherJob(
        model=config.model,
        images=recovery_images(config.datasets, size) if images is None else images,
        autocast=config.recovery.autocast,
        shard_size=config.scoring.part_size,
        cache=config.output / "cache",
        resources=job_resources(config),
    )


def study_jobs(config: Config, *, fixed_weights: bool = False, recovers: bool = True) -> Jobs:
    """Return the jobs that a study may need, on images that are loaded once.

    Args:
        config: The study's configuration.
        fixed_weights: As for `scoring_job`.
        recovers: Whether anything is recovered. If not, the teacher's images are the calibration images.
    """
    calibration = _calibration(config, None)
    data = config.data
    same = not recovers or data.recovery_per_dataset == data.calibration_per_dataset
    return Jobs(
        scoring_job(config, calibration, fixed_weights=fixed_weights),
        profile_job(config, calibration),
        teacher_job(config, calibration if same else None),
    )


def _calibration(config: Config, images: ImageSet | None) -> ImageSet:
    if images is not None:
        return images
    return calibration_images(config.datasets, adapted_model(config.model).arch.frame)


def job_resources(config: Config) -> Resources:
    """Return what a job may use of a machine before any trial is measured."""
    return Resources(config.search.cpus_per_trial, config.search.gpu_share)
