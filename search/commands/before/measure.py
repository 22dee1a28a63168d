"""Measure single steps of a search on a few images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from medcore.budgets.limits import Limits, smallest_fraction
from medcore.budgets.targets import uniform_to_target
from medcore.data.load import ImageSet
from medcore.models.cost import cost
from medcore.models.cut import prune
from medcore.models.sam import MedSam
from medcore.models.spec import ModelSpec
from medcore.quality.evaluate import evaluate
from medcore.scoring.fisher import calibration_sums
from medcore.scoring.moments import profile_sums
from medcore.training.recovery import RecoverySettings, recover
from medcore.training.refit.dense_streams import RefitSettings, record_streams
from medcore.training.refit.refit import refit
from medcore.training.teacher import compute_teacher
from search.base.config import Config
from search.base.device import best_device, on_device, pin_threads
from search.base.sections.dimensions import Choices, Fixed, Range
from search.commands.before.estimate import StepTimes
from search.study.inputs import matching_base

T = TypeVar("T")


@dataclass(frozen=True)
class Measured:
    """Seconds of single steps, and the model on which they were measured.

    Attributes:
        times: The seconds.
        fraction: What the pruned model has of the dense encoder's FLOPs.
    """

    times: StepTimes
    fraction: float


def measure(config: Config, model: MedSam, images: ImageSet, *, fisher: bool) -> Measured:
    """Measure each kind of step once, with the threads of a trial, after one step that does not count.

    The pruned model is uniform, at the middle of the sampled shares, because time depends on widths only.

    Args:
        config: The configuration.
        model: The model to prune.
        images: At least one image.
        fisher: Whether Fisher information is needed.
    """
    threads = torch.get_num_threads()
    pin_threads(config.search.cpus_per_trial)
    try:
        with on_device(model):
            return _measure(config, model, images, fisher)
    finally:
        pin_threads(threads)


def _measure(config: Config, model: MedSam, images: ImageSet, fisher: bool) -> Measured:
    recovery, few = config.recovery, images.subset(list(range(min(2, len(images)))))
    autocast = recovery.autocast
    evaluate(model, few, autocast=autocast)  # the first call allocates
    teacher, answers = _timed(lambda: compute_teacher(model, images, autocast=autocast))
    _, profile = _timed(lambda: profile_sums(model, few, [0], [0], config.seed))
    base = 0.0
    if fisher:
        with on_device(matching_base(config.model)) as general:
            for scored in (model, general):
                base += _timed(lambda scored=scored: calibration_sums(scored, few, [0]))[1]  # type: ignore[misc]
    cut = _cut(config, model)
    fixed, each = _refit_times(config, model, cut, images) if recovery.refit_images else (0.0, 0.0)
    settings = RecoverySettings(
        1,
        recovery.rate(1.0),
        recovery.batch_size,
        recovery.lambdas,
        autocast=autocast,
        loss=recovery.loss,
        train_decoder=recovery.train_decoder,
        terms=recovery.terms,
    )
    recover(cut, images, teacher, settings, seed=0)
    _, step = _timed(lambda: recover(cut, images, teacher, settings, seed=0))
    _, judged = _timed(lambda: evaluate(cut, images, autocast=autocast))
    count = len(images)
    left = cost(cut.spec).flops / cost(ModelSpec.dense(cut.arch)).flops
    return Measured(StepTimes(answers / count, profile, base, fixed, each, step, judged / count), left)


def middle(dimension: Range | Choices | Fixed) -> float:
    """Return the middle of the values that a dimension takes."""
    values = sorted(float(value) for value in dimension.values)
    if isinstance(dimension, Range):
        low, high = values
        return math.sqrt(low * high) if dimension.log else (low + high) / 2
    return values[len(values) // 2]


def _cut(config: Config, model: MedSam) -> MedSam:
    """Return a uniformly cut model; which groups are left does not matter for its time."""
    search, arch = config.search, model.arch
    least = smallest_fraction(arch, search.metric, current=model.spec)
    spec = uniform_to_target(arch, max(least, middle(search.space.fraction)), search.metric, Limits(current=model.spec))
    masks = tuple(np.arange(had) < keeps for had, keeps in zip(model.spec.widths, spec.widths, strict=True))
    cut: MedSam = prune(model, masks).to(best_device())
    return cut


def _refit_times(config: Config, model: MedSam, cut: MedSam, images: ImageSet) -> tuple[float, float]:
    """Return the seconds of a refit without its images, and of each image."""
    seconds = []
    for count in (1, len(images)):
        settings = RefitSettings(count, config.recovery.refit_ridge, neck=config.recovery.neck)
        streams = record_streams(model, images, settings)
        seconds.append(_timed(lambda streams=streams, settings=settings: refit(cut, streams, settings))[1])  # type: ignore[misc]
    if len(images) == 1:
        return 0.0, seconds[0]
    each = max(0.0, seconds[1] - seconds[0]) / (len(images) - 1)
    return max(0.0, seconds[0] - each), each


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return a result and its seconds."""
    wall, process = time.perf_counter(), time.process_time()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return result, time.perf_counter() - wall
    return result, cpu_seconds(time.perf_counter() - wall, time.process_time() - process, torch.get_num_threads())


def cpu_seconds(wall: float, process: float, threads: int) -> float:
    """Return how long work takes on a CPU.

    With one thread these are the seconds of the process, so that other work on the machine does not count. With several
    threads some parts of the work use one thread only, and only wall time tells how long they take.

    Args:
        wall: Seconds on the clock.
        process: Seconds of all threads of the process.
        threads: Threads that the work may use.
    """
    return process if threads == 1 else max(wall, process / threads)
