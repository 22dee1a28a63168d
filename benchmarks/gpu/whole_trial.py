"""One whole trial, phase by phase: time and peak memory."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import torch

from benchmarks.gpu.inputs import FRACTION, config_of, write_inputs
from benchmarks.size_transfer import Meter, Step
from medcore.models.spec import Architecture
from search.commands.sections import study_jobs, trial_settings
from search.study.inputs import Shared, adapted_model, search_images
from search.study.prepare import prepare
from search.trials.phase_result import PhaseResult
from search.trials.phases import phases
from search.trials.sampling.space import decode, domain_of, encode_fraction


def whole_trial(arch: Architecture, count: int, steps: int, device: torch.device) -> list[Step]:
    """Run the statistics of a study and one trial, and return what each phase took.

    Args:
        arch: Architecture of the model, which gets random weights.
        count: Number of images in the study.
        steps: Recovery steps.
        device: Device that the study uses, for its memory.
    """
    meter = Meter(device)
    with tempfile.TemporaryDirectory(prefix="medcore-gpu-") as folder:
        write_inputs(Path(folder), arch, count)
        config = config_of(Path(folder), "trial", steps).absolute()
        settings, jobs = trial_settings(config), study_jobs(config)
        images = search_images(config.datasets, adapted_model(config.model).arch.frame)
        shared: Shared = meter.run("statistics, teacher, streams", len(images), lambda: prepare(settings, jobs, images))
        domain = domain_of(shared)
        work = phases(decode(encode_fraction(FRACTION, domain), domain), shared, seed=0)
        ended = False
        while not ended:
            following: functools.partial[PhaseResult | None] = functools.partial(next, work, None)
            ended = meter.run(_title, 0, following) is None
    return meter.steps


def _title(result: PhaseResult | None) -> str:
    return "evaluation" if result is None else f"phase {result.name}"
