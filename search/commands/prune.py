"""`medcore prune`: one schedule without a search, in one or several stages (method §5, §6)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcore.budgets.allocators import ALLOCATORS
from medcore.data.load import ImageSet
from medcore.models.checkpoint import save
from medcore.models.sam import MedSam
from medcore.models.spec import Architecture, ModelSpec
from medcore.quality.evaluate import evaluate, summarise
from medcore.scoring.criteria import block_sensitivity, mix
from medcore.scoring.fisher import Progress
from medcore.scoring.score_table import ScoreTable
from medcore.training.recovery import compute_teacher
from medcore.training.schedule import rounds_to, start_of
from results.store.files import make_folder
from search.base.config import Config
from search.base.device import on_device
from search.base.logins import hide_login
from search.base.provenance import git_revision
from search.base.sections.pruning import BudgetConfig
from search.commands.sections import scoring_job
from search.study.inputs import adapted_model, cost_metrics, load_split
from search.study.scoring import score_table
from search.trials.phases import schedule_of
from search.trials.recorder import run_recorded
from search.trials.rescore import scorer


def prune(config: Config, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Score, allocate, prune, recover and evaluate one model, and save it.

    The evaluation uses the report images.

    Args:
        config: The study's configuration.
        out: Checkpoint to write.
        progress: Called with the numbers of scored and of all images.

    Returns:
        The metrics and the numbers of removed groups.
    """
    make_folder(out.parent)
    job = scoring_job(config)
    table, _ = score_table(job, progress)
    arch = adapted_model(config.model).arch
    budgets = (*config.schedule.stages, config.budget)
    stages = allocate(budgets, arch, block_sensitivity(table, config.scoring.weights(config.seed)))
    pruned = _run(config, stages, table, job.calibration)
    report = load_split(config.datasets, config.data.report_split, arch.img_size)
    quality = summarise(evaluate(pruned, report, autocast=config.recovery.autocast))
    metrics = cost_metrics(stages[-1]) | removed(stages[-1]) | quality
    info = {"metrics": json.dumps(metrics), "config": hide_login(config.to_yaml()), "git": git_revision()}
    save(out, pruned.cpu(), info)
    return metrics


def _run(config: Config, stages: Sequence[ModelSpec], table: ScoreTable, calibration: ImageSet) -> MedSam:
    """Return the model after all stages, on the best device."""
    adapted, recovery, schedule = adapted_model(config.model), config.recovery, config.schedule
    weights = config.scoring.weights(config.seed)
    # without recovery no step needs the teacher, which takes long at 1024 px
    images = calibration if recovery.steps else calibration.subset([])
    with on_device(adapted):
        teacher = compute_teacher(adapted, images, autocast=recovery.autocast)
    score = scorer(config.model, calibration, weights, schedule.rescore_per_dataset, config.seed)
    steps = schedule_of(
        targets(stages, schedule.rounds),
        recovery,
        lr=recovery.lr,
        head_share=recovery.head_share,
        order=schedule.order,
        rescore=schedule.rescore,
    )
    state = start_of(adapted, mix(table, weights, adapted.arch))
    pruned, _ = run_recorded(steps, state, images, teacher, config.seed, score=score)
    return pruned


def allocate(budgets: Sequence[BudgetConfig], arch: Architecture, sensitivity: np.ndarray) -> tuple[ModelSpec, ...]:
    """Return the widths after each stage. Sparsities are cumulative over stages.

    Args:
        budgets: The budget of each stage.
        arch: The dense model's architecture, with L blocks.
        sensitivity: (L,) Fisher information s_b of the blocks.
    """
    specs: list[ModelSpec] = []
    for budget in budgets:
        current = specs[-1] if specs else ModelSpec.dense(arch)
        specs.append(ALLOCATORS[budget.allocator](budget.request(sensitivity, current)))
    return tuple(specs)


def targets(stages: Sequence[ModelSpec], rounds: int) -> tuple[ModelSpec, ...]:
    """Return the widths after every round. Each stage takes `rounds` equal steps."""
    specs: list[ModelSpec] = []
    for stage in stages:
        start = specs[-1] if specs else ModelSpec.dense(stage.arch)
        specs += rounds_to(start, stage, rounds)
    return tuple(specs)


def removed(spec: ModelSpec) -> dict[str, int]:
    """Return how many groups of each family the budget removes, as `FAMILY_removed`."""
    dense = ModelSpec.dense(spec.arch).budget
    return {f"{family}_removed": sum(dense[family]) - sum(kept) for family, kept in spec.budget.items()}
