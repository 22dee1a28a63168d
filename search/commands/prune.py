"""`medcore prune`: one schedule without a search, in one or several stages (method §5, §6)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medcore.budgets.allocators import ALLOCATORS, BY_SPARSITY
from medcore.errors import ConfigError
from medcore.models.checkpoint import save
from medcore.models.cost import cost
from medcore.models.sam import MedSam
from medcore.models.sites import PerSite
from medcore.models.spec import ModelSpec
from medcore.quality.evaluate import evaluate, summarise
from medcore.scoring.criteria import known_sensitivity, mix
from medcore.scoring.score_table import ScoreTable
from medcore.training.plans.registry import PLANS
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
from search.trials.recorder import recorded_phases
from search.trials.rescore import scorer


def prune(config: Config, out: Path, report: Report | None = None) -> dict[str, Any]:
    """Score, allocate, prune, refit, recover and evaluate one model, and save it.

    The adapted model may be pruned already. Fractions and sparsities stay shares of the dense encoder, and the teacher
    of refit and recovery is the model as it came. The evaluation uses the report images.

    Args:
        config: The study's configuration.
        out: Checkpoint to write. With `schedule.stages_from: previous`, the models of the stages before the last are
            written next to it.
        report: Called with the name of each job, and its numbers of finished and of all images or phases.

    Returns:
        The metrics and the numbers of removed groups.

    Raises:
        MedcoreError: A budget's table of measured times cannot be read or the budget removes nothing of a pruned
            model, or another step fails.
    """
    report = report or _ignore
    make_folder(out.parent)
    written, budgets = config, (*config.schedule.stages, config.budget)
    for budget in budgets:
        budget.prices(adapted_model(config.model).arch)  # statistics take long, so a wrong table is refused before
    if config.schedule.stages_from == "previous":
        *earlier, config = single_stages(config, out)
        for number, stage in enumerate(earlier, 1):
            model = _pruned(stage, report)
            info = {"stage": str(number), "config": hide_login(written.to_yaml()), "git": git_revision()}
            save((*earlier, config)[number].model.adapted, model.cpu(), info)
    pruned = _pruned(config, report)
    images = load_split(config.datasets, config.data.report_split, pruned.arch.frame)
    report("evaluating", 0, 0)
    quality = summarise(evaluate(pruned, images, autocast=config.recovery.autocast))
    metrics = cost_metrics(pruned.spec) | removed(pruned.spec) | quality
    info = {"metrics": json.dumps(metrics), "config": hide_login(written.to_yaml()), "git": git_revision()}
    save(out, pruned.cpu(), info)
    return metrics


def _ignore(name: str, done: int, total: int) -> None:
    """Show no progress."""


def single_stages(config: Config, out: Path) -> tuple[Config, ...]:
    """Return one configuration a stage, each of which prunes what the one before has written.

    Args:
        config: The configuration of all stages.
        out: Checkpoint of the last stage. The others are `NAME.stage1.safetensors` and so on, next to it.
    """
    budgets, steps = (*config.schedule.stages, config.budget), config.recovery.steps
    count, source, stages = len(budgets), config.model.adapted, []
    for number, budget in enumerate(budgets):
        share = steps * (number + 1) // count - steps * number // count
        sections = {
            "model": config.model.model_copy(update={"adapted": source}),
            "recovery": config.recovery.model_copy(update={"steps": share, "refit_neck": config.recovery.neck}),
            "budget": budget,
            "schedule": config.schedule.model_copy(update={"stages": (), "stages_from": "start"}),
        }
        stages.append(config.model_copy(update=sections))
        source = out.with_name(f"{out.stem}.stage{number + 1}{out.suffix}")
    return tuple(stages)


def _pruned(config: Config, report: Report) -> MedSam:
    """Return the model that a configuration's budgets and schedule lead to, on the best device."""
    budgets, start = (*config.schedule.stages, config.budget), adapted_model(config.model).spec
    check_cuts(budgets[0], start, config.model.adapted)
    jobs = study_jobs(config, fixed_weights=True, recovers=config.recovery.steps > 0)
    table = statistics(jobs, needs_of_prune(config), report)
    curves = None if table.profile is None else table.profile.dense_curves(start.arch)
    sensitivity = known_sensitivity(table, config.scoring.weights(config.seed))
    return _run(config, jobs, allocate(budgets, start, sensitivity, curves), table, report)


