"""Run a training at full length, in this process or on several workers."""

from __future__ import annotations

import logging

from medcore.errors import MedcoreError
from medcore.models.sam import MedSam
from medcore.training.train import TrainLog, train
from search.base.device import best_device
from search.study.training_job import TrainingJob

logger = logging.getLogger(__name__)


def fit(job: TrainingJob, model: MedSam) -> TrainLog:
    """Train `model` in place. It ends with the weights of the best validation loss.

    A stopped training continues from `job.state`. Several workers end in the same weights as one, up to rounding. A
    training that stops after its first epoch is a logged warning.

    Raises:
        MedcoreError: The training stopped in its first epoch, or the workers failed.
    """
    if job.workers > 1:
        from search.study.workers import train_on_workers

        log = train_on_workers(job, model)
    else:
        log = train(
            model.to(best_device()),
            job.training,
            job.validation,
            job.settings,
            seed=job.seed,
            on_epoch=job.on_epoch,
            state_path=job.state,
        )
    name = job.name
    if log.stopped is not None and not log.epochs:
        raise MedcoreError(f"{name}: {log.stopped}; nothing was learnt, so nothing is written: lower {name}.lr")
    if log.stopped is not None:
        logger.warning(
            f"{name} ended after {len(log.epochs)} of {job.settings.epochs} epochs: {log.stopped}; its best weights "
            f"are written, for more lower {name}.lr, delete {job.state}"
        )
    return log
