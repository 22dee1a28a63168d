"""Turn a configuration into the records that the other rooms take."""

from __future__ import annotations

from medcore.data.load import ImageSet
from search.base.config import Config
from search.nodes.session import Resources
from search.study.inputs import TrialSettings, adapted_model, calibration_images
from search.study.scoring import ScoringJob


def trial_settings(config: Config) -> TrialSettings:
    """Return what the configuration says about trials."""
    return TrialSettings(
        study=config.study,
        seed=config.seed,
        model=config.model,
        scoring=config.scoring,
        recovery=config.recovery,
        budget=config.budget,
        schedule=config.schedule,
        search=config.search,
    )


def scoring_job(config: Config, calibration: ImageSet | None = None) -> ScoringJob:
    """Return the scoring job of a study.

    Args:
        config: The study's configuration.
        calibration: Calibration images; None to load those of the study.
    """
    if calibration is None:
        calibration = calibration_images(config.datasets, adapted_model(config.model).arch.img_size)
    return ScoringJob(
        model=config.model,
        calibration=calibration,
        nodes=config.scoring.nodes,
        shard_size=config.scoring.part_size,
        cache=config.output / "cache",
        resources=job_resources(config),
    )


def job_resources(config: Config) -> Resources:
    """Return what a job may use of a machine before any trial is measured."""
    return Resources(config.search.cpus_per_trial, config.search.gpu_share)
