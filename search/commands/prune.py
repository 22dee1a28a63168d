"""`medcore prune`: one schedule without a search, in one or several stages (method §5, §6)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcore.budgets.allocators import ALLOCATORS
from medcore.models.checkpoint import save
from medcore.models.cost import cost
from medcore.models.sam import MedSam
from medcore.models.sites import PerSite
from medcore.models.spec import Architecture, ModelSpec
from medcore.quality.evaluate import evaluate, summarise
from medcore.scoring.criteria import known_sensitivity, mix
from medcore.scoring.score_table import ScoreTable
from medcore.training.refit.dense_streams import record_streams
from medcore.training.rounds import rounds_to
from medcore.training.schedule import Inputs, start_of
from medcore.training.teacher import compute_teacher
from results.store.files import make_folder
from search.base.config import Config
from search.base.device import on_device
from search.base.logins import hide_login
from search.base.provenance import git_revision
from search.base.sections.pruning import BudgetConfig
from search.commands.sections import study_jobs
from search.study.inputs import adapted_model, cost_metrics, load_split
from search.study.needs import Needs
from search.study.prepare import Jobs, Report, progress_of, statistics
from search.study.teacher import study_teacher
from search.trials.phases import schedule_of
from search.trials.recorder import run_recorded
from search.trials.rescore import scorer


def prune(config: Config, out: Path, report: Report | None = None) -> dict[str, Any]:
    """Score, allocate, prune, refit, recover and evaluate one model, and save it.

    The evaluation uses the report images.

    Args:
        config: The study's configuration.
        out: Checkpoint to write.
        report: Called with the name of each job, and its numbers of finished and of all images.

    Returns:
        The metrics and the numbers of removed groups.

    Raises:
        MedcoreError: A budget's table of measured times cannot be read, or another step fails.
    """
    make_folder(out.parent)
    budgets = (*config.schedule.stages, config.budget)
    for budget in budgets:
        budget.prices(adapted_model(config.model).arch)  # statistics take long, so a wrong table is refused before
    jobs = study_jobs(config, fixed_weights=True, recovers=config.recovery.steps > 0)
    table = statistics(jobs, needs_of_prune(config), report)
    curves = None if table.profile is None else table.profile.curves
    sensitivity = known_sensitivity(table, config.scoring.weights(config.seed))
    stages = allocate(budgets, adapted_model(config.model).arch, sensitivity, curves)
    pruned = _run(config, jobs, stages, table, report)
    images = load_split(config.datasets, config.data.report_split, pruned.arch.img_size)
    quality = summarise(evaluate(pruned, images, autocast=config.recovery.autocast))
    metrics = cost_metrics(stages[-1]) | removed(stages[-1]) | quality
    info = {"metrics": json.dumps(metrics), "config": hide_login(config.to_yaml()), "git": git_revision()}
    save(out, pruned.cpu(), info)
    return metrics


def needs_of_prune(config: Config) -> Needs:
    """Return which statistics the configured budgets and scores read."""
    needed = config.scoring.weights().needs
    allocators = {budget.allocator for budget in (*config.schedule.stages, config.budget)}
    return Needs(
        fisher=bool(needed & {"weight", "fisher"} or allocators - {"knapsack", "uniform"}),
        profile="profile" in needed or "knapsack" in allocators,
    )


def _run(config: Config, jobs: Jobs, stages: Sequence[ModelSpec], table: ScoreTable, report: Report | None) -> MedSam:
    """Return the model after all stages, on the best device."""
    adapted, recovery, schedule = adapted_model(config.model), config.recovery, config.schedule
    weights, calibration = config.scoring.weights(config.seed), jobs.scoring.calibration
    left = cost(stages[-1]).flops_paper / cost(ModelSpec.dense(adapted.arch)).flops_paper
    steps = schedule_of(
        targets(stages, schedule.rounds),
        recovery,
        lr=recovery.rate(left),
        head_share=recovery.head_share,
        order=schedule.order,
        rescore=schedule.rescore,
    )
    images = jobs.teacher.images
    with on_device(adapted):
        if recovery.steps:
            teacher = study_teacher(jobs.teacher, progress_of("teacher", report))
        else:  # no step needs the teacher, which takes long at 1024 px
            images = images.subset([])
            teacher = compute_teacher(adapted, images)
        streams = record_streams(adapted, calibration, steps.refit) if steps.refit else None
    per_dataset = schedule.rescore_per_dataset
    score = scorer(config.model, calibration, weights, per_dataset, config.seed, profile=table.profile)
    state = start_of(adapted, mix(table, weights, adapted.arch))
    pruned, _ = run_recorded(steps, state, Inputs(images, teacher, streams), config.seed, score=score)
    return pruned


def allocate(
    budgets: Sequence[BudgetConfig], arch: Architecture, sensitivity: np.ndarray, curves: PerSite | None = None
) -> tuple[ModelSpec, ...]:
    """Return the widths after each stage.

    Args:
        budgets: The budget of each stage.
        arch: The dense model's architecture, with L blocks.
        sensitivity: (L,) Fisher information s_b of the blocks.
        curves: Predicted loss of each width of each site; None if no budget needs it.
    """
    specs: list[ModelSpec] = []
    for budget in budgets:
        current = specs[-1] if specs else ModelSpec.dense(arch)
        specs.append(ALLOCATORS[budget.allocator](budget.request(sensitivity, current, curves)))
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
