"""`medcore prune`: one schedule without a search, in one or several stages (method §5, §6)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcore.budgets.rule import MIN_CHANNEL_SHARE, MIN_HEADS, channels_of, rule, to_target
from medcore.models.checkpoint import save
from medcore.models.spec import Architecture, EncoderSpec
from medcore.quality.evaluate import evaluate, summarise
from medcore.scoring.criteria import block_sensitivity, mix
from medcore.scoring.fisher import Progress
from medcore.training.recovery import compute_teacher
from medcore.training.schedule import rounds_to, start_of
from results.store.files import make_folder
from search.base.config import Config, scoring_weights
from search.base.device import best_device
from search.base.logins import hide_login
from search.base.provenance import git_revision
from search.study.inputs import adapted_model, calibration_images, cost_metrics, load_split
from search.study.scoring import score_table
from search.trials.rescore import scorer
from search.trials.trial import run_recorded, schedule_of


def prune(config: Config, out: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Score, allocate, prune, recover, evaluate on the report images, save to `out`. Returns metrics and counts."""
    make_folder(out.parent)
    adapted = adapted_model(config)
    arch = adapted.arch
    calibration = calibration_images(config, arch.img_size)
    table, _ = score_table(config, calibration, progress)
    weights = scoring_weights(config.scoring, config.seed)
    stages = allocate(config, arch, block_sensitivity(table, weights))
    schedule = schedule_of(
        targets(config, stages), config.recovery, config.recovery.lr, config.recovery.head_share,
        config.schedule.order, config.schedule.rescore,
    )  # fmt: skip
    # without recovery nobody asks the teacher, and at 1024 px its answers take long
    taught = calibration if config.recovery.steps else calibration.subset([])
    teacher = compute_teacher(adapted.to(best_device()), taught, autocast=config.recovery.autocast)
    score = scorer(config, calibration, weights, config.schedule.rescore_per_dataset, config.seed)
    state = start_of(adapted, mix(table, weights, arch))
    pruned, _ = run_recorded(schedule, state, taught, teacher, config.seed, score)
    report = load_split(config, config.data.report_split, arch.img_size, None)
    quality = summarise(evaluate(pruned, report, autocast=config.recovery.autocast))
    metrics = cost_metrics(stages[-1]) | removed(stages[-1]) | quality
    info = {"metrics": json.dumps(metrics), "config": hide_login(config.to_yaml()), "git": git_revision()}
    save(out, pruned.cpu(), info)
    return metrics


def allocate(config: Config, arch: Architecture, sensitivity: np.ndarray) -> tuple[EncoderSpec, ...]:
    """Widths after each stage: `schedule.stages` in order, then `budget`; sparsities are cumulative."""
    specs: list[EncoderSpec] = []
    for budget in (*config.schedule.stages, config.budget):
        current = specs[-1] if specs else EncoderSpec.dense(arch)
        is_rule = budget.allocator == "rule"
        share = budget.min_channel_share
        min_heads = (MIN_HEADS if is_rule else 0) if budget.min_heads is None else budget.min_heads
        min_share = (MIN_CHANNEL_SHARE if is_rule else 0.0) if share is None else share
        if is_rule:
            sparsities = budget.head_sparsity, budget.mlp_sparsity
            spec = rule(arch, *sparsities, sensitivity, budget.protected, min_heads, min_share, current=current)
        else:
            shape = np.ones(arch.depth) if budget.allocator == "uniform" else sensitivity
            spec = to_target(
                arch, shape, shape, budget.fraction, budget.cost, budget.protected, min_heads,
                channels_of(arch, min_share), multiple=budget.channel_multiple, current=current,
            )  # fmt: skip
        specs.append(spec)
    return tuple(specs)


def targets(config: Config, stages: Sequence[EncoderSpec]) -> tuple[EncoderSpec, ...]:
    """Widths after every round: each stage is reached in `schedule.rounds` equal steps."""
    found: list[EncoderSpec] = []
    for stage in stages:
        start = found[-1] if found else EncoderSpec.dense(stage.arch)
        found += rounds_to(start, stage, config.schedule.rounds)
    return tuple(found)


def removed(spec: EncoderSpec) -> dict[str, int]:
    """How many heads and channels of the dense encoder are gone."""
    dense = EncoderSpec.dense(spec.arch)
    return {
        "heads_removed": sum(dense.heads) - sum(spec.heads),
        "channels_removed": sum(dense.channels) - sum(spec.channels),
    }
