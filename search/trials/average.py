"""A trial that takes the mean of the weights of a member's runs, and evaluates it (method §14)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medcore.models.checkpoint import load
from medcore.quality.evaluate import evaluate, summarise
from medcore.training.average import mean_model
from search.base.device import best_device
from search.study.inputs import Shared
from search.trials.files import CHECKPOINT
from search.trials.ledger import wait_for_file
from search.trials.phase_result import PhaseResult
from search.trials.phases import Phases
from search.trials.recorder import Recorder


def average_phases(study: Path, runs: Sequence[str], shared: Shared, recorder: Recorder) -> Phases:
    """Take the mean of the weights of some trials, and evaluate it on all search images.

    Args:
        study: The study's folder.
        runs: The trials.
        shared: Inputs common to all trials.
        recorder: Measures time and takes a note of what was averaged.

    Yields:
        The mean, then the evaluation.

    Returns:
        The model on the best device, and the metrics of each search image.

    Raises:
        MedcoreError: A trial's weights are gone or damaged, or the trials keep different groups.
    """
    model = mean_model(load(wait_for_file(study, run, CHECKPOINT)) for run in runs)
    recorder.history.notes.append(f"mean of the weights of {', '.join(runs)}")
    recorder.meter.mark("averaging")
    yield PhaseResult("averaging", following="evaluation")
    model = model.to(best_device())
    images = evaluate(model, shared.search_images, autocast=shared.settings.recovery.autocast)
    recorder.meter.mark("evaluation")
    yield PhaseResult("evaluation", summarise(images))
    return model, images
