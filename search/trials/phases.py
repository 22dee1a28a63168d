"""The phases of a trial: prune, refit and recover as a plan says, or average the weights of others; then evaluate.

A worker performs one phase for each step of Tune and reports its figures, so that a scheduler can stop the trial.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from medcore.models.checkpoint import load
from medcore.models.sam import MedSam
from medcore.models.spec import ModelSpec
from medcore.quality.evaluate import evaluate, summarise
from medcore.scoring.criteria import mix
from medcore.training.average import mean_model
from medcore.training.orders import even_steps
from medcore.training.plans.registry import PLANS, ROUNDS
from medcore.training.recovery import RecoverySettings
from medcore.training.rounds import Phase, rounds_to
from medcore.training.schedule import Inputs, PhaseEnd, Schedule, start_of
from search.base.device import best_device
from search.base.phase_keys import EXEMPT, FIDELITY, PROGRESS
from search.base.schedulers import HALVING, NONE
from search.base.sections.pruning import RecoveryConfig
from search.study.inputs import Shared, adapted_model, cost_metrics, refit_settings
from search.trials.files import CHECKPOINT
from search.trials.ledger import wait_for_file
from search.trials.looks import PART, PAUSES, REFIT, look
from search.trials.phase_result import PhaseResult
from search.trials.recorder import Recorder, recorded_phases
from search.trials.rescore import scorer
from search.trials.sampling.space import Plan


class Role(Enum):
    """What a scheduler may do with a trial."""

    #: It sees figures and may stop the trial.
    SAMPLED = "sampled"
    #: It sees figures, compares others with them, and lets the trial continue.
    ANCHOR = "anchor"
    #: It sees nothing.
    UNWATCHED = "unwatched"


#: Yields results of phases and returns the model and the figures of each search image.
Phases = Generator[PhaseResult, None, tuple[MedSam, list[dict[str, Any]]]]


def phases(
    plan: Plan, shared: Shared, seed: int, recorder: Recorder | None = None, *, role: Role = Role.SAMPLED
) -> Phases:
    """Prune, refit, recover and evaluate as `plan` says, one phase at a time.

    Args:
        plan: Budget, scores and schedule of the trial.
        shared: Inputs common to all trials.
        seed: The trial's own seed.
        recorder: Keeps the phases. Those that it already holds are not run again.
        role: What the study's scheduler may do with the trial.

    Yields:
        Each phase of the schedule, then the evaluation on all search images. A scheduler that halves also gets a look
        at each fidelity: after the last refit, and after a third of the last recovery. For another scheduler, every
        recovery except the last reports objectives.

    Returns:
        The pruned model on the best device, and the metrics of each search image.
    """
    recorder = recorder or Recorder()
    settings = shared.settings
    scheduler = NONE if role is Role.UNWATCHED else settings.search.scheduler
    schedule = trial_schedule(plan, shared, pauses=PAUSES if scheduler == HALVING else ())
    state = recorder.resume()
    if state is None:
        state = start_of(adapted_model(settings.model), mix(shared.table, plan.weights, shared.arch))
    watch = _Watch(schedule, shared, recorder, scheduler, exempt=role is Role.ANCHOR)
    state = dataclasses.replace(state, model=state.model.to(best_device()))
    model = state.model
    if state.done:
        yield from watch.after(schedule.phases[state.done - 1], model, paused=False)
    score = scorer(
        settings.model,
        shared.calibration,
        plan.weights,
        plan.rescore_per_dataset,
        seed,
        profile=shared.table.profile,
        dense_base=settings.scoring.base == "dense",
        local=PLANS[schedule.plan].own_ranking,
    )
    for end in recorded_phases(schedule, state, inputs_of(shared), seed, score=score, recorder=recorder):
        model = end.state.model
        following = next_phase(schedule, end)
        if not end.paused:
            yield PhaseResult(end.phase.name, watch.figures(end), following=following)
        for shown in watch.after(end.phase, model, paused=end.paused):
            yield dataclasses.replace(shown, following=following)
    images = evaluate(model, shared.search_images, autocast=settings.recovery.autocast)
    recorder.meter.mark("evaluation")
    yield PhaseResult("evaluation", summarise(images))
    return model, images


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


def next_phase(schedule: Schedule, end: PhaseEnd) -> str:
    """Return what follows the end or the pause of a phase, in words."""
    if end.state.done == len(schedule.phases):
        return "evaluation"
    phase = schedule.phases[end.state.done]
    rounds = f"round {phase.round + 1} of {phase.rounds}: " if phase.rounds > 1 else ""
    words = f"cut {phase.stage}" if phase.kind in ("cut", "round") else phase.stage.replace("_", " ")
    if not phase.is_recovery:
        return rounds + words
    steps = schedule.recovery_of(phase).steps
    done = f"from step {end.log.steps} of {steps}" if end.paused and end.log is not None else f"{steps} steps"
    return f"{rounds}{words}, {done}"


def inputs_of(shared: Shared) -> Inputs:
    """Return what the refits and recoveries of a trial learn from."""
    return Inputs(shared.recovery_images, shared.teacher, shared.streams)


def trial_schedule(plan: Plan, shared: Shared, pauses: tuple[float, ...] = ()) -> Schedule:
    """Return the schedule of a trial; its last recovery pauses after the shares `pauses` of its steps."""
    fraction = cost_metrics(plan.spec)["flops_paper_fraction"]
    recovery, steps = shared.settings.recovery, plan.steps
    if steps is None and shared.settings.search.even_recovery and plan.spec != shared.start_spec:
        steps = even_steps(recovery.steps, shared.costs(plan.spec)["flops_paper_fraction"])
    if steps is not None:
        recovery = recovery.model_copy(update={"steps": steps})
    schedule = schedule_of(
        rounds_to(shared.start_spec, plan.spec, plan.rounds),
        recovery,
        lr=recovery.rate(fraction) if plan.lr is None else plan.lr,
        head_share=plan.head_share,
        order=plan.order,
        rescore=plan.rescore,
        plan=shared.settings.schedule.plan,
    )
    return dataclasses.replace(schedule, pauses=pauses)


@dataclasses.dataclass(frozen=True)
class _Watch:
    """Measures a trial for the study's scheduler."""

    schedule: Schedule
    shared: Shared
    recorder: Recorder
    scheduler: str
    exempt: bool

    def after(self, phase: Phase, model: MedSam, paused: bool) -> Iterator[PhaseResult]:
        """Yield a look at the model if a phase ends, or pauses, at a fidelity."""
        refits = [each for each in self.schedule.phases if each.kind == "refit"]
        name = PART if paused else REFIT if phase in refits[-1:] else None
        if self.scheduler != HALVING or name is None:
            return
        figures = look(model, self.shared)
        self.recorder.history.fidelities |= {f"{name}/{key}": value for key, value in figures.items()}
        self.recorder.meter.mark("evaluation")
        yield PhaseResult(name, {**figures, FIDELITY: float((REFIT, PART).index(name)), EXEMPT: float(self.exempt)})

    def figures(self, end: PhaseEnd) -> dict[str, float]:
        """Return what a phase reports.

        These are the errors of a refit, or the last loss of a recovery. For a scheduler other than halving, metrics,
        costs and the progress join the loss.

        There are no metrics after the last recovery, because the evaluation on all images follows.
        """
        if end.refit is not None:
            return end.refit.figures()
        if end.log is None:
            return {}
        figures = {"loss": end.log.losses[-1]} if end.log.losses else {}
        share = progress(self.schedule, end.state.done)
        if self.scheduler in (NONE, HALVING) or not 0 < share < 100:
            return figures
        measured = look(end.state.running, self.shared)
        self.recorder.meter.mark("evaluation")
        # trials are compared by what they will cost, not by what later rounds and families still cut
        return {**figures, **measured, **self.shared.costs(self.schedule.targets[-1]), PROGRESS: share}