def check_cuts(budget: BudgetConfig, start: ModelSpec, path: Path) -> None:
    """Check that a budget by a share of the cost removes something of a pruned model.

    Args:
        budget: The first budget that the model has to meet.
        start: The model's widths.
        path: The model's file, for the message.

    Raises:
        MedcoreError: The model costs no more than the budget's shares of the dense encoder.
    """
    if start.is_dense or budget.allocator in BY_SPARSITY:
        return
    targets = budget.targets(start.arch)
    shares = [target.prices.total(start) / target.prices.dense for target in targets]
    if any(share > target.fraction for share, target in zip(shares, targets, strict=True)):
        return
    has = " and ".join(f"{share:.4f}" for share in shares)
    costs = " and ".join(target.prices.name for target in targets)
    wanted = " and ".join(f"{target.fraction:g}" for target in targets)
    raise ConfigError(
        f"{path}: the pruned model has {has} of the dense encoder's {costs}, so a budget of {wanted} removes nothing; "
        "fractions are shares of the dense encoder, so give a smaller one"
    )


def needs_of_prune(config: Config) -> Needs:
    """Return which statistics the configured budgets and scores read."""
    needed = config.scoring.weights().needs
    allocators = {budget.allocator for budget in (*config.schedule.stages, config.budget)}
    return Needs(
        fisher=bool(needed & {"weight", "fisher"} or allocators - {"knapsack", "uniform"}),
        profile="profile" in needed or "knapsack" in allocators,
    )


def _run(config: Config, jobs: Jobs, stages: Sequence[ModelSpec], table: ScoreTable, report: Report) -> MedSam:
    """Return the model after all stages, on the best device."""
    adapted, recovery, schedule = adapted_model(config.model), config.recovery, config.schedule
    weights, calibration = config.scoring.weights(config.seed), jobs.scoring.calibration
    left = cost(stages[-1]).flops_paper / cost(ModelSpec.dense(adapted.arch)).flops_paper
    steps = schedule_of(
        targets(stages, schedule.rounds, adapted.spec),
        recovery,
        lr=recovery.rate(left),
        head_share=recovery.head_share,
        order=schedule.order,
        rescore=schedule.rescore,
        plan=schedule.plan,
    )
    images = jobs.teacher.images
    with on_device(adapted):
        if recovery.steps:
            teacher = study_teacher(jobs.teacher, progress_of("teacher", report))
        else:  # no step needs the teacher, which takes long at 1024 px
            images = images.subset([])
            teacher = compute_teacher(adapted, images)
        report("recording the unpruned model", 0, 0)
        streams = record_streams(adapted, calibration, steps.refit) if steps.refit else None
    per_dataset = schedule.rescore_per_dataset
    score = scorer(
        config.model,
        calibration,
        weights,
        per_dataset,
        config.seed,
        profile=table.profile,
        dense_base=config.scoring.base == "dense",
        local=PLANS[schedule.plan].own_ranking,
    )
    state = start_of(adapted, mix(table, weights, adapted.arch))
    report("cut, refit and recovery", 0, len(steps.phases))
    for end in recorded_phases(steps, state, Inputs(images, teacher, streams), config.seed, score=score):
        state = end.state
        report("cut, refit and recovery", state.done, len(steps.phases))
    return state.model


def allocate(
    budgets: Sequence[BudgetConfig], start: ModelSpec, sensitivity: np.ndarray, curves: PerSite | None = None
) -> tuple[ModelSpec, ...]:
    """Return the widths after each stage.

    Args:
        budgets: The budget of each stage.
        start: The widths before the first stage.
        sensitivity: (L,) Fisher information s_b of the blocks.
        curves: Predicted loss of each width of each site; None if no budget needs it.
    """
    specs: list[ModelSpec] = []
    for budget in budgets:
        current = specs[-1] if specs else start
        specs.append(ALLOCATORS[budget.allocator](budget.request(sensitivity, current, curves)))
    return tuple(specs)


def targets(stages: Sequence[ModelSpec], rounds: int, start: ModelSpec) -> tuple[ModelSpec, ...]:
    """Return the widths after every round. Each stage takes `rounds` equal steps."""
    specs: list[ModelSpec] = []
    for stage in stages:
        specs += rounds_to(specs[-1] if specs else start, stage, rounds)
    return tuple(specs)


def removed(spec: ModelSpec) -> dict[str, int]:
    """Return how many groups of each family the dense encoder has more, as `FAMILY_removed`."""
    dense = ModelSpec.dense(spec.arch).budget
    return {f"{family}_removed": sum(dense[family]) - sum(kept) for family, kept in spec.budget.items()}
