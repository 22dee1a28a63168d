"""The phases of a trial: prune and recover as a plan says, then evaluate.

A worker performs one phase for each step of Tune and reports its figures, so that a scheduler can stop the trial.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from typing import Any

import numpy as np

from medcore.models.sam import MedSam
from medcore.models.spec import ModelSpec
from medcore.quality.evaluate import evaluate, summarise
from medcore.scoring.criteria import mix
from medcore.training.recovery import RecoverySettings
from medcore.training.schedule import PhaseEnd, Schedule, rounds_to, start_of
from search.base.schedulers import NONE, PROGRESS
from search.base.sections.pruning import RecoveryConfig
from search.study.inputs import Shared, adapted_model, cost_metrics
from search.trials.phase_result import PhaseResult
from search.trials.recorder import Recorder, recorded_phases
from search.trials.rescore import scorer
from search.trials.sampling.space import Plan

#: Yields results of phases and returns the model and the figures of each search image.
Phases = Generator[PhaseResult, None, tuple[MedSam, list[dict[str, Any]]]]


def phases(plan: Plan, shared: Shared, seed: int, recorder: Recorder | None = None) -> Phases:
    """Prune, recover and evaluate as `plan` says, one phase at a time.

    Args:
        plan: Budget, scores and schedule of the trial.
        shared: Inputs common to all trials.
        seed: The trial's own seed.
        recorder: Keeps the phases. Those that it already holds are not run again.

    Yields:
        Each phase of the schedule, then the evaluation on all search images. If a scheduler watches, every recovery
        except the last also reports objectives, measured on a few search images.

    Returns:
        The pruned model on the best device, and the metrics of each search image.
    """
    recorder = recorder or Recorder()
    settings = shared.settings
    schedule = schedule_of(
        rounds_to(ModelSpec.dense(shared.arch), plan.spec, plan.rounds),
        settings.recovery,
        lr=plan.lr,
        head_share=plan.head_share,
        order=plan.order,
        rescore=plan.rescore,
    )
    state = recorder.resume()
    if state is None:
        state = start_of(adapted_model(settings.model), mix(shared.table, plan.weights, shared.arch))
    model = state.model
    score = scorer(settings.model, shared.calibration, plan.weights, plan.rescore_per_dataset, seed)
    for end in recorded_phases(
        schedule, state, shared.calibration, shared.teacher, seed, score=score, recorder=recorder
    ):
        model = end.state.model
        yield PhaseResult(end.phase.name, _figures(end, schedule, plan, shared, recorder))
    images = evaluate(model, shared.search_images, autocast=settings.recovery.autocast)
    recorder.meter.mark("evaluation")
    yield PhaseResult("evaluation", summarise(images))
    return model, images


def schedule_of(
    targets: tuple[ModelSpec, ...],
    recovery: RecoveryConfig,
    *,
    lr: float,
    head_share: float,
    order: str,
    rescore: bool,
) -> Schedule:
    """Return a schedule with the configured number of recovery steps.

    The recovery of the architecture's first family gets the share `head_share` of the steps; the other families divide
    the rest evenly.
    """
    first, *others = targets[0].arch.families
    first_steps = round(recovery.steps * head_share) if others else recovery.steps
    rest = recovery.steps - first_steps
    shares = [rest * (number + 1) // len(others) - rest * number // len(others) for number in range(len(others))]
    common = RecoverySettings(
        lr=lr,
        batch_size=recovery.batch_size,
        lambdas=recovery.lambdas,
        autocast=recovery.autocast,
        schedule=recovery.lr_schedule,
    )
    return Schedule(
        targets,
        recovery={
            family.name: dataclasses.replace(common, steps=steps)
            for family, steps in zip((first, *others), (first_steps, *shares), strict=True)
        },
        order=order,
        rescore=rescore,
    )


def progress(schedule: Schedule, done: int) -> float:
    """Return the percentage of recovery steps in the first `done` phases."""
    steps = [schedule.recovery_of(phase).steps if phase.is_recovery else 0 for phase in schedule.phases]
    return 100 * sum(steps[:done]) / max(1, sum(steps))


def _figures(end: PhaseEnd, schedule: Schedule, plan: Plan, shared: Shared, recorder: Recorder) -> dict[str, float]:
    """Return what a phase reports.

    This is the last loss of a recovery. For a scheduler, costs, metrics on a few images and the progress join it.

    There are no metrics after the last recovery, because the evaluation on all images follows.
    """
    if end.log is None:
        return {}
    figures = {"loss": end.log.losses[-1]} if end.log.losses else {}
    share, search = progress(schedule, end.state.done), shared.settings.search
    if search.scheduler == NONE or not 0 < share < 100:
        return figures
    count = min(search.scheduler_images, len(shared.search_images))
    rows = np.linspace(0, len(shared.search_images) - 1, count).round().astype(np.intp)
    images = evaluate(end.state.model, shared.search_images.subset(rows), autocast=shared.settings.recovery.autocast)
    recorder.meter.mark("evaluation")
    return {**figures, **summarise(images), **cost_metrics(plan.spec), PROGRESS: share}