def schedule_of(
    targets: tuple[ModelSpec, ...],
    recovery: RecoveryConfig,
    *,
    lr: float,
    head_share: float,
    order: str,
    rescore: bool,
    plan: str = ROUNDS,
) -> Schedule:
    """Return a schedule with the configured number of recovery steps.

    A refit follows every cut if one is configured. The recovery of the architecture's first family gets the share
    `head_share` of the steps; the other families divide the rest evenly.
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
        warmup=recovery.warmup,
        average=recovery.average,
        loss=recovery.loss,
        complexity=recovery.complexity,
        decoder_rate=recovery.decoder_rate,
        train_decoder=recovery.train_decoder,
        terms=recovery.terms,
    )
    return Schedule(
        targets,
        recovery={
            family.name: dataclasses.replace(common, steps=steps)
            for family, steps in zip((first, *others), (first_steps, *shares), strict=True)
        },
        order=order,
        rescore=rescore,
        plan=plan,
        refit=refit_settings(recovery),
    )


def progress(schedule: Schedule, done: int) -> float:
    """Return the percentage of recovery steps in the first `done` phases."""
    steps = [schedule.recovery_of(phase).steps if phase.is_recovery else 0 for phase in schedule.phases]
    return 100 * sum(steps[:done]) / max(1, sum(steps))
